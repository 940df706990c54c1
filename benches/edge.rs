//! The cost of the edge: of a service's listener, door, frame and log, beside a bare server of the same libraries.
//!
//! `cargo bench --bench edge` runs every part in turn, and `cargo bench --bench edge -- hello` only one:
//!
//! - `hello`: a request with a short answer in JSON, to servers with one worker thread. Prints CPU times, requests per
//!   second and, if there is valgrind, instructions; `instructions` prints only these;
//! - `handshakes`: the CPU time of a TLS handshake, without a session to resume;
//! - `idle`: the memory of a connection that has had one request, and waits for the next;
//! - `rotations`: the p99 of requests while a credential is rotated each second, beside that without rotations.
//!
//! Compare the ratios. The contenders take turns, so that a busy machine slows all of them.
//!
//! This program starts itself as each of the servers: see [`main`].

// The futures of the measurements have those of the stack in them.
#![recursion_limit = "256"]

mod support {
    pub(crate) mod callgrind;
    pub(crate) mod contenders;
    pub(crate) mod load;
    pub(crate) mod server;
    pub(crate) mod statistics;
}

use axum::{Json, Router, extract::State, routing::get};
use devstack::{Authority, Binary, Signal, Tenant, free_port};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde::Serialize;
use std::{
    env, fs,
    net::SocketAddr,
    path::Path,
    process::{Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use support::{
    callgrind::{self, CALLGRIND, NO_BLOCK_COPIES},
    contenders::{print_ratios, turns},
    load::{self, Answers},
    server::Server,
    statistics::Rounds,
};
use tokio::{
    io::AsyncReadExt,
    net::TcpListener,
    net::TcpStream,
    runtime,
    time::{Sleep, sleep},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use uuid::Uuid;
use vestibule::{Application, Build, BuildError, Credential, OpenApiRouter, Package, SecretSet, credentials::ApiKey};

const NOTES: &str = env!(concat!("CARGO_BIN_EXE_", env!("CARGO_PKG_NAME")));
static SERVICE: Binary = Binary::at(NOTES);

/// The contenders. The others are compared with the last one.
const CONTENDERS: [&str; 2] = ["vestibule", "bare"];

/// The numbers of requests in flight.
const IN_FLIGHT: [usize; 2] = [8, 32];

const ROUNDS: usize = 41;

/// The requests of a contender in a round.
const REQUESTS: usize = 10_000;

/// The requests of two runs under valgrind. The difference of their instructions has no start in it.
const COUNTED_REQUESTS: [usize; 2] = [1_000, 6_000];

/// The TLS handshakes of a contender in a round.
const HANDSHAKES: usize = 250;

const IDLE_CONNECTIONS: usize = 10_000;

/// The number of seconds of each kind: with a rotation, or without.
const ROTATIONS: usize = 15;

/// The variable with the certificate and the key of a bare server with TLS, as the secrets manager has them.
const IDENTITY: &str = "BENCH_IDENTITY";

/// The variable with the address of a bare server.
const LISTEN: &str = "APP_SERVER__LISTEN";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = || runtime::Runtime::new().expect("a runtime");
    match arguments[..] {
        // The command line of every service.
        ["serve"] => return vestibule::main::<HelloService>(),
        ["bare"] => runtime().block_on(serve_bare()),
        ["bare", "tls"] => runtime().block_on(serve_bare_tls()),
        _ if arguments.contains(&"--bench") => {
            let parts = arguments.into_iter().filter(|part| !part.starts_with('-')).collect();
            runtime().block_on(measure(parts));
        }
        _ => println!("skipped: this is a benchmark; run `cargo bench --bench edge`"),
    }
    ExitCode::SUCCESS
}

/// A service of one route. It holds two API keys, which the log must not show.
struct HelloService;

#[derive(SecretSet)]
#[expect(dead_code, reason = "the log looks for them, and nothing else uses them")]
struct Secrets {
    payment: Credential<ApiKey>,
    webhook: Credential<ApiKey>,
}

#[derive(Serialize)]
struct Hello {
    hello: &'static str,
}

impl Application for HelloService {
    const PACKAGE: Package = Package::new("hello", "0");
    type Settings = ();
    type Secrets = Secrets;

    async fn build(_: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self)
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new().route("/hello", get(hello))
    }
}

async fn hello(_: State<Arc<HelloService>>) -> Json<Hello> {
    Json(Hello { hello: "world" })
}

/// Serves the route as axum alone does.
async fn serve_bare() {
    let router = Router::new().route("/hello", get(hello)).with_state(Arc::new(HelloService));
    axum::serve(listener().await, router).await.expect("it accepts");
}

/// Does TLS handshakes as rustls alone does.
async fn serve_bare_tls() {
    #[expect(clippy::disallowed_methods, reason = "only a service has a configuration")]
    let identity = env::var(IDENTITY).expect("the benchmark sets it");
    let identity: serde_json::Value = serde_json::from_str(&identity).expect("JSON");
    let pem = |field: &str| identity[field].as_str().expect("an identity has it").as_bytes().to_vec();
    let chain = CertificateDer::pem_slice_iter(&pem("certificate")).collect::<Result<_, _>>().expect("certificates");
    let key = PrivateKeyDer::from_pem_slice(&pem("private_key")).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("the key is the certificate's");
    let (listener, acceptor) = (listener().await, TlsAcceptor::from(Arc::new(config)));
    loop {
        let (stream, _) = listener.accept().await.expect("it accepts");
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.read(&mut [0]).await;
            }
        });
    }
}

