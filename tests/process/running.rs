//! A service that serves, as a client and an operator see it.

use devstack::{
    Addresses, Launch, Process, Signal, Tenant,
    reqwest::{self, Method, RequestBuilder, Response, StatusCode},
};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Running<'a> {
    pub(crate) process: Process,
    pub(crate) at: Addresses,
    tenant: &'a Tenant,
    client: reqwest::Client,
    scheme: &'static str,
}

impl<'a> Running<'a> {
    pub(crate) async fn start(launch: Launch, tenant: &'a Tenant) -> Self {
        let mut process = launch.start();
        let at = process.listening().await;
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { process, at, tenant, client, scheme: "http" }
    }

    /// With TLS on the public listener; the client trusts the tenant's authority.
    pub(crate) async fn start_tls(launch: Launch, tenant: &'a Tenant) -> Self {
        let client = tenant.authority().trusted().build().expect("a client");
        Self { client, scheme: "https", ..Self::start(launch.env("APP_SERVER__TLS", "true"), tenant).await }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}://{}{path}", self.scheme, self.at.public))
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.expect("an answer")
    }

    pub(crate) async fn post(&self, body: impl Into<reqwest::Body>) -> Response {
        let post = self.request(Method::POST, "/v1/notes").header("content-type", "application/json");
        post.body(body).send().await.expect("an answer")
    }

    /// Creates a note; returns its path.
    pub(crate) async fn create(&self, text: &str) -> String {
        let answer = self.post(serde_json::json!({ "body": text }).to_string()).await;
        assert_eq!(answer.status(), StatusCode::CREATED);
        answer.headers()["location"].to_str().expect("a path").to_owned()
    }

    /// A page of the admin listener, with its status and type. No secret may be in it.
    pub(crate) async fn page(&self, path: &str) -> (StatusCode, String, String) {
        let url = format!("http://{}{path}", self.at.admin);
        let answer = self.client.get(url).send().await.expect("an answer");
        let status = answer.status();
        let kind = answer.headers()["content-type"].to_str().expect("text").to_owned();
        let text = answer.text().await.expect("a body");
        self.tenant.assert_secret_free(path, &text);
        (status, kind, text)
    }

    /// A page in JSON, with its status.
    pub(crate) async fn admin(&self, path: &str) -> (StatusCode, Value) {
        let (status, _, text) = self.page(path).await;
        (status, serde_json::from_str(&text).expect("JSON"))
    }

    pub(crate) async fn status(&self) -> Value {
        let (code, status) = self.admin("/status").await;
        assert_eq!(code, StatusCode::OK);
        status
    }

    /// What `/status` says of one credential.
    pub(crate) async fn credential(&self, name: &str) -> Value {
        let status = self.status().await;
        let all = status["credentials"].as_array().expect("a list");
        all.iter().find(|one| one["name"] == name).expect("it is held").clone()
    }

    /// Waits until `/status` is as wanted.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
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
    pub(crate) async fn reload(&mut self) -> Value {
        let seen = self.status().await["signals"]["seen"].as_u64().expect("a count");
        self.process.signal(Signal::HUP);
        let ended = |status: &Value| {
            status["signals"]["covered"].as_u64() > Some(seen)
                && status["signals"]["last_reload"]["signals_covered"].as_u64() > Some(seen)
        };
        self.until("a reload", ended).await["signals"]["last_reload"].clone()
    }
}
