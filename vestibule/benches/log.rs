//! The cost of an event of 12 fields, as an access log has them: the framework's layer beside the stock JSON format.
//!
//! `cargo bench --bench log` prints times; compare their ratio. The work of the framework's thread is on another core, so the
//! times do not have it. To count all instructions, run the binary that it names under callgrind with
//! `--exact log::ours --sample-count 1 --sample-size N`. Do it for two values of N, and divide the difference of the counts by
//! the difference of the two.

use divan::Bencher;
use std::{io, sync::Arc};
use tracing::{Dispatch, dispatcher};
use tracing_subscriber::{fmt, layer::SubscriberExt};
use vestibule::testing::{Harness, MemoryManager, discarding_log};
use vestibule::{
    Application, Build, BuildError, Credential, OpenApiRouter, Package, SecretSet,
    config::Config,
    credentials::{ApiKey, Login, SigningKeys},
};

fn main() {
    divan::main();
}

/// A service that holds three credentials.
struct CredentialHolder;

#[derive(SecretSet)]
#[expect(dead_code, reason = "the log looks for them, and nothing else uses them")]
struct Secrets {
    database: Credential<Login>,
    signing: Credential<SigningKeys>,
    webhook: Credential<ApiKey>,
}

impl Application for CredentialHolder {
    const PACKAGE: Package = Package::new("credential-holder", "0");
    type Settings = ();
    type Secrets = Secrets;

    async fn build(_: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self)
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new()
    }
}

fn log_request() {
    tracing::info!(
        http.request.method = "GET",
        http.route = "/v1/notes/{id}",
        url.path = "/v1/notes/0190b4e6-64f9-7a52-9a0c-1b1e5c4f2a3d",
        http.response.status_code = 200_u64,
        http.duration_ms = 1.25,
        http.response.body.size = 1234_u64,
        network.protocol.version = "1.1",
        client.address = %"203.0.113.7",
        url.scheme = "https",
        server.generation = 3_u64,
        tls = true,
        "a request was answered"
    );
}

fn measure(bencher: Bencher<'_, '_>, log: &Dispatch) {
    dispatcher::with_default(log, || bencher.bench_local(log_request));
}

#[divan::bench]
fn stock(bencher: Bencher<'_, '_>) {
    let format = fmt::layer().json().with_current_span(false).with_span_list(false).with_writer(io::sink);
    measure(bencher, &tracing_subscriber::registry().with(format).into());
}

#[divan::bench]
fn ours(bencher: Bencher<'_, '_>) {
    measure(bencher, &tracing_subscriber::registry().with(discarding_log()).into());
}

#[divan::bench]
fn ours_with_secrets(bencher: Bencher<'_, '_>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let manager = MemoryManager::with([
        ("database", r#"{"username":"app","password":"k7XbZ-q0w9E.tR4y"}"#),
        ("signing", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="),
        ("webhook", "wh_4f9c2b71d0e84a6f"),
    ]);
    let starting = Harness::<CredentialHolder>::start(manager, Config::default());
    let _holder = runtime.block_on(starting).expect("all are there");
    measure(bencher, &tracing_subscriber::registry().with(discarding_log()).into());
}
