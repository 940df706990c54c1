//! Vestibule: a framework for axum services that hold secrets.
//!
//! A service fetches every credential from a secrets manager before it binds a socket. It ends with a documented exit code
//! if it cannot get one. It takes up rotated credentials without a failed request: on SIGHUP, at a poll, or when the other
//! side rejects the version in service.
//!
//! ```text
//!             ┌───────────────── load ─────────────────┐
//! signals ──► configuration ─► credentials ─► generation ──► watch channel ──► requests, workers, TLS
//!    │           ▲                                                │
//!    └── HUP ────┴── poll, rejected login or key, unknown key ────┘  (reload: the same load again)
//! ```
//!
//! A service implements [`Application`], and its `main` calls [`main`] (or [`main_with`], for another secrets manager than
//! AWS Secrets Manager):
//!
//! ```no_run
//! use axum::{extract::State, routing::get};
//! use std::{process::ExitCode, sync::Arc};
//! use vestibule::{
//!     Application, Build, BuildError, Credential, OpenApiRouter, Package, SecretSet, credentials::ApiKey,
//! };
//!
//! /// The credentials: one field per credential.
//! #[derive(SecretSet)]
//! struct Secrets {
//!     payment: Credential<ApiKey>,
//! }
//!
//! /// What a request works with. It is built again when a credential rotates.
//! struct Hello {
//!     payment_version: String,
//! }
//!
//! impl Application for Hello {
//!     // A package writes `vestibule::package!()`, or `package!(no_migrations)`.
//!     const PACKAGE: Package = Package::new("hello", "0.1.0");
//!     type Settings = ();
//!     type Secrets = Secrets;
//!
//!     async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
//!         Ok(Self { payment_version: cx.secrets.payment.version().to_string() })
//!     }
//!
//!     fn routes() -> OpenApiRouter<Arc<Self>> {
//!         OpenApiRouter::new().route("/", get(async |State(hello): State<Arc<Self>>| hello.payment_version.clone()))
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     vestibule::main::<Hello>()
//! }
//! ```
//!
//! The public modules, in the order in which a load uses them:
//!
//! | module | contains |
//! |---|---|
//! | [`config`] | the configuration: files and variables, with every mistake reported at once |
//! | [`secrets`] | credentials, from the manager's bytes to a [`Credential`] |
//! | [`credentials`] | the kinds of credential: logins, signing keys, API keys, certificates |
//! | [`resources`] | what is built from credentials: databases, API clients, signers |
//! | [`http`] | the listeners, the door, and errors for clients |
//! | [`metrics`] | the counters, gauges and histograms of `/metrics` |
//! | [`exit`] | exit codes, and the report that names every fault |
//! | [`testing`] | help for a service's tests |

// The derive macros name this crate `::vestibule`, also in here.
extern crate self as vestibule;

pub mod config;
pub mod credentials;
pub mod exit;
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
pub mod metrics;
pub mod resources;
pub mod secrets;
pub mod testing;

mod admin;
mod application;
mod auth;
mod backoff;
mod blocking_reads;
mod bootstrap;
mod caught;
mod cause;
mod cli;
mod debug_tokens;
mod expiry_warnings;
mod generation_usage;
mod jitter;
mod last_uses;
mod leases;
mod loader;
mod moment;
mod openapi;
mod package;
mod regular_file;
mod reload;
mod reload_requests;
mod remote_reload;
mod request_context;
mod request_history;
mod signals;
mod status;
mod systemd;
mod telemetry;
mod trace_context;
mod traces;
mod trust;