async fn listener() -> TcpListener {
    #[expect(clippy::disallowed_methods, reason = "only a service has a configuration")]
    let address = env::var(LISTEN).expect("the benchmark sets it");
    TcpListener::bind(address).await.expect("a free port")
}

async fn measure(parts: Vec<&str>) {
    let is_wanted = |part| parts.is_empty() || parts.contains(&part);
    let bench = Bench::prepare().await;
    if is_wanted("hello") {
        for in_flight in IN_FLIGHT {
            bench.time_requests(in_flight).await;
        }
    }
    if (is_wanted("hello") || is_wanted("instructions")) && callgrind::is_there() {
        for in_flight in IN_FLIGHT {
            bench.count_instructions(in_flight).await;
        }
    }
    if is_wanted("handshakes") {
        bench.time_handshakes().await;
    }
    if is_wanted("idle") {
        bench.weigh_idle_connections().await;
    }
    if is_wanted("rotations") {
        bench.rotate_each_second().await;
    }
}

/// The secrets of the services, and a database with a note.
struct Bench {
    tenant: Tenant,
    /// The path of the note.
    note: String,
}

impl Bench {
    async fn prepare() -> Self {
        let tenant = SERVICE.migrated("bench_edge").await;
        for (credential, kind) in [("payment", "api_key"), ("webhook", "api_key"), ("server_tls", "tls_identity")] {
            tenant.put_random(credential, kind).await.expect("the manager stores it");
        }
        let id = Uuid::now_v7();
        let mut admin = tenant.admin().await.expect("a connection");
        let insert = "INSERT INTO notes (id, body) VALUES ($1, 'A note of some words.')";
        sqlx::query(insert).bind(id).execute(&mut admin).await.expect("the table is there");
        Self { tenant, note: format!("/v1/notes/{id}") }
    }

    /// Starts the server with one route of a contender, perhaps under another program.
    async fn hello(&self, contender: &str, under: &[&str]) -> Server {
        let this = env::current_exe().expect("this program has a path");
        let command = if contender == CONTENDERS[0] { "serve" } else { "bare" };
        self.start(&[under, &[&this.to_string_lossy(), command]].concat(), false).await
    }

