//! The cost of a request that reads one row by its key: the example, and the same route as axum and sqlx alone have it.
//!
//! `cargo bench --bench database` prints CPU times and, if there is valgrind, instructions. Compare the ratios: the
//! servers take turns, so that a busy machine slows all of them.
//!
//! The two others are this program: it starts itself with the name of a server.

mod support {
    pub(crate) mod load;
    pub(crate) mod server;
    pub(crate) mod statistics;
}

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::get,
};
use devstack::{Binary, Tenant, free_port};
use serde::Serialize;
use serde_json::Value;
use sqlx::{
    FromRow, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
};
use std::{env, io::Read, net::SocketAddr, path, process::Command, sync::Arc};
use support::{
    load::{self, Answers},
    server::Server,
    statistics::Rounds,
};
use time::OffsetDateTime;
use uuid::Uuid;

const PROGRAM: &str = env!(concat!("CARGO_BIN_EXE_", env!("CARGO_PKG_NAME")));
static SERVICE: Binary = Binary::at(PROGRAM);

/// The servers: the example, and axum with sqlx, with and without sqlx's ping before each use of a connection.
const SERVERS: [&str; 3] = [OURS, "with-ping", WITHOUT_PING];
const OURS: &str = "vestibule";
const WITHOUT_PING: &str = "without-ping";

/// The numbers of connections of the client: fewer than the pool has, and more.
const CONNECTIONS: [usize; 2] = [8, 32];

const ROUNDS: usize = 21;

/// The requests to a server in a round.
const REQUESTS: usize = 5_000;

/// The requests of two runs under valgrind. The difference of their instructions has no start in it.
const COUNTED_REQUESTS: [usize; 2] = [500, 2_500];

fn main() {
    let argument = env::args().nth(1).unwrap_or_default();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if argument != OURS && SERVERS.contains(&argument.as_str()) {
        runtime.block_on(serve(argument != WITHOUT_PING));
    } else if env::args().any(|argument| argument == "--bench") {
        runtime.block_on(measure());
    } else {
        println!("skipped: this is a benchmark; run `cargo bench --bench database`");
    }
}

async fn measure() {
    let tenant = SERVICE.migrated("bench_database").await;
    let mut admin = tenant.admin().await.expect("a connection");
    let id: Uuid = sqlx::query_scalar("INSERT INTO notes (id, body) VALUES ($1, 'A note of some words.') RETURNING id")
        .bind(Uuid::now_v7())
        .fetch_one(&mut admin)
        .await
        .expect("the table is there");
    let login = tenant.value("database", "AWSCURRENT").await.expect("a login");
    let bench = Bench { tenant, login, path: format!("/v1/notes/{id}") };
    for connections in CONNECTIONS {
        bench.measure_time(connections).await;
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("instructions: skipped, because there is no valgrind (Debian: apt-get install valgrind)");
        return;
    }
    for connections in CONNECTIONS {
        bench.count_instructions(connections).await;
    }
}

struct Bench {
    tenant: Tenant,
    login: String,
    path: String,
}

impl Bench {
    /// Starts a server with one worker thread, under a program with arguments if one is given.
    async fn start(&self, name: &str, under: &[&str]) -> Server {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut environment = self.tenant.env();
        for (name, value) in [
            ("TOKIO_WORKER_THREADS", "1"),
            ("APP_SERVER__LISTEN", &address.to_string()),
            ("APP_ADMIN__LISTEN", "127.0.0.1:0"),
            ("APP_SERVER__LINGER", "0s"),
            ("APP_CONFIG_DIR", "config"),
            // Valgrind counts an instruction that copies a block as one for each byte. Without it, a copy is a loop.
            ("GLIBC_TUNABLES", "glibc.cpu.x86_rep_movsb_threshold=1000000000"),
            ("PATH", &variable("PATH")),
            (LOGIN, &self.login),
        ] {
            environment.push((name.into(), value.into()));
        }
        let this = env::current_exe().expect("this program has a path");
        let mut command: Vec<&path::Path> = under.iter().map(path::Path::new).collect();
        if name == OURS {
            command.push(path::Path::new(PROGRAM));
        } else {
            command.extend([this.as_path(), path::Path::new(name)]);
        }
        Server::start(&command, environment, address).await.0
    }

    /// Sends requests, none of which may fail.
    fn send(&self, server: &Server, connections: usize, requests: usize) -> Answers {
        let answers = load::send(server.address, &self.path, connections, Arc::new(requests.into()));
        assert_eq!(answers.failed, 0, "a request failed");
        answers
    }

