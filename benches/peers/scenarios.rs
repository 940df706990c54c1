//! The scenarios. Each gives each service a tenant of its own, so that the logins that PostgreSQL rejects can be counted.

use crate::{
    paced::Requests,
    report::{Measure, Report},
    services::{EXAMPLE, Service},
    support::{contenders::turns, load, server::Server},
};
use devstack::{Authority, FaultRule, ScriptedFault, ScriptedManager, Signal, Tenant};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use std::{fs, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

/// The names of the scenarios, for the command line.
pub(crate) const SCENARIOS: [&str; 8] =
    ["rotations", "window", "staged", "wrong_password", "malformed", "take_up", "start", "cost"];

/// The request: a page of 20 notes, and the cursor of the next page.
const LIST: &str = "/v1/notes";

/// A page of one note, where the cost of a request itself shows.
const ONE: &str = "/v1/notes?limit=1";

/// The number of notes in the table.
const NOTES: usize = 100;

/// The number of clients that load a service as much as it can bear.
const CONNECTIONS: usize = 32;

/// The requests to a service in a round of `cost`.
const REQUESTS: usize = 2_000;

/// The rounds of scenarios that take seconds.
const ROUNDS: usize = 15;

/// The rounds of scenarios that take half a minute.
const LONG_ROUNDS: usize = 3;

/// The number of rotations in half a minute.
const ROTATIONS: u32 = 20;

/// The time from one rotation to the next.
const BETWEEN_ROTATIONS: Duration = Duration::from_millis(1_500);

/// The time for which the database has another password than the manager.
const WINDOW: Duration = Duration::from_secs(3);

/// The time for a service to go back to work. If it fails for longer, the table shows this time.
const RECOVERY: Duration = Duration::from_secs(10);

/// The scenarios, and what they have measured.
pub(crate) struct Scenarios {
    pub(crate) services: [Service; 3],
    pub(crate) report: Report,
    rounds: usize,
    long_rounds: usize,
}

/// A service under requests at a fixed rate, in a scenario that the caller writes.
struct Subject<'a> {
    tenant: Tenant,
    server: Server,
    report: &'a mut Report,
    service: usize,
}

impl Scenarios {
    pub(crate) fn new(services: [Service; 3], is_quick: bool) -> Self {
        let [rounds, long_rounds] = if is_quick { [1, 1] } else { [ROUNDS, LONG_ROUNDS] };
        Self { services, report: Report::default(), rounds, long_rounds }
    }

    pub(crate) async fn run(&mut self, scenario: &str) {
        match scenario {
            "start" => self.start().await,
            "take_up" => self.take_up().await,
            "cost" => self.cost().await,
            _ => self.run_under_requests(scenario).await,
        }
    }

    async fn run_under_requests(&mut self, scenario: &str) {
        // Here each round counts, the first one too.
        for (_, service) in turns(self.long_rounds - 1, self.services.len()) {
            let tenant = tenant(scenario).await;
            let server = self.services[service].start(&tenant).await;
            // Opens connections and fills caches.
            load::send(server.address, LIST, CONNECTIONS, Arc::new(500.into()));
            let subject = Subject { tenant, server, report: &mut self.report, service };
            match scenario {
                "rotations" => subject.rotations().await,
                "window" => subject.window().await,
                "staged" => subject.staged().await,
                "wrong_password" => subject.wrong_password().await,
                _ => subject.malformed().await,
            }
        }
    }

    /// Measures the time until the services accept connections. Each answer of the manager takes 50 ms, and none waits for
    /// another one, as at AWS: the emulator would answer one after the other.
    async fn start(&mut self) {
        const SCENARIO: &str = "start with 5 secrets behind 50 ms, with TLS";
        let tenant = tenant("start").await;
        let manager = ScriptedManager::before(tenant.emulator()).expect("a free port");
        manager.script([FaultRule::all(ScriptedFault::Delay(Duration::from_millis(50)))]);
        manager.keep_answers();
        for (round, service) in turns(self.rounds, 3) {
            let (server, time) = self.services[service].start_at(&tenant, &manager.endpoint(), true).await;
            // The first round reads the programs from the disk.
            if round > 0 {
                self.report.record(SCENARIO, Measure::Time, service, milliseconds(time));
                self.report.record(SCENARIO, Measure::Memory, service, resident_memory(&server));
            }
        }
    }

