//! The cost of a request that reads one row by its key: of the example, and of the same route as axum and sqlx alone have
//! it, with and without sqlx's ping before each use of a connection. The pools have 10 connections.
//!
//! `cargo bench --bench database` prints CPU times and, if there is valgrind, instructions; with `-- instructions`, only
//! these. It measures three things:
//!
//! - a request to a server with one worker thread;
//! - the route without HTTP, on one thread;
//! - the statement without the route: what the pool costs.
//!
//! Compare the ratios. The contenders take turns, so that a busy machine slows all of them.
//!
//! This program starts itself as a server, and to call a route or a statement: see [`main`].

// The futures of the measurements have those of the stack in them.
#![recursion_limit = "256"]

mod support {
    pub(crate) mod axum_sqlx;
    pub(crate) mod callgrind;
    pub(crate) mod contenders;
    pub(crate) mod in_process;
    pub(crate) mod load;
    pub(crate) mod server;
    pub(crate) mod statistics;
}

use devstack::{Binary, DatabaseAddress, Tenant, free_port};
use serde_json::Value;
use std::{env, net::SocketAddr, path::Path, process::Command, sync::Arc};
use support::{
    axum_sqlx,
    callgrind::{self, CALLGRIND, NO_BLOCK_COPIES, collected},
    contenders::{print_ratios, turns},
    in_process::{Callee, thread_cpu},
    load,
    server::Server,
    statistics::Rounds,
};
use tokio::{net::TcpListener, runtime};
use uuid::Uuid;

const PROGRAM: &str = env!(concat!("CARGO_BIN_EXE_", env!("CARGO_PKG_NAME")));
static SERVICE: Binary = Binary::at(PROGRAM);

/// The contenders. The others are compared with the last one.
const CONTENDERS: [&str; 3] = ["vestibule", "axum+sqlx, ping", "axum+sqlx"];

/// The things to call in this process.
const CALLEES: [&str; 2] = ["route", "statement"];

/// The numbers of requests in flight: fewer than the pool has connections, and more.
const IN_FLIGHT: [usize; 2] = [8, 32];

const ROUNDS: usize = 41;

/// The requests of a contender in a round.
const REQUESTS: usize = 2_500;

/// The requests of two runs under valgrind. The difference of their instructions has no start in it.
const COUNTED_REQUESTS: [usize; 2] = [500, 2_500];

/// The variable with the login for what knows no secrets manager. It has the database's place, too.
const LOGIN: &str = "BENCH_LOGIN";

/// The variable with the path of a note.
const PATH: &str = "BENCH_PATH";

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let multi_thread = || runtime::Runtime::new().expect("a runtime");
    let one_thread = || runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match arguments[..] {
        ["serve", name] => multi_thread().block_on(serve(name)),
        ["time", what, in_flight] => one_thread().block_on(time(what, number(in_flight))),
        ["call", what, name, in_flight, calls] => {
            one_thread().block_on(async { callee(what, name).await.call(number(in_flight), number(calls)).await });
        }
        _ if arguments.contains(&"--bench") => multi_thread().block_on(measure(arguments.contains(&"instructions"))),
        _ => println!("skipped: this is a benchmark; run `cargo bench --bench database`"),
    }
}

async fn measure(only_instructions: bool) {
    let bench = Bench::prepare().await;
    for in_flight in IN_FLIGHT.into_iter().filter(|_| !only_instructions) {
        bench.time_servers(in_flight).await;
        for what in CALLEES {
            let arguments = ["time", what, &in_flight.to_string()];
            let ended = bench.this_program(&[], &arguments).status().expect("this program runs");
            assert!(ended.success(), "{arguments:?} ended with {ended}");
        }
    }
    if !callgrind::is_there() {
        return;
    }
    for in_flight in IN_FLIGHT {
        bench.count_served(in_flight).await;
        for what in CALLEES {
            bench.count_called(what, in_flight);
        }
    }
}

/// A database with a note, which every measurement needs.
struct Bench {
    tenant: Tenant,
    login: Value,
    path: String,
}

impl Bench {
    async fn prepare() -> Self {
        let tenant = SERVICE.migrated("bench_database").await;
        let insert = "INSERT INTO notes (id, body) VALUES ($1, 'A note of some words.') RETURNING id";
        let mut admin = tenant.admin().await.expect("a connection");
        let inserted = sqlx::query_scalar(insert).bind(Uuid::now_v7()).fetch_one(&mut admin).await;
        let id: Uuid = inserted.expect("the table is there");
        let login = tenant.value("database", "AWSCURRENT").await.expect("a login");
        let mut login: Value = serde_json::from_str(&login).expect("JSON");
        let DatabaseAddress { host, port, name } = tenant.database();
        login["host"] = host.into();
        login["port"] = port.into();
        login["dbname"] = name.into();
        Self { tenant, login, path: format!("/v1/notes/{id}") }
    }

    /// Returns the command that starts this program, perhaps under another one.
    fn this_program(&self, under: &[&str], arguments: &[&str]) -> Command {
        let this = env::current_exe().expect("this program has a path");
        let mut command = self.program(under, &this);
        command.args(arguments);
        command
    }