    /// Starts a server that answers TLS handshakes.
    async fn tls(&self, contender: &str) -> Server {
        let this = env::current_exe().expect("this program has a path");
        let this = this.to_string_lossy();
        let words = if contender == CONTENDERS[0] { vec![&*this, "serve"] } else { vec![&*this, "bare", "tls"] };
        self.start(&words, true).await
    }

    /// Starts a server with one worker thread.
    async fn start(&self, words: &[&str], tls: bool) -> Server {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        // The configuration of the notes has settings that other services do not know.
        let config = if words == [NOTES] { "config" } else { "vestibule/examples/two_databases/config" };
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .envs(self.tenant.env())
            .envs([NO_BLOCK_COPIES])
            .env(IDENTITY, self.tenant.value("server_tls", "AWSCURRENT").await.expect("it is there"))
            .env("TOKIO_WORKER_THREADS", "1")
            .env("APP_CONFIG_DIR", devstack::workspace().join(config))
            .env(LISTEN, address.to_string())
            .env("APP_SERVER__TLS", tls.to_string())
            .env("APP_CONNECTIONS__MAX_OPEN", (2 * IDLE_CONNECTIONS).to_string())
            .env("APP_ADMIN__LISTEN", "127.0.0.1:0")
            .env("APP_SERVER__LINGER", "0s");
        Server::start(command, address).await.0
    }

    async fn time_requests(&self, in_flight: usize) {
        let servers = [self.hello(CONTENDERS[0], &[]).await, self.hello(CONTENDERS[1], &[]).await];
        let (mut times, mut rates) = (CONTENDERS.map(|_| Rounds::default()), CONTENDERS.map(|_| Rounds::default()));
        for (round, index) in turns(ROUNDS, CONTENDERS.len()) {
            let before = servers[index].cpu();
            let answers = send(&servers[index], in_flight, REQUESTS);
            if round > 0 {
                times[index].0.push(microseconds(servers[index].cpu() - before) / REQUESTS as f64);
                rates[index].0.push(answers.rate);
            }
        }
        print_ratios(&CONTENDERS, &format!("hello, {in_flight} in flight: CPU time in us"), &times);
        print_ratios(&CONTENDERS, &format!("hello, {in_flight} in flight: number in a second"), &rates);
    }

    async fn count_instructions(&self, in_flight: usize) {
        let mut counts = CONTENDERS.map(|_| Rounds::default());
        for (contender, count) in CONTENDERS.into_iter().zip(&mut counts) {
            let mut totals = [0.0; 2];
            for (requests, total) in COUNTED_REQUESTS.into_iter().zip(&mut totals) {
                let server = self.hello(contender, &CALLGRIND).await;
                send(&server, in_flight, requests);
                *total = callgrind::instructions_of(server);
            }
            count.0.push((totals[1] - totals[0]) / (COUNTED_REQUESTS[1] - COUNTED_REQUESTS[0]) as f64);
        }
        print_ratios(&CONTENDERS, &format!("hello, {in_flight} in flight: instructions"), &counts);
    }

    async fn time_handshakes(&self) {
        let servers = [self.tls(CONTENDERS[0]).await, self.tls(CONTENDERS[1]).await];
        let connector = TlsConnector::from(Arc::new(tls_client(self.tenant.authority())));
        let mut times = CONTENDERS.map(|_| Rounds::default());
        for (round, index) in turns(ROUNDS, CONTENDERS.len()) {
            let before = servers[index].cpu();
            for _ in 0..HANDSHAKES {
                let stream = TcpStream::connect(servers[index].address).await.expect("it accepts");
                let host = ServerName::try_from("localhost").expect("a name");
                connector.connect(host, stream).await.expect("a handshake");
            }
            if round > 0 {
                times[index].0.push(microseconds(servers[index].cpu() - before) / HANDSHAKES as f64);
            }
        }
        print_ratios(&CONTENDERS, "TLS handshake: CPU time in us", &times);
    }

