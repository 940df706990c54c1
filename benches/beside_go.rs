//! The example beside the same service in Go (`benchmarks/go`): its list of notes, a rotation, and a start.
//!
//! `cargo bench --bench beside_go` runs every part in turn. `cargo bench --bench beside_go -- start` runs one. Both
//! services have one worker thread and ten connections, and use the same PostgreSQL and the same secrets manager. They
//! take turns.

// The futures of the measurements have those of the stack in them.
#![recursion_limit = "256"]

mod support {
    pub(crate) mod load;
    pub(crate) mod server;
    pub(crate) mod statistics;
}

use devstack::{Authority, Binary, FaultRule, ScriptedFault, ScriptedManager, Signal, Tenant, free_port};
use serde_json::Value;
use sqlx::AssertSqlSafe;
use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use support::{
    load::{self, Answers},
    server::Server,
    statistics::Rounds,
};
use tokio::time::sleep;
use uuid::Uuid;

const PROGRAM: &str = env!(concat!("CARGO_BIN_EXE_", env!("CARGO_PKG_NAME")));
static SERVICE: Binary = Binary::at(PROGRAM);

/// The request: a page of 20 notes, and the cursor of the next page.
const LIST: &str = "/v1/notes";

/// The number of notes in the table.
const NOTES: usize = 100;

/// The number of connections of the client.
const CONNECTIONS: usize = 32;

/// The rounds of each comparison but that of rotations.
const ROUNDS: usize = 41;

/// The requests to a server in a round.
const REQUESTS: usize = 2_500;

/// A measure of both services.
type Measures = [Rounds; 2];

/// The number of rotations while requests are sent.
const ROTATIONS: usize = 20;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("skipped: this is a benchmark; run `cargo bench --bench beside_go`");
        return;
    }
    let go = match build_go_service() {
        Ok(path) => path,
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    let services = [Service::Vestibule, Service::Go(go)];
    let parts: Vec<&str> = arguments.iter().map(String::as_str).filter(|part| !part.starts_with('-')).collect();
    let is_wanted = |part| parts.is_empty() || parts.contains(&part);
    if is_wanted("start") {
        compare_starts(&services).await;
    }
    if is_wanted("take_up") {
        compare_take_up(&services).await;
    }
    if is_wanted("throughput") {
        compare_throughput(&services).await;
    }
    if is_wanted("rotations") {
        compare_rotations(&services).await;
    }
}

/// Builds the service in Go. Returns its path, or the reason why there is none.
fn build_go_service() -> Result<PathBuf, String> {
    let source = devstack::workspace().join("benchmarks/go");
    let program = devstack::home().map_err(|error| error.report())?.join("beside_go");
    let built = Command::new("go").args(["build", "-o"]).arg(&program).arg(".").current_dir(source).status();
    match built {
        Ok(status) if status.success() => Ok(program),
        Ok(status) => Err(format!("`go build` ended with {status}")),
        Err(error) => Err(format!("`go` does not run ({error}); install Go from https://go.dev/dl")),
    }
}

/// A service of the comparison.
enum Service {
    Vestibule,
    Go(PathBuf),
}

impl Service {
    fn name(&self) -> &'static str {
        match self {
            Self::Vestibule => "vestibule",
            Self::Go(_) => "go",
        }
    }

    /// Starts the service. Returns it, and the time until it accepts connections.
    async fn start(&self, tenant: &Tenant, manager: &str, tls: bool) -> (Server, Duration) {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (program, variables) = match self {
            Self::Vestibule => (Path::new(PROGRAM), our_variables(tenant, address, tls)),
            Self::Go(program) => (program.as_path(), go_variables(tenant, address, tls)),
        };
        let mut command = Command::new(program);
        command.env_clear().envs(tenant.env()).envs(variables).env("AWS_ENDPOINT_URL", manager);
        Server::start(command, address).await
    }

    /// Starts the service without TLS.
    async fn start_plain(&self, tenant: &Tenant) -> Server {
        self.start(tenant, &tenant.emulator().endpoint, false).await.0
    }
}