    fn program(&self, under: &[&str], program: &Path) -> Command {
        let words = [under.iter().map(Path::new).collect(), vec![program]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env(LOGIN, self.login.to_string()).env(PATH, &self.path);
        if !under.is_empty() {
            command.envs([NO_BLOCK_COPIES]);
        }
        command
    }

    /// Starts a server with one worker thread, perhaps under another program.
    async fn serve(&self, name: &str, under: &[&str]) -> Server {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = if name == CONTENDERS[0] {
            self.program(under, Path::new(PROGRAM))
        } else {
            self.this_program(under, &["serve", name])
        };
        command
            .envs(self.tenant.env())
            .env("TOKIO_WORKER_THREADS", "1")
            .env("APP_CONFIG_DIR", devstack::workspace().join("config"))
            .env("APP_SERVER__LISTEN", address.to_string())
            .env("APP_ADMIN__LISTEN", "127.0.0.1:0")
            .env("APP_SERVER__LINGER", "0s");
        Server::start(command, address).await.0
    }

    /// Sends requests, none of which may fail. Returns the number of them in a second.
    fn send(&self, server: &Server, in_flight: usize, requests: usize) -> f64 {
        let answers = load::send(server.address, &self.path, in_flight, Arc::new(requests.into()));
        assert_eq!((answers.times.len(), answers.failed), (requests, 0), "a request failed");
        answers.rate
    }

    async fn time_servers(&self, in_flight: usize) {
        let mut servers = Vec::new();
        for name in CONTENDERS {
            servers.push(self.serve(name, &[]).await);
        }
        let (mut times, mut rates) = (CONTENDERS.map(|_| Rounds::default()), CONTENDERS.map(|_| Rounds::default()));
        for (round, index) in turns(ROUNDS, CONTENDERS.len()) {
            let before = servers[index].cpu();
            let rate = self.send(&servers[index], in_flight, REQUESTS);
            if round > 0 {
                times[index].0.push((servers[index].cpu() - before).as_secs_f64() * 1e6 / REQUESTS as f64);
                rates[index].0.push(rate);
            }
        }
        print_ratios(&CONTENDERS, &format!("request, {in_flight} in flight: CPU time in us"), &times);
        print_ratios(&CONTENDERS, &format!("request, {in_flight} in flight: number in a second"), &rates);
    }

    async fn count_served(&self, in_flight: usize) {
        let mut counts = Vec::new();
        for name in CONTENDERS {
            let [few, many] = COUNTED_REQUESTS;
            let few = self.instructions_served(name, in_flight, few).await;
            counts.push(per_request(few, self.instructions_served(name, in_flight, many).await));
        }
        print_ratios(&CONTENDERS, &format!("request, {in_flight} in flight: instructions"), &counts);
    }

    fn count_called(&self, what: &str, in_flight: usize) {
        let counts = CONTENDERS.map(|name| {
            let [few, many] = COUNTED_REQUESTS.map(|calls| {
                let arguments = ["call", what, name, &in_flight.to_string(), &calls.to_string()];
                let ended = self.this_program(&CALLGRIND, &arguments).output().expect("valgrind runs");
                collected(&String::from_utf8_lossy(&ended.stderr))
            });
            per_request(few, many)
        });
        print_ratios(&CONTENDERS, &format!("{what}, {in_flight} in flight: instructions"), &counts);
    }

    /// Returns the instructions of a server from its start to its end.
    async fn instructions_served(&self, name: &str, in_flight: usize, requests: usize) -> f64 {
        let server = self.serve(name, &CALLGRIND).await;
        self.send(&server, in_flight, requests);
        callgrind::instructions_of(server)
    }
}

/// Returns the instructions of one request, as a measure of one round.
fn per_request(few: f64, many: f64) -> Rounds {
    Rounds(vec![(many - few) / (COUNTED_REQUESTS[1] - COUNTED_REQUESTS[0]) as f64])
}

/// Serves the route as axum and sqlx alone do.
async fn serve(name: &str) {
    let router = axum_sqlx::router(axum_sqlx::pool(&login(), name == CONTENDERS[1]).await);
    let listener = TcpListener::bind(variable("APP_SERVER__LISTEN")).await.expect("a free port");
    axum::serve(listener, router).await.expect("it accepts");
}

/// Calls the contenders in turn, and prints their CPU times.
async fn time(what: &str, in_flight: usize) {
    let mut callees = Vec::new();
    for name in CONTENDERS {
        callees.push(callee(what, name).await);
    }
    let mut times = CONTENDERS.map(|_| Rounds::default());
    for (round, index) in turns(ROUNDS, CONTENDERS.len()) {
        let before = thread_cpu();
        callees[index].call(in_flight, REQUESTS).await;
        if round > 0 {
            times[index].0.push((thread_cpu() - before).as_secs_f64() * 1e6 / REQUESTS as f64);
        }
    }
    print_ratios(&CONTENDERS, &format!("{what}, {in_flight} in flight: CPU time in us"), &times);
}

async fn callee(what: &str, name: &str) -> Callee {
    let (login, path) = (login(), variable(PATH));
    let id = path.rsplit('/').next().and_then(|id| id.parse().ok()).expect("the path ends with an id");
    let pool = axum_sqlx::pool(&login, name == CONTENDERS[1]);
    match (what == CALLEES[0], name == CONTENDERS[0]) {
        (true, true) => Callee::door(&login, &path).await,
        (true, false) => Callee::route(axum_sqlx::router(pool.await), &path),
        (false, true) => Callee::database(&login, id).await,
        (false, false) => Callee::statement(pool.await, id),
    }
}

fn login() -> Value {
    serde_json::from_str(&variable(LOGIN)).expect("JSON")
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}

#[expect(clippy::disallowed_methods, reason = "only a service has a configuration")]
fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("{name}: {error}"))
}