pub use application::{Application, Background, Build, Generation, GenerationParts, Live, ReadinessChecks, WorkerWake};
pub use auth::{AccessToken, Principal, RequireScope};
pub use http::{ClientAddress, ClientCertificate, Limits, LongLived, LongLivedEvent, Problem, RequestId};
/// Adds handlers with `#[utoipa::path]` to an [`OpenApiRouter`]. [`Application::routes`] has an example.
pub use openapi::routes;
pub use openapi::{OpenApiRouter, UtoipaMethodRouterExt};
pub use package::{NamedMigrations, Package};
pub use resources::{
    ApiClient, ApiEndpoint, BuildError, CallError, Database, DeliveryError, KeyHeader, Session, Signature, Signer,
};
pub use secrets::Credential;
/// The framework's sqlx, for [`package!`].
#[doc(hidden)]
pub use sqlx;
pub use trace_context::TraceContext;
/// Derives [`config::ConfigSection`] for a struct of settings. The trait has an example.
pub use vestibule_derive::ConfigSection;
/// Derives [`secrets::SecretSet`] for a struct of credentials.
///
/// Each field is a `Credential<K>`, or an `Option<Credential<K>>` for a credential that is on only if its id is configured.
/// The field's name is the credential's name.
///
/// ```
/// use vestibule::{Credential, SecretSet, credentials::{ApiKey, Login}};
///
/// #[derive(SecretSet)]
/// struct Secrets {
///     database: Credential<Login>,
///     webhook: Option<Credential<ApiKey>>,
/// }
/// ```
///
/// A field of any other type does not compile:
///
/// ```compile_fail
/// #[derive(vestibule::SecretSet)]
/// struct Secrets {
///     password: String,
/// }
/// ```
///
/// Some names are reserved for the framework:
///
/// ```compile_fail
/// use vestibule::{Credential, SecretSet, credentials::Login};
///
/// #[derive(SecretSet)]
/// struct Secrets {
///     migrator: Credential<Login>,
/// }
/// ```
///
/// A credential cannot be printed, and its value cannot be copied out by accident:
///
/// ```compile_fail
/// fn print(login: &vestibule::credentials::Login) {
///     println!("{login:?}");
/// }
/// ```
pub use vestibule_derive::SecretSet;

use bootstrap::manager::{ConfiguredManager, SourceSetup};
use config::Config;
use exit::Fault;
use secrets::Source;
use std::process::ExitCode;

/// Runs a service: parses the command line, does what it says, and returns the exit code. A service's `main` calls
/// nothing else. The credentials come from the manager of `secrets.provider`: AWS Secrets Manager, Vault or OpenBao.
pub fn main<A: Application>() -> ExitCode {
    cli::main::<A>(ConfiguredManager)
}

/// Runs a service as [`main`] does, with the credentials of another secrets manager.
///
/// `source` makes the client of that manager. It runs once per process, and only for a command that asks the manager:
/// `serve`, `check --live`, `migrate` and `audit`. It may take until `secrets.deadline`. Its [`Fault`] ends the process
/// with its report and its exit code. Nothing retries `source`, but each call of the [`Source`] that it returns: a
/// login at the manager, for example, belongs into the first call.
///
/// `source` gets the whole configuration: the manager's address belongs into the service's settings. Core dumps are off
/// when it runs. So make whatever holds a secret in it, not before.
///
/// `secrets.provider` and the sections `[secrets.aws]` and `[secrets.vault]` have no effect then. They are still checked, and `config` prints
/// them. All other settings of `[secrets]` apply. `examples/own_manager.rs` is a whole service.
///
/// ```no_run
/// use serde::{Deserialize, Serialize};
/// use std::process::ExitCode;
/// use vestibule::{Application, config::BaseUrl, exit::{Exit, Fault}};
/// # use futures_util::future::BoxFuture;
/// # use vestibule::secrets::{Fetched, SecretId, Source, SourceError, Stage, VersionId, Versions};
/// # struct Vault;
/// # impl Vault { fn at(_: &BaseUrl) -> Self { Self } }
/// # impl Source for Vault {
/// #     fn fetch<'a>(
/// #         &'a self, _: &'a SecretId, _: Stage, _: Option<&'a VersionId>
/// #     ) -> BoxFuture<'a, Result<Fetched, SourceError>> { unreachable!() }
/// #     fn versions<'a>(&'a self, _: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> { unreachable!() }
/// # }
///
/// #[derive(Default, Serialize, Deserialize)]
/// #[serde(default)]
/// struct Settings {
///     vault_url: Option<BaseUrl>,
/// }
///
/// fn run<A: Application<Settings = Settings>>() -> ExitCode {
///     vestibule::main_with::<A, _>(async |config| match &config.service.vault_url {
///         Some(url) => Ok(Vault::at(url)),
///         None => Err(Fault {
///             exit: Exit::Config,
///             subject: "setting service.vault_url".into(),
///             problem: "the secrets manager has no address".into(),
///             remedy: "set it to the manager's URL".into(),
///         }),
///     })
/// }
/// ```
pub fn main_with<A: Application, S: Source>(
    source: impl AsyncFnOnce(&Config<A::Settings>) -> Result<S, Fault>,
) -> ExitCode {
    cli::main::<A>(SourceSetup(source))
}
