//! The processes of a fleet, as clients, operators and PostgreSQL see them.

use crate::{
    EXAMPLE, PROGRAM,
    model::{BETWEEN_REQUESTS, Outcome},
    support::load,
};
use devstack::{FaultRule, ScriptedManager, Signal, Stack, Tenant, TokenBucket, free_port, workspace};
use futures_util::future::join_all;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    ops::Range,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout},
};

/// The interval at which replicas are asked if they are ready, or which version they hold.
const POLL: Duration = Duration::from_millis(50);

/// The interval at which the open connections are counted.
const COUNT: Duration = Duration::from_millis(20);

/// The longest wait for a replica.
const PATIENCE: Duration = Duration::from_secs(120);

/// The longest wait of a client for an answer.
const ANSWER: Duration = Duration::from_secs(15);

/// A fleet: processes with one worker thread and a pool of two connections each. They have a database, and a manager with a
/// quota, of their own.
pub(crate) struct Fleet {
    tenant: Tenant,
    manager: ScriptedManager,
    replicas: Vec<Replica>,
    settings: Vec<(&'static str, String)>,
}

struct Replica {
    process: Mutex<Child>,
    public: SocketAddr,
    admin: SocketAddr,
}

impl Replica {
    fn process(&self) -> MutexGuard<'_, Child> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_ended(&self) -> bool {
        self.process().try_wait().expect("it is our child").is_some()
    }

    /// Gets a page of the admin listener until its text meets a condition. Returns the time since then, or `None` if the
    /// process ends before that.
    async fn wait_for(&self, path: &str, since: Instant, condition: impl Fn(&[u8]) -> bool) -> Option<Duration> {
        let mut connection = None;
        while since.elapsed() < PATIENCE && !self.has_ended() {
            let asked = timeout(ANSWER, load::get(&mut connection, self.admin, path)).await;
            let is_met = asked.ok().and_then(Result::ok).map(&condition);
            match is_met {
                Some(true) => return Some(since.elapsed()),
                Some(false) => (),
                None => connection = None,
            }
            sleep(POLL).await;
        }
        None
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let mut process = self.process();
        let _ = process.kill();
        let _ = process.wait();
    }
}

/// The counts at the beginning of a scenario.
pub(crate) struct Counting {
    bucket: Arc<TokenBucket>,
    log_ins: usize,
    rejected: usize,
    ended: Arc<AtomicBool>,
    connections: JoinHandle<usize>,
}