fn our_variables(tenant: &Tenant, address: SocketAddr, tls: bool) -> [(&'static str, String); 7] {
    [
        ("TOKIO_WORKER_THREADS", "1".into()),
        ("APP_CONFIG_DIR", devstack::workspace().join("config").display().to_string()),
        ("APP_SERVER__LISTEN", address.to_string()),
        ("APP_ADMIN__LISTEN", "127.0.0.1:0".into()),
        ("APP_SERVER__TLS", tls.to_string()),
        ("APP_SERVER__CLIENT_CA", if tls { tenant.id("client_ca") } else { String::new() }),
        ("APP_SECRETS__IDS__WEBHOOK", tenant.id("webhook")),
    ]
}

fn go_variables(tenant: &Tenant, address: SocketAddr, tls: bool) -> [(&'static str, String); 7] {
    let database = tenant.database();
    [
        ("GOMAXPROCS", "1".into()),
        ("LISTEN", address.to_string()),
        ("DATABASE_HOST", database.host),
        ("DATABASE_PORT", database.port.to_string()),
        ("DATABASE_NAME", database.name),
        ("SECRETS_PREFIX", tenant.prefix().into()),
        ("TLS", tls.to_string()),
    ]
}

/// Creates a tenant with five secrets (login, signing keys, API key, certificate, authorities of clients) and with notes.
async fn tenant(label: &str) -> Tenant {
    let tenant = SERVICE.migrated(label).await;
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

/// Compares the times until the services accept connections. Each answer of the manager takes 50 ms longer.
async fn compare_starts(services: &[Service; 2]) {
    let tenant = tenant("go_start").await;
    let manager = ScriptedManager::before(tenant.emulator()).expect("a free port");
    manager.script([FaultRule::all(ScriptedFault::Delay(Duration::from_millis(50)))]);
    let mut times = Measures::default();
    for round in 0..=ROUNDS {
        for index in in_turn(round) {
            let (_server, time) = services[index].start(&tenant, &manager.endpoint(), true).await;
            // The first round reads the programs from the disk.
            if round > 0 {
                times[index].0.push(milliseconds(time));
            }
        }
    }
    print_comparison("a start with 5 secrets behind 50 ms, in ms", services, &times);
}

/// Compares the times from SIGHUP to an answer on the new login, without other requests and among many.
async fn compare_take_up(services: &[Service; 2]) {
    let tenant = tenant("go_take_up").await;
    // Each note shows the login that reads it.
    let view = format!(
        "ALTER TABLE notes RENAME TO stored_notes;
         CREATE VIEW notes AS SELECT id, session_user::text AS body, created_at, created_by FROM stored_notes;
         GRANT SELECT ON notes TO {}",
        tenant.access_role()
    );
    let mut admin = tenant.admin().await.expect("a connection");
    sqlx::raw_sql(AssertSqlSafe(view)).execute(&mut admin).await.expect("it is SQL");
    let servers = [services[0].start_plain(&tenant).await, services[1].start_plain(&tenant).await];
    let [mut alone, mut among_many]: [Measures; 2] = Default::default();
    for turn in 0..=2 * ROUNDS + 1 {
        let (round, is_alone) = (turn / 2, turn % 2 == 0);
        tenant.rotate_users("database").await.expect("a rotation");
        let login = tenant.value("database", "AWSCURRENT").await.expect("a login");
        let login: Value = serde_json::from_str(&login).expect("JSON");
        for index in in_turn(round) {
            let server = &servers[index];
            let (time, times) = if is_alone {
                (take_up(server, &login).await, &mut alone[index])
            } else {
                (take_up_under_load(server, &login).await, &mut among_many[index])
            };
            if round > 0 {
                times.0.push(milliseconds(time));
            }
        }
    }
    print_comparison("from SIGHUP to an answer on the new login, in ms", services, &alone);
    print_comparison("the same under load, in ms", services, &among_many);
}

/// Reloads, and waits for an answer on this login. Returns the time.
async fn take_up(server: &Server, login: &Value) -> Duration {
    let on_new_login = format!("\"body\":{}", login["username"]);
    let (mut connection, start) = (None, Instant::now());
    reload(server);
    loop {
        let body = load::get(&mut connection, server.address, "/v1/notes?limit=1").await.expect("an answer");
        if String::from_utf8_lossy(body).contains(&on_new_login) {
            return start.elapsed();
        }
        assert!(start.elapsed() < Duration::from_secs(10), "the new login is not taken up");
    }
}

/// Does the same as [`take_up`] while many requests are sent.
async fn take_up_under_load(server: &Server, login: &Value) -> Duration {
    let mut time = Duration::ZERO;
    let taking_up = async {
        sleep(Duration::from_millis(300)).await;
        time = take_up(server, login).await;
    };
    with_load(server, taking_up).await;
    time
}

/// Compares requests per second and the CPU time of a request: for one note, and for a page of 20.
async fn compare_throughput(services: &[Service; 2]) {
    let tenant = tenant("go_throughput").await;
    let servers = [services[0].start_plain(&tenant).await, services[1].start_plain(&tenant).await];
    for path in ["/v1/notes?limit=1", LIST] {
        let [mut rates, mut costs]: [Measures; 2] = Default::default();
        for round in 0..=ROUNDS {
            for index in in_turn(round) {
                let (server, before) = (&servers[index], servers[index].cpu());
                let answers = load::send(server.address, path, CONNECTIONS, Arc::new(REQUESTS.into()));
                assert_eq!(answers.failed, 0, "a request failed");
                // The first round opens connections and fills caches.
                if round > 0 {
                    rates[index].0.push(answers.rate);
                    costs[index].0.push((server.cpu() - before).as_secs_f64() * 1e6 / REQUESTS as f64);
                }
            }
        }
        print_comparison(&format!("GET {path}, in requests per second"), services, &rates);
        print_comparison(&format!("GET {path}, CPU time of a request in us"), services, &costs);
    }
}

/// Compares the times of requests while nothing happens, and while the login is rotated. Measures one rotation at a time,
/// so that the services take turns.
async fn compare_rotations(services: &[Service; 2]) {
    let tenant = tenant("go_rotations").await;
    let servers = [services[0].start_plain(&tenant).await, services[1].start_plain(&tenant).await];
    let [mut calm, mut each_second, mut growth, mut slowest]: [Measures; 4] = Default::default();
    let mut failed = [0; 2];
    for round in 0..ROTATIONS {
        for index in in_turn(round) {
            let server = &servers[index];
            // Takes up the rotations of the other one's turn, and opens connections.
            reload(server);
            sleep(Duration::from_millis(500)).await;
            load::send(server.address, LIST, CONNECTIONS, Arc::new(REQUESTS.into()));
            let second = Duration::from_secs(1);
            let quiet = with_load(server, sleep(second)).await;
            let rotated = with_load(server, rotate(&tenant, server, second)).await;
            let rotated_later = with_load(server, rotate(&tenant, server, second * 3 / 2)).await;
            let p99 = [&quiet, &rotated].map(|answers| milliseconds(quantile(answers, 0.99)));
            calm[index].0.push(p99[0]);
            each_second[index].0.push(p99[1]);
            growth[index].0.push(p99[1] / p99[0]);
            slowest[index].0.push(milliseconds(quantile(&rotated_later, 1.0)));
            failed[index] += quiet.failed + rotated.failed + rotated_later.failed;
        }
    }
    print_comparison("p99 without rotations, in ms", services, &calm);
    print_comparison("p99 with a rotation each second, in ms", services, &each_second);
    print_comparison("growth of the p99 by the rotations", services, &growth);
    print_comparison("slowest request of a rotation, one in 1.5 s, in ms", services, &slowest);
    let [ours, theirs] = slowest.map(|times| times.0.into_iter().fold(0.0, f64::max));
    println!("slowest request of {ROTATIONS} rotations in 30 s: {ours:.0} ms, and {theirs:.0} ms in Go");
    println!("requests that failed: {}, and {} in Go", failed[0], failed[1]);
}

/// Sends requests while a task runs.
async fn with_load(server: &Server, task: impl Future<Output = ()>) -> Answers {
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    let (address, limit) = (server.address, left.clone());
    let client = std::thread::spawn(move || load::send(address, LIST, CONNECTIONS, limit));
    task.await;
    left.store(0, Ordering::Relaxed);
    client.join().expect("the client does not panic")
}

/// Gives the login a new password, tells the server, and waits until this much time has passed in all.
async fn rotate(tenant: &Tenant, server: &Server, time: Duration) {
    let end = sleep(time);
    tenant.rotate("database").await.expect("a rotation");
    reload(server);
    end.await;
}

/// Tells a server to fetch its credentials again.
fn reload(server: &Server) {
    devstack::send_signal(server.child.id(), Signal::HUP).expect("it runs");
}

/// Returns the time that this share of the requests did not exceed.
fn quantile(answers: &Answers, share: f64) -> Duration {
    answers.times[((answers.times.len() - 1) as f64 * share).round() as usize]
}

/// Returns the indexes of the services. In every other round, the second one begins.
fn in_turn(round: usize) -> [usize; 2] {
    if round.is_multiple_of(2) { [0, 1] } else { [1, 0] }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn print_comparison(what: &str, services: &[Service; 2], [ours, theirs]: &Measures) {
    println!("{what}: median [quartiles]");
    println!("  {:<10} {}", services[0].name(), ours.summary());
    println!("  {:<10} {}", services[1].name(), theirs.summary());
    println!("  {:<10} {}", "ratio", ours.ratio(theirs).summary());
}