    /// Measures the time from SIGHUP to an answer on the new login, without other requests and among many. The manager's
    /// answers wait for nothing.
    async fn take_up(&mut self) {
        const ALONE: &str = "from SIGHUP to an answer on the new login";
        const AMONG_MANY: &str = "the same among 200 requests per second";
        let tenant = tenant("take_up").await;
        // Each note shows the login that reads it.
        let view = format!(
            "ALTER TABLE notes RENAME TO stored_notes;
             CREATE VIEW notes AS SELECT id, session_user::text AS body, created_at, created_by FROM stored_notes;
             GRANT SELECT ON notes TO {}",
            tenant.access_role()
        );
        let mut admin = tenant.admin().await.expect("a connection");
        sqlx::raw_sql(AssertSqlSafe(view)).execute(&mut admin).await.expect("it is SQL");
        let manager = ScriptedManager::before(tenant.emulator()).expect("a free port");
        manager.keep_answers();
        let mut servers = Vec::new();
        for service in &self.services {
            servers.push(service.start_at(&tenant, &manager.endpoint(), false).await.0);
        }
        let mut username = String::new();
        for scenario in [ALONE, AMONG_MANY] {
            for (turn, (round, service)) in turns(self.rounds, servers.len()).enumerate() {
                if turn % servers.len() == 0 {
                    tenant.rotate_users("database").await.expect("a rotation");
                    manager.renew_answers().await.expect("the emulator answers");
                    username = login(&tenant).await["username"].as_str().expect("a name").to_owned();
                }
                let server = &servers[service];
                let time = if scenario == ALONE {
                    take_up_later(server, &username).await
                } else {
                    Requests::during(server.address, LIST, take_up_later(server, &username)).await.1
                };
                // The first round opens connections and fills caches.
                if round > 0 {
                    self.report.record(scenario, Measure::Time, service, milliseconds(time));
                }
            }
        }
    }

    /// Measures requests per second, the CPU time of a request, and memory.
    async fn cost(&mut self) {
        let tenant = tenant("cost").await;
        let [first, second, third] = &self.services;
        let servers = [first.start(&tenant).await, second.start(&tenant).await, third.start(&tenant).await];
        assert_same_notes(&servers).await;
        for (scenario, path) in [("a page of 1 note", ONE), ("a page of 20 notes", LIST)] {
            for (round, service) in turns(self.rounds, 3) {
                let server = &servers[service];
                let before = server.cpu();
                let answers = load::send(server.address, path, CONNECTIONS, Arc::new(REQUESTS.into()));
                assert_eq!(answers.failed, 0, "a request failed");
                // The first round opens connections and fills caches.
                if round > 0 {
                    let cpu = (server.cpu() - before).as_secs_f64() * 1e6 / REQUESTS as f64;
                    self.report.record(scenario, Measure::CpuTime, service, cpu);
                    self.report.record(scenario, Measure::Rate, service, answers.rate);
                }
            }
        }
        for (service, server) in servers.iter().enumerate() {
            self.report.record("after these requests", Measure::Memory, service, resident_memory(server));
        }
    }
}