impl Fleet {
    /// Prepares a fleet. No process runs yet.
    pub(crate) async fn prepare(settings: [(&'static str, &str); 2]) -> Self {
        let tenant = EXAMPLE.migrated("fleet").await;
        let manager = ScriptedManager::before(tenant.emulator()).expect("a free port");
        manager.keep_answers();
        let settings = settings.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
        Self { tenant, manager, replicas: Vec::new(), settings }
    }

    /// Starts this many processes at once. Returns the times until they were ready; one that ended has none.
    pub(crate) async fn start(&mut self, replicas: usize) -> Vec<Duration> {
        let mut ports = BTreeSet::new();
        while ports.len() < 2 * replicas {
            ports.insert(free_port());
        }
        let addresses: Vec<SocketAddr> = ports.into_iter().map(|port| ([127, 0, 0, 1], port).into()).collect();
        let since = Instant::now();
        for pair in addresses.chunks(2) {
            let (public, admin) = (pair[0], pair[1]);
            let process = Mutex::new(self.command(public, admin).spawn().expect("the program is there"));
            self.replicas.push(Replica { process, public, admin });
        }
        let waits = self.replicas.iter().map(|replica| replica.wait_for("/readyz", since, |_| true));
        join_all(waits).await.into_iter().flatten().collect()
    }

    /// Kills these processes, and starts others in their places at once.
    pub(crate) fn replace(&self, replicas: Range<usize>) {
        for replica in &self.replicas[replicas] {
            let mut process = replica.process();
            process.kill().and_then(|()| process.wait()).expect("it is our child");
            *process = self.command(replica.public, replica.admin).spawn().expect("the program is there");
        }
    }

    /// Returns the number of replicas.
    pub(crate) fn replicas(&self) -> usize {
        self.replicas.len()
    }

    fn command(&self, public: SocketAddr, admin: SocketAddr) -> Command {
        let mut command = Command::new(PROGRAM);
        command.env_clear().envs(self.tenant.env()).envs(self.settings.iter().cloned()).envs([
            ("TOKIO_WORKER_THREADS", "1".into()),
            ("APP_CONFIG_DIR", workspace().join("config").display().to_string()),
            ("APP_SERVER__LISTEN", public.to_string()),
            ("APP_ADMIN__LISTEN", admin.to_string()),
            ("APP_SERVER__LINGER", "0s".into()),
            ("APP_DATABASE__MAX_CONNECTIONS", "2".into()),
            ("AWS_ENDPOINT_URL", self.manager.endpoint()),
        ]);
        command.stdout(Stdio::null());
        command
    }

    /// Waits until every replica holds this version of the login. Returns the times since then; one that ends has none.
    pub(crate) async fn hold(&self, version: &str, since: Instant) -> Vec<Duration> {
        let holds = |status: &[u8]| version_of_login(status).is_some_and(|held| held == version);
        let waits = self.replicas.iter().map(|replica| replica.wait_for("/status", since, holds));
        join_all(waits).await.into_iter().flatten().collect()
    }

    /// Ends all connections of the fleet's role.
    pub(crate) async fn kill_connections(&self) {
        self.tenant.kill_connections(&self.tenant.app_role()).await.expect("it can");
    }

    /// Sends SIGHUP to these replicas.
    pub(crate) fn signal(&self, replicas: Range<usize>) {
        for replica in &self.replicas[replicas] {
            devstack::send_signal(replica.process().id(), Signal::HUP).expect("it runs");
        }
    }

    /// Runs `reload --fleet` over all replicas. Returns its exit code, and the last line that it prints.
    pub(crate) async fn reload_all(&self) -> (Option<i32>, String) {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut command = tokio::process::Command::from(self.command(nowhere, nowhere));
        command.args(["reload", "--fleet"]).args(self.replicas.iter().map(|replica| replica.admin.to_string()));
        command.args(["--expect", &self.replicas.len().to_string()]);
        let output = command.stdout(Stdio::piped()).output().await.expect("the program is there");
        let printed = String::from_utf8_lossy(&output.stdout);
        (output.status.code(), printed.lines().next_back().unwrap_or_default().to_owned())
    }

    /// Gives the role of the fleet another password. Returns it.
    pub(crate) async fn set_password(&self) -> String {
        let password = devstack::random_password();
        self.tenant.set_password(&self.tenant.app_role(), &password).await.expect("a new password");
        password
    }

    /// Makes this password the current one at the manager. Returns its version.
    pub(crate) async fn put_password(&self, password: &str) -> String {
        let login = self.tenant.value("database", "AWSCURRENT").await.expect("a login");
        let mut login: Value = serde_json::from_str(&login).expect("JSON");
        login["password"] = password.into();
        let version = self.tenant.put("database", &login.to_string()).await.expect("the manager stores it");
        self.manager.keep_answers();
        version
    }

    /// Sends a request to each of these replicas now and again, while a task runs. Returns the number of those that failed.
    pub(crate) async fn with_requests<T>(&self, replicas: Range<usize>, task: impl Future<Output = T>) -> (usize, T) {
        let ended = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for replica in &self.replicas[replicas] {
            clients.spawn(send_requests(replica.public, ended.clone()));
        }
        let output = task.await;
        ended.store(true, Ordering::Relaxed);
        (clients.join_all().await.into_iter().sum(), output)
    }

    /// Gives the manager this quota, and begins to count.
    pub(crate) async fn begin(&self, quota: Option<u32>) -> Counting {
        let bucket = Arc::new(quota.map_or_else(TokenBucket::unlimited, TokenBucket::per_second));
        self.manager.script([FaultRule::over(bucket.clone())]);
        let ended = Arc::new(AtomicBool::new(false));
        let (role, has_ended) = (self.tenant.app_role(), ended.clone());
        let mut admin = self.tenant.admin().await.expect("a connection");
        let connections = tokio::spawn(async move {
            let mut most = 0;
            while !has_ended.load(Ordering::Relaxed) {
                let counted =
                    sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE usename = $1").bind(&role);
                let count: i64 = counted.fetch_one(&mut admin).await.expect("a count");
                most = most.max(count as usize);
                sleep(COUNT).await;
            }
            most
        });
        let (log_ins, rejected) = self.log_ins().await;
        Counting { bucket, log_ins, rejected, ended, connections }
    }

    /// Ends the counting, and returns the outcome. `times` are those of the replicas that made it.
    pub(crate) async fn end(&self, counting: Counting, times: &[Duration]) -> (Outcome, Duration) {
        let Counting { bucket, log_ins, rejected, ended, connections } = counting;
        ended.store(true, Ordering::Relaxed);
        let connections = connections.await.expect("it counts until it is told to end");
        let (all_log_ins, all_rejected) = self.log_ins().await;
        let outcome = Outcome {
            failed: self.replicas.len() - times.len(),
            first: times.iter().min().copied().unwrap_or_default(),
            last: times.iter().max().copied().unwrap_or_default(),
            calls: bucket.requests(),
            throttled: bucket.throttled(),
            busiest_second: bucket.busiest_second(),
            log_ins: all_log_ins - log_ins,
            rejected: all_rejected - rejected,
            connections,
        };
        (outcome, bucket.span())
    }

    /// Returns the log-ins of the role that PostgreSQL accepted and rejected so far, by its log.
    async fn log_ins(&self) -> (usize, usize) {
        let role = self.tenant.app_role();
        let log = fs::read_to_string(&Stack::shared().await.postgres().log).expect("PostgreSQL's log");
        let accepted = format!("connection authorized: user={role} ");
        let accepted = log.lines().filter(|line| line.contains(&accepted)).count();
        (accepted, self.tenant.rejected_logins(&role).expect("the log"))
    }
}

/// Sends requests until it has `ended`. Returns the number of those that failed.
async fn send_requests(address: SocketAddr, ended: Arc<AtomicBool>) -> usize {
    sleep(BETWEEN_REQUESTS.mul_f64(fastrand::f64())).await;
    let (mut connection, mut failed) = (None, 0);
    while !ended.load(Ordering::Relaxed) {
        let answer = timeout(ANSWER, load::get(&mut connection, address, "/v1/notes?limit=1")).await;
        if !matches!(answer, Ok(Ok(_))) {
            (connection, failed) = (None, failed + 1);
        }
        sleep(BETWEEN_REQUESTS).await;
    }
    failed
}

/// Returns the version of the login that a status names.
fn version_of_login(status: &[u8]) -> Option<String> {
    let status: Value = serde_json::from_slice(status).ok()?;
    let login = status["credentials"].as_array()?.iter().find(|credential| credential["name"] == "database")?;
    Some(login["version"].as_str()?.to_owned())
}
