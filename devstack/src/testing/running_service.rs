//! A service that serves, as a client and an operator see it.

use reqwest::{Body, Method, RequestBuilder, Response, StatusCode};
use rustix::process::Signal;
use serde_json::Value;

use crate::stack::tenant::Tenant;
use crate::testing::eventually::eventually;
use crate::testing::json::post_json;
use crate::testing::launch::Launch;
use crate::testing::test_process::{Addresses, TestProcess};
use std::time::Duration;

/// The time after which the client uses a connection no more. If it were that of `connections.idle_timeout`, a request could meet
/// the end of its connection.
const REUSE_WITHIN: Duration = Duration::from_secs(2);

/// A service that serves, as a client and an operator see it.
pub struct RunningService<'a> {
    /// The process of the service.
    pub process: TestProcess,
    /// The addresses of its listeners.
    pub at: Addresses,
    tenant: &'a Tenant,
    client: reqwest::Client,
    scheme: &'static str,
}

impl<'a> RunningService<'a> {
    /// Starts the service, and waits until it listens.
    ///
    /// # Panics
    /// If the service ends before that. The message holds its output.
    pub async fn start(launch: Launch, tenant: &'a Tenant) -> Self {
        let mut process = launch.start();
        let at = process.listening().await;
        let client = reqwest::Client::builder().no_proxy().pool_idle_timeout(REUSE_WITHIN).build().expect("a client");
        Self { process, at, tenant, client, scheme: "http" }
    }

    /// Does the same as [`Self::start`] with TLS on the public listener. The client trusts the tenant's authority.
    pub async fn start_tls(launch: Launch, tenant: &'a Tenant) -> Self {
        let client = tenant.authority().trusted().pool_idle_timeout(REUSE_WITHIN).build().expect("a client");
        Self { client, scheme: "https", ..Self::start(launch.env("APP_SERVER__TLS", "true"), tenant).await }
    }

    /// Returns the URL of a path on the public listener, for clients of the test's own.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.at.public)
    }

    /// Prepares a request to the public listener.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path))
    }

    /// Gets a path of the public listener.
    pub async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.expect("an answer")
    }

    /// Posts JSON to a path of the public listener.
    pub async fn post_json(&self, path: &str, body: impl Into<Body>) -> Response {
        post_json(&self.client, self.url(path), body).send().await.expect("an answer")
    }

    /// Returns the status, the content type and the text of a page of the admin listener.
    ///
    /// # Panics
    /// If a secret is in the text.
    pub async fn page(&self, path: &str) -> (StatusCode, String, String) {
        self.page_as(path, "*/*").await
    }

    /// Returns what [`page`](Self::page) returns, for a client that accepts these media types.
    ///
    /// # Panics
    /// If a secret is in the text.
    pub async fn page_as(&self, path: &str, accept: &str) -> (StatusCode, String, String) {
        let url = format!("http://{}{path}", self.at.admin);
        let answer = self.client.get(url).header("accept", accept).send().await.expect("an answer");
        let status = answer.status();
        let kind = answer.headers()["content-type"].to_str().expect("text").to_owned();
        let text = answer.text().await.expect("a body");
        self.tenant.assert_secret_free(path, &text);
        (status, kind, text)
    }

    /// Returns the status and the JSON of a page of the admin listener.
    pub async fn admin(&self, path: &str) -> (StatusCode, Value) {
        let (status, _, text) = self.page(path).await;
        (status, serde_json::from_str(&text).expect("JSON"))
    }

    /// Returns `/status`.
    pub async fn status(&self) -> Value {
        let (code, status) = self.admin("/status").await;
        assert_eq!(code, StatusCode::OK);
        status
    }

    /// Returns one credential of `/status`.
    pub async fn credential(&self, name: &str) -> Value {
        let status = self.status().await;
        let credentials = status["credentials"].as_array().expect("a list");
        credentials.iter().find(|credential| credential["name"] == name).expect("the service has it").clone()
    }

    /// Returns the value of a series on `/metrics`. Its name is the text before the value, with the labels.
    ///
    /// # Panics
    /// If there is no such series.
    pub async fn metric(&self, series: &str) -> f64 {
        let (_, _, text) = self.page("/metrics").await;
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("no {series} in\n{text}"))
    }

    /// Waits until `/status` meets a condition, and returns it.
    ///
    /// # Panics
    /// If it does not within 30 s. The message shows the last `/status`.
    #[track_caller]
    pub fn wait_until(&self, what: &str, condition: impl Fn(&Value) -> bool) -> impl Future<Output = Value> {
        eventually(what, async move || {
            let status = self.status().await;
            if condition(&status) { Ok(status) } else { Err(status) }
        })
    }

    /// Sends SIGHUP and waits for a reload that covers it. Returns that reload in `/status`.
    pub async fn reload(&mut self) -> Value {
        let seen = self.status().await["signals"]["seen"].as_u64().expect("a count");
        self.process.signal(Signal::HUP);
        let ended = |status: &Value| {
            status["signals"]["covered"].as_u64() > Some(seen)
                && status["signals"]["last_reload"]["signals_covered"].as_u64() > Some(seen)
        };
        self.wait_until("a reload", ended).await["signals"]["last_reload"].clone()
    }
}