impl Subject<'_> {
    /// Rotates the password again and again. Each time, the old one is wrong at once.
    async fn rotations(self) {
        let rotating = async {
            let start = Instant::now();
            for rotation in 0..ROTATIONS {
                sleep_until(start + BETWEEN_ROTATIONS * rotation).await;
                self.tenant.rotate("database").await.expect("a rotation");
                self.reload();
            }
            sleep_until(start + BETWEEN_ROTATIONS * ROTATIONS).await;
        };
        let (requests, ()) = Requests::during(self.server.address, LIST, rotating).await;
        self.record("20 rotations in 30 s", &requests, None);
    }

    /// Gives the role a new password, kills its connections, and tells the manager later. Nobody sends SIGHUP: a service must
    /// see for itself that its login is rejected.
    async fn window(self) {
        let rotating = async {
            sleep(Duration::from_secs(1)).await;
            let (role, password) = (self.tenant.app_role(), devstack::random_password());
            self.tenant.set_password(&role, &password).await.expect("a new password");
            self.tenant.kill_connections(&role).await.expect("it can");
            sleep(WINDOW).await;
            self.put_password(&password).await;
            wait_for_recovery().await
        };
        let (requests, known) = Requests::during(self.server.address, LIST, rotating).await;
        self.record("3 s between database and manager, not staged, all connections killed", &requests, Some(known));
    }

    /// Does the same in the four steps of AWS's rotation functions: the manager has the new password as pending before the
    /// role has it.
    async fn staged(self) {
        let rotating = async {
            sleep(Duration::from_secs(1)).await;
            let rotation = self.tenant.rotation("database");
            rotation.create_pending().await.expect("a pending version");
            rotation.set().await.expect("a new password");
            self.tenant.kill_connections(&self.tenant.app_role()).await.expect("it can");
            sleep(WINDOW).await;
            rotation.test().await.expect("the password is right");
            rotation.finish().await.expect("the version is current");
            wait_for_recovery().await
        };
        let (requests, known) = Requests::during(self.server.address, LIST, rotating).await;
        self.record(
            "3 s between database and manager, staged as AWS does it, all connections killed",
            &requests,
            Some(known),
        );
    }

    /// Stores a password that the role does not have, as somebody does who makes a mistake.
    async fn wrong_password(self) {
        let good = login(&self.tenant).await;
        let failing = async {
            sleep(Duration::from_secs(1)).await;
            self.put_password(&devstack::random_password()).await;
            self.reload();
            sleep(Duration::from_secs(5)).await;
            self.put_password(good["password"].as_str().expect("a password")).await;
            self.reload();
            wait_for_recovery().await
        };
        let (requests, known) = Requests::during(self.server.address, LIST, failing).await;
        self.record("a wrong password at the manager for 5 s", &requests, Some(known));
    }

    /// Rotates the password, and stores signing keys that are none. Then the connections end, as when the database fails
    /// over.
    async fn malformed(self) {
        let signing = self.tenant.value("signing", "AWSCURRENT").await.expect("keys");
        let failing = async {
            sleep(Duration::from_secs(1)).await;
            self.tenant.rotate("database").await.expect("a rotation");
            self.tenant.put("signing", "not base64, and no key").await.expect("the manager stores it");
            self.reload();
            sleep(Duration::from_secs(1)).await;
            self.tenant.kill_connections(&self.tenant.app_role()).await.expect("it can");
            sleep(Duration::from_secs(4)).await;
            self.tenant.put("signing", &signing).await.expect("the manager stores it");
            self.reload();
            wait_for_recovery().await
        };
        let (requests, known) = Requests::during(self.server.address, LIST, failing).await;
        self.record("two new secrets, one malformed for 5 s, all connections killed", &requests, Some(known));
    }

    /// Makes this the current password of the login at the manager.
    async fn put_password(&self, password: &str) {
        let mut login = login(&self.tenant).await;
        login["password"] = json!(password);
        self.tenant.put("database", &login.to_string()).await.expect("the manager stores it");
    }

    /// Records the requests and the rejected logins. `known` is the moment at which the manager has good values.
    fn record(self, scenario: &'static str, requests: &Requests, known: Option<Instant>) {
        let rejected = self.tenant.rejected_logins(&self.tenant.app_role()).expect("the log");
        let Self { report, service, .. } = self;
        report.record(scenario, Measure::Failed, service, requests.failed as f64);
        report.record(scenario, Measure::P99, service, milliseconds(requests.quantile(0.99)));
        report.record(scenario, Measure::Slowest, service, milliseconds(requests.quantile(1.0)));
        if let Some(known) = known {
            report.record(scenario, Measure::Recovery, service, milliseconds(requests.recovery_after(known)));
        }
        report.record(scenario, Measure::RejectedLogins, service, rejected as f64);
    }

    fn reload(&self) {
        reload(&self.server);
    }
}