    async fn measure_time(&self, connections: usize) {
        let mut servers = Vec::new();
        for name in SERVERS {
            servers.push(self.start(name, &[]).await);
        }
        let (mut times, mut rates) = (SERVERS.map(|_| Rounds::default()), SERVERS.map(|_| Rounds::default()));
        for round in 0..=ROUNDS {
            for turn in 0..SERVERS.len() {
                let index = (round + turn) % SERVERS.len();
                let before = servers[index].cpu();
                let answers = self.send(&servers[index], connections, REQUESTS);
                let time = (servers[index].cpu() - before).as_secs_f64() * 1e6 / answers.times.len() as f64;
                // The first round opens connections and fills caches.
                if round > 0 {
                    times[index].0.push(time);
                    rates[index].0.push(answers.rate);
                }
            }
        }
        println!("CPU time of a request, {connections} connections, {ROUNDS} rounds: median [quartiles]");
        for (index, name) in SERVERS.iter().enumerate() {
            let (time, ratio) = (times[index].summary(), times[index].ratio(&times[2]).summary());
            let rate = rates[index].median();
            println!("  {name:<13} {time:>21} us, ratio {ratio}; {rate:.0} requests/s");
        }
    }

    async fn count_instructions(&self, connections: usize) {
        let [few, many] = COUNTED_REQUESTS;
        let mut counts = Vec::new();
        for name in SERVERS {
            let start = self.instructions(name, connections, few).await;
            let more = self.instructions(name, connections, many).await - start;
            counts.push(more / (many - few) as f64);
        }
        println!("instructions of a request, {connections} connections");
        for (name, count) in SERVERS.iter().zip(&counts) {
            println!("  {name:<13} {count:>20.0}      ratio {:.2}", count / counts[2]);
        }
    }

    /// Returns the instructions of a server from its start to its end.
    async fn instructions(&self, name: &str, connections: usize, requests: usize) -> f64 {
        let profile = devstack::workspace().join(format!("target/callgrind.{name}.{connections}"));
        let profile = format!("--callgrind-out-file={}", profile.display());
        let mut server = self.start(name, &["valgrind", "--tool=callgrind", &profile]).await;
        self.send(&server, connections, requests);
        let _ = devstack::send_signal(server.child.id(), devstack::Signal::TERM);
        let mut output = String::new();
        let errors = server.child.stderr.as_mut().expect("it is piped");
        errors.read_to_string(&mut output).expect("valgrind writes text");
        let count = output.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
        count.unwrap_or_else(|| panic!("valgrind counts instructions: {}", self.tenant.redact(&output)))
    }
}

/// The variable with the login of the servers that know no secrets manager.
const LOGIN: &str = "BENCH_LOGIN";

/// Serves the route as axum and sqlx alone have it. It looks for its database where the example does.
async fn serve(test_before_acquire: bool) {
    let login: Value = serde_json::from_str(&variable(LOGIN)).expect("a login");
    let text = |field: &str| login[field].as_str().expect("a login has it").to_owned();
    let options = PgConnectOptions::new_without_pgpass()
        .host(&variable("APP_DATABASE__HOST"))
        .port(variable("APP_DATABASE__PORT").parse().expect("a port"))
        .database(&variable("APP_DATABASE__NAME"))
        .username(&text("username"))
        .password(&text("password"))
        .ssl_mode(PgSslMode::Disable);
    let pool = PgPoolOptions::new().max_connections(10).test_before_acquire(test_before_acquire);
    let pool = pool.connect_with(options).await.expect("the database accepts the login");
    let router = Router::new().route("/v1/notes/{id}", get(read)).with_state(pool);
    let listener = tokio::net::TcpListener::bind(variable("APP_SERVER__LISTEN")).await.expect("a free port");
    axum::serve(listener, router).await.expect("it accepts");
}

/// The note of the example.
#[derive(Serialize, FromRow)]
struct Note {
    id: Uuid,
    body: String,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<String>,
}

async fn read(State(pool): State<PgPool>, Path(id): Path<Uuid>) -> Result<Json<Note>, StatusCode> {
    let note = sqlx::query_as("SELECT id, body, created_at, created_by FROM notes WHERE id = $1")
        .bind(id)
        .fetch_optional(&pool)
        .await;
    note.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?.map(Json).ok_or(StatusCode::NOT_FOUND)
}

#[expect(clippy::disallowed_methods, reason = "only a service has a configuration")]
fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("{name}: {error}"))
}
