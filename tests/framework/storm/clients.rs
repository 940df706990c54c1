//! The clients in a storm.

use super::{
    Storm,
    chronicle::{FailedAnswer, Failure},
};
use devstack::{
    Tenant, post_json,
    reqwest::{Client, Error, Response, StatusCode},
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::{sync::watch, task::JoinSet, time::sleep};

/// The number of requests after which a client opens a new connection.
const REQUESTS_PER_CONNECTION: usize = 25;

/// Clients that make one request after the other until they are told to stop.
pub(super) struct Clients {
    stop: watch::Sender<bool>,
    tasks: JoinSet<ClientReport>,
}

/// The requests of a client, or of all.
#[derive(Default)]
pub(super) struct ClientReport {
    pub(super) served: usize,
    /// The ids of the notes that were created.
    pub(super) created: Vec<String>,
    pub(super) failures: Vec<Failure>,
}

struct StormClient {
    url: String,
    tenant: Tenant,
    client: Client,
    /// A cursor, and the time at which it was got.
    cursor: Option<(String, Instant)>,
    report: ClientReport,
}

impl Clients {
    pub(super) fn start(storm: &Storm<'_>, count: usize) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            let client = StormClient {
                url: storm.running.url("/v1/notes"),
                client: new_client(storm.tenant),
                tenant: storm.tenant.clone(),
                cursor: None,
                report: ClientReport::default(),
            };
            tasks.spawn(client.run(stopped.clone()));
        }
        Self { stop, tasks }
    }

    /// Stops the clients. Returns the sum of their reports.
    pub(super) async fn stop(self) -> ClientReport {
        self.stop.send_replace(true);
        let mut sum = ClientReport::default();
        for report in self.tasks.join_all().await {
            sum.served += report.served;
            sum.created.extend(report.created);
            sum.failures.extend(report.failures);
        }
        sum
    }
}

impl StormClient {
    async fn run(mut self, stopped: watch::Receiver<bool>) -> ClientReport {
        for number in 1.. {
            if *stopped.borrow() {
                break;
            }
            if number % REQUESTS_PER_CONNECTION == 0 {
                self.client = new_client(&self.tenant);
            }
            match number % 4 {
                0 => self.create().await,
                1 => self.list().await,
                _ => self.next_page().await,
            }
            sleep(Duration::from_millis(fastrand::u64(20..200))).await;
        }
        self.report
    }

    async fn create(&mut self) {
        let from = Instant::now();
        let answer = post_json(&self.client, &self.url, json!({ "body": "storm" }).to_string()).send().await;
        if let Some(note) = self.served("POST", from, from, answer).await {
            self.report.created.push(note["id"].as_str().expect("an id").to_owned());
        }
    }

    async fn list(&mut self) {
        let from = Instant::now();
        let answer = self.client.get(format!("{}?limit=1", self.url)).send().await;
        self.cursor = None;
        if let Some(page) = self.served("GET", from, from, answer).await {
            self.cursor = page["next_cursor"].as_str().map(|cursor| (cursor.to_owned(), from));
        }
    }

    async fn next_page(&mut self) {
        let Some((cursor, got)) = self.cursor.clone() else { return };
        let from = Instant::now();
        let answer = self.client.get(format!("{}?limit=1&cursor={cursor}", self.url)).send().await;
        self.served("GET with a cursor", from, got, answer).await;
    }

    /// Returns the body of an answer with success. Records any other answer.
    async fn served(
        &mut self,
        request: &str,
        from: Instant,
        got: Instant,
        answer: Result<Response, Error>,
    ) -> Option<Value> {
        let answer = match failed(answer, got).await {
            Ok(body) => {
                self.report.served += 1;
                return Some(body);
            }
            Err(answer) => answer,
        };
        let to = Instant::now();
        self.report.failures.push(Failure { from, to, request: request.into(), answer });
        None
    }
}

/// Returns a client without a connection.
fn new_client(tenant: &Tenant) -> Client {
    tenant.authority().trusted().build().expect("a client")
}

/// Returns the body of an answer with success, or the reason of the failure.
async fn failed(answer: Result<Response, Error>, got: Instant) -> Result<Value, FailedAnswer> {
    let other = |error: Error| FailedAnswer::Other(format!("{error:?}"));
    let answer = answer.map_err(other)?;
    let status = answer.status();
    if status.is_success() {
        return answer.json().await.map_err(other);
    }
    let text = answer.text().await.map_err(other)?;
    Err(match status {
        StatusCode::SERVICE_UNAVAILABLE if text.contains("took too long") => FailedAnswer::TooLong,
        StatusCode::REQUEST_TIMEOUT => FailedAnswer::TooLong,
        StatusCode::SERVICE_UNAVAILABLE if text.contains("database") => FailedAnswer::Unavailable,
        StatusCode::BAD_REQUEST if text.contains("cursor") => FailedAnswer::RejectedCursor(got),
        _ => FailedAnswer::Other(format!("{status} {text}")),
    })
}