/// Creates a tenant with five secrets (login, signing keys, API key, certificate, authorities of clients) and with notes.
async fn tenant(label: &str) -> Tenant {
    let tenant = EXAMPLE.migrated(&format!("peers_{label}")).await;
    for (credential, kind) in [("webhook", "api_key"), ("server_tls", "tls_identity")] {
        tenant.put_random(credential, kind).await.expect("the manager stores it");
    }
    tenant.put("client_ca", Authority::new("clients").certificate()).await.expect("the manager stores it");
    let mut admin = tenant.admin().await.expect("a connection");
    for _ in 0..NOTES {
        sqlx::query("INSERT INTO notes (id, body) VALUES ($1, 'A note of some words.')")
            .bind(Uuid::now_v7())
            .execute(&mut admin)
            .await
            .expect("the table is there");
    }
    tenant
}

/// Returns the current login at the manager.
async fn login(tenant: &Tenant) -> Value {
    let login = tenant.value("database", "AWSCURRENT").await.expect("a login");
    serde_json::from_str(&login).expect("JSON")
}

/// Tells a server to fetch its credentials again.
fn reload(server: &Server) {
    devstack::send_signal(server.child.id(), Signal::HUP).expect("it runs");
}

/// Reloads, and waits for an answer on the login of this user. Returns the time.
async fn take_up(server: &Server, username: &str) -> Duration {
    let on_new_login = format!("\"body\":\"{username}\"");
    let (mut connection, start) = (None, Instant::now());
    reload(server);
    loop {
        let body = load::get(&mut connection, server.address, ONE).await.expect("an answer");
        if String::from_utf8_lossy(body).contains(&on_new_login) {
            return start.elapsed();
        }
        assert!(start.elapsed() < RECOVERY, "the new login is not taken up");
    }
}

/// Does the same as [`take_up`] after a moment. Requests begin in it, and nothing is left of the last rotation.
async fn take_up_later(server: &Server, username: &str) -> Duration {
    sleep(Duration::from_millis(300)).await;
    take_up(server, username).await
}

/// Waits as long as a service has to go back to work. Returns the moment at which it began.
async fn wait_for_recovery() -> Instant {
    let known = Instant::now();
    sleep(RECOVERY).await;
    known
}

/// Checks that the services do the same work.
async fn assert_same_notes(servers: &[Server; 3]) {
    let mut pages = Vec::new();
    for server in servers {
        let mut connection = None;
        let body = load::get(&mut connection, server.address, LIST).await.expect("an answer");
        let page: Value = serde_json::from_slice(body).expect("JSON");
        assert!(page["next_cursor"].is_string(), "there is a next page");
        let notes = page["notes"].as_array().expect("a list");
        // The services print the same time with more zeros, or with fewer.
        pages.push(notes.iter().map(|note| [note["id"].clone(), note["body"].clone()]).collect::<Vec<_>>());
    }
    assert_eq!(pages[0].len(), 20, "a page has 20 notes");
    assert!(pages.iter().all(|page| *page == pages[0]), "the services list other notes");
}

/// Returns the resident memory of a server's process, in bytes.
fn resident_memory(server: &Server) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).expect("it runs");
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    kilobytes.and_then(|number| number.parse::<f64>().ok()).expect("the kernel says it") * 1024.0
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
