use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use rustix::process::Signal;
use serde_json::Value;

use crate::{Addresses, Launch, Process, Tenant};

/// Longer than anything takes that a test waits for, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A service that serves, as a client and an operator see it.
pub struct Running<'a> {
    /// Its process.
    pub process: Process,
    /// Where it listens.
    pub at: Addresses,
    tenant: &'a Tenant,
    client: reqwest::Client,
    scheme: &'static str,
}

impl<'a> Running<'a> {
    /// Starts it, and waits until it listens.
    ///
    /// # Panics
    /// With its output if it ends before that.
    pub async fn start(launch: Launch, tenant: &'a Tenant) -> Self {
        let mut process = launch.start();
        let at = process.listening().await;
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { process, at, tenant, client, scheme: "http" }
    }

    /// With TLS on the public listener; the client trusts the tenant's authority.
    pub async fn start_tls(launch: Launch, tenant: &'a Tenant) -> Self {
        let client = tenant.authority().trusted().build().expect("a client");
        Self { client, scheme: "https", ..Self::start(launch.env("APP_SERVER__TLS", "true"), tenant).await }
    }

    /// Where a path is, for clients of the test's own.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.at.public)
    }

    /// A request to its clients' listener, not yet sent.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path))
    }

    /// What its clients' listener answers.
    pub async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.expect("an answer")
    }

    /// A page of the admin listener, with its status and type. No secret may be in it.
    pub async fn page(&self, path: &str) -> (StatusCode, String, String) {
        let url = format!("http://{}{path}", self.at.admin);
        let answer = self.client.get(url).send().await.expect("an answer");
        let status = answer.status();
        let kind = answer.headers()["content-type"].to_str().expect("text").to_owned();
        let text = answer.text().await.expect("a body");
        self.tenant.assert_secret_free(path, &text);
        (status, kind, text)
    }

    /// A page in JSON, with its status.
    pub async fn admin(&self, path: &str) -> (StatusCode, Value) {
        let (status, _, text) = self.page(path).await;
        (status, serde_json::from_str(&text).expect("JSON"))
    }

    /// What `/status` says.
    pub async fn status(&self) -> Value {
        let (code, status) = self.admin("/status").await;
        assert_eq!(code, StatusCode::OK);
        status
    }

    /// What `/status` says of one credential.
    pub async fn credential(&self, name: &str) -> Value {
        let status = self.status().await;
        let all = status["credentials"].as_array().expect("a list");
        all.iter().find(|one| one["name"] == name).expect("it is held").clone()
    }

    /// The value of a series on `/metrics`, named as there, with its labels.
    ///
    /// # Panics
    /// If there is none.
    pub async fn metric(&self, series: &str) -> f64 {
        let (_, _, text) = self.page("/metrics").await;
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("no {series} in\n{text}"))
    }

    /// Waits until `/status` is as wanted.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let status = self.status().await;
            if wanted(&status) {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "{what} did not come: {status:#}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends SIGHUP and waits for a trip that covers it; returns what `/status` says of that trip.
    pub async fn reload(&mut self) -> Value {
        let seen = self.status().await["signals"]["seen"].as_u64().expect("a count");
        self.process.signal(Signal::HUP);
        let ended = |status: &Value| {
            status["signals"]["covered"].as_u64() > Some(seen)
                && status["signals"]["last_reload"]["signals_covered"].as_u64() > Some(seen)
        };
        self.until("a reload", ended).await["signals"]["last_reload"].clone()
    }
}

/// The problem in an answer, which has this status: what it tells the client.
///
/// # Panics
/// If it is another status, or no problem of RFC 9457.
pub async fn problem(answer: Response, status: u16) -> String {
    assert_eq!(answer.status().as_u16(), status);
    assert_eq!(answer.headers()["content-type"], "application/problem+json", "{answer:?}");
    let problem: Value = answer.json().await.expect("JSON");
    assert_eq!(problem["status"], status);
    assert!(!problem["title"].as_str().expect("a title").is_empty());
    problem["detail"].as_str().expect("a detail").to_owned()
}
