//! Vestibule: credentials before the door.
//!
//! A service fetches every credential from a secrets manager before it binds a socket, ends with a documented exit code
//! when one cannot be had, and takes up rotated ones without a failed request: on SIGHUP, at a poll, or when the other
//! side refuses the one in service.
//!
//! ```text
//!             ┌──────────────── road ────────────────┐
//! signals ──► config ─► secrets ─► service ─► generation ──► watch ──► requests, workers, TLS
//!    │           ▲                                              │
//!    └── HUP ────┴── poll, refused login or key, unknown key ───┘  (the same road again)
//! ```
//!
//! A service implements [`Application`], and its `main` is [`main`]. The modules, in the order of the road:
//!
//! | module | is |
//! |---|---|
//! | [`exit`] | exit codes, and the report that names every fault |
//! | [`config`] | files and variables, all mistakes at once |
//! | [`secrets`] | from the manager's bytes to a [`Credential`] |
//! | [`credentials`] | the kinds: logins, signing keys, API keys, certificates |
//! | [`resources`] | what is built from credentials, proven, carried over and retired |
//! | [`http`] | the door, the listeners, problems |

pub mod config;
pub mod credentials;
pub mod exit;
pub mod http;
pub mod resources;
pub mod secrets;
pub mod testing;

mod admin;
mod application;
mod backoff;
mod bootstrap;
mod cli;
mod counters;
mod expiry;
mod loader;
mod package;
mod reload;
mod reload_requests;
mod signals;
mod status;
mod systemd;
mod telemetry;
mod trace_context;
mod trust;

pub use application::{Application, Background, Build, Generation, Live};
pub use counters::Counter;
pub use http::{ClientCertificate, Problem};
pub use package::Package;
pub use resources::{
    ApiClient, ApiEndpoint, BuildError, CallError, Database, DeliveryError, KeyHeader, Signature, Signer,
};
pub use secrets::Credential;
/// The framework's own sqlx, for [`package!`].
#[doc(hidden)]
pub use sqlx;
pub use trace_context::TraceContext;
/// The credentials of a service, one field each: `Credential<K>`, or `Option<Credential<K>>` where it is on only when
/// its id is configured. The field's name is the credential's.
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
/// What is no credential is no field, and some names are the framework's own:
///
/// ```compile_fail
/// #[derive(vestibule::SecretSet)]
/// struct Secrets {
///     password: String,
/// }
/// ```
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

use std::process::ExitCode;

/// A service's whole `main`: parses the command line, runs it, and says how it ended.
pub fn main<A: Application>() -> ExitCode {
    cli::main::<A>()
}