    async fn weigh_idle_connections(&self) {
        let mut weights = CONTENDERS.map(|_| Rounds::default());
        for (contender, weight) in CONTENDERS.into_iter().zip(&mut weights) {
            let server = self.hello(contender, &[]).await;
            send(&server, IN_FLIGHT[1], REQUESTS);
            let before = memory(&server);
            let mut connections = Vec::new();
            for _ in 0..IDLE_CONNECTIONS {
                let mut connection = None;
                load::get(&mut connection, server.address, "/hello").await.expect("an answer");
                connections.push(connection);
            }
            weight.0.push((memory(&server) - before) / IDLE_CONNECTIONS as f64);
        }
        print_ratios(&CONTENDERS, &format!("{IDLE_CONNECTIONS} idle connections: bytes of each"), &weights);
    }

    /// Compares the p99 with a rotation each second with that without, for a route of the framework and one of the database.
    /// To rotate a credential that the service does not hold costs the machine the same, and the service nothing.
    async fn rotate_each_second(&self) {
        const SECONDS: [&str; 3] = ["a rotation", "another's", "none"];
        let this = env::current_exe().expect("this program has a path");
        for (words, path, credentials) in [
            (&[&*this.to_string_lossy(), "serve"][..], "/hello", ["payment", "unknown"]),
            (&[NOTES], self.note.as_str(), ["database", "migrator"]),
        ] {
            let server = self.start(words, false).await;
            let mut p99 = SECONDS.map(|_| Rounds::default());
            for (round, index) in turns(ROTATIONS, SECONDS.len()) {
                let end = sleep(Duration::from_secs(1));
                let rotated = credentials.get(index).copied();
                let second = self.second(end, rotated, (index == 0).then_some(&server));
                let answers = with_load(&server, path, second).await;
                assert_eq!(answers.failed, 0, "a request failed");
                if round > 0 {
                    p99[index].0.push(microseconds(answers.times[answers.times.len() * 99 / 100]));
                }
            }
            print_ratios(&SECONDS, &format!("{path}: p99 in us"), &p99);
        }
    }

    /// Waits for `end`. Before, it rotates a credential, and tells the service that holds it.
    async fn second(&self, end: Sleep, rotated: Option<&str>, holder: Option<&Server>) {
        if let Some(credential) = rotated {
            self.rotate(credential).await;
        }
        if let Some(holder) = holder {
            devstack::send_signal(holder.child.id(), Signal::HUP).expect("it runs");
        }
        end.await;
    }

    async fn rotate(&self, credential: &str) {
        if ["database", "migrator"].contains(&credential) {
            self.tenant.rotate(credential).await.expect("a rotation");
        } else {
            self.tenant.put_random(credential, "api_key").await.expect("the manager stores it");
        }
    }
}

/// Sends requests, none of which may fail.
fn send(server: &Server, in_flight: usize, requests: usize) -> Answers {
    let answers = load::send(server.address, "/hello", in_flight, Arc::new(requests.into()));
    assert_eq!((answers.times.len(), answers.failed), (requests, 0), "a request failed");
    answers
}

/// Sends requests while a task runs.
async fn with_load(server: &Server, path: &str, task: impl Future<Output = ()>) -> Answers {
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    let (address, path, limit) = (server.address, path.to_owned(), left.clone());
    let client = std::thread::spawn(move || load::send(address, &path, IN_FLIGHT[0], limit));
    task.await;
    left.store(0, Ordering::Relaxed);
    client.join().expect("the client does not panic")
}

/// Returns the configuration of a client that trusts an authority, and resumes no session.
fn tls_client(authority: &Authority) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.certificate().as_bytes()).expect("a certificate");
    roots.add(root).expect("an authority");
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config
}

/// Returns the memory that a server has, in bytes.
fn memory(server: &Server) -> f64 {
    let status = fs::read_to_string(Path::new("/proc").join(server.child.id().to_string()).join("status"));
    let status = status.expect("it runs");
    let kibibytes =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    kibibytes.map(|kibibytes: f64| kibibytes * 1024.0).expect("Linux counts it")
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
