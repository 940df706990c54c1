//! The framework's own sections of the configuration, with their defaults.

use super::{optional_id, units};
use crate::secrets::id::{SecretId, VersionId};
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    num::{NonZeroU16, NonZeroU32},
    path::PathBuf,
    time::Duration,
};

/// `[server]`: the public listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerConfig {
    /// Address and port. Port 0 lets the system choose; the log says which. Changing it needs a restart.
    #[serde(with = "units::address")]
    pub listen: SocketAddr,
    /// The longest a request may take until its response starts; then 503.
    #[serde(with = "units::positive_duration")]
    pub request_timeout: Duration,
    /// Requests in flight, to the last byte of their bodies; one more gets 503.
    pub max_in_flight: NonZeroU32,
    /// The largest request body; a larger one gets 413.
    #[serde(with = "units::size")]
    pub body_limit: ByteSize,
    /// How long a stopping service still accepts, unready, until load balancers have noticed.
    #[serde(with = "units::duration")]
    pub linger: Duration,
    /// How long stopping then waits for requests in flight.
    #[serde(with = "units::duration")]
    pub drain: Duration,
    /// HTTPS, with the certificate of the credential `server_tls`. A change counts for new connections.
    pub tls: bool,
    /// Names of hosts, and addresses, for which the certificate must be valid; empty: any.
    pub tls_names: Vec<String>,
    /// The id of the secret with the authorities of client certificates (the credential `client_ca`). With it, a client
    /// without such a certificate cannot connect. `{prefix}/` at its start stands for `secrets.prefix`. Empty: nobody is
    /// asked for one.
    #[serde(with = "optional_id")]
    pub client_ca: Option<SecretId>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 8080).into(),
            request_timeout: Duration::from_secs(10),
            max_in_flight: NonZeroU32::new(1024).expect("1024 is not zero"),
            body_limit: ByteSize::mib(1),
            linger: Duration::from_secs(3),
            drain: Duration::from_secs(25),
            tls: false,
            tls_names: Vec::new(),
            client_ca: None,
        }
    }
}

/// `[admin]`: the listener for probes and people, never for the public.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdminConfig {
    /// Address and port. Changing it needs a restart.
    #[serde(with = "units::address")]
    pub listen: SocketAddr,
    /// HTTPS, with the certificate of the credential `server_tls`; clients need none. A change counts for new
    /// connections.
    pub tls: bool,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: (Ipv4Addr::LOCALHOST, 9090).into(), tls: false }
    }
}

/// `[telemetry]`: the log on standard output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TelemetryConfig {
    /// One JSON object a line, or text for people. Changing it needs a restart.
    pub format: LogFormat,
    /// Directives of `tracing_subscriber::EnvFilter`, such as `info,sqlx=warn`.
    #[serde(with = "units::filter")]
    pub filter: String,
}

/// How log events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// Text for people.
    Pretty,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { format: LogFormat::Json, filter: "info".into() }
    }
}

/// `[secrets]`: where credentials come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecretsConfig {
    /// The secrets manager. Changing it needs a restart.
    pub provider: SecretsProvider,
    /// What stands before a credential's name where `ids` has no id for it, and for `{prefix}` where an id begins with
    /// `{prefix}/`; empty: the service's name.
    pub prefix: String,
    /// How long the whole bootstrap, or one reload, may take.
    #[serde(with = "units::positive_duration")]
    pub deadline: Duration,
    /// How often the manager is asked without a signal, give or take 10 %; `"0s"`: never.
    #[serde(with = "units::duration")]
    pub refresh_every: Duration,
    /// The longest that credentials may go unverified before the service says so.
    #[serde(with = "units::positive_duration")]
    pub max_stale: Duration,
    /// What readiness answers past `max_stale`.
    pub when_stale: WhenStale,
    /// Ids at the manager, by the credential's name; `{prefix}/` at the start of one stands for `prefix`.
    pub ids: BTreeMap<String, SecretId>,
    /// Ids of versions that are never used, wherever the manager has them: what leaked and was rotated. Which secret
    /// they are of does not matter, and one that the manager does not know is no mistake.
    pub revoked: BTreeSet<VersionId>,
    /// AWS Secrets Manager.
    pub aws: AwsConfig,
}

/// A secrets manager.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretsProvider {
    /// AWS Secrets Manager.
    #[default]
    Aws,
}

/// What readiness answers while credentials are stale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenStale {
    /// 200, with `degraded` and the reason.
    #[default]
    Report,
    /// 503. Takes a whole fleet out at once when the manager is away, and cures nothing.
    Unready,
}

impl Default for SecretsConfig {
    fn default() -> Self {
        Self {
            provider: SecretsProvider::Aws,
            prefix: String::new(),
            deadline: Duration::from_secs(30),
            refresh_every: Duration::from_secs(5 * 60),
            max_stale: Duration::from_secs(24 * 60 * 60),
            when_stale: WhenStale::Report,
            ids: BTreeMap::new(),
            revoked: BTreeSet::new(),
            aws: AwsConfig::default(),
        }
    }
}

/// `[secrets.aws]`. Changing it needs a restart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AwsConfig {
    /// The Region to ask, and after it those to which its secrets are replicated, each asked when those before it do not
    /// answer. Empty: the SDK's own chain.
    pub regions: Vec<String>,
    /// In the `production` profile: take static keys from the environment or a profile file. An identity should come
    /// from the platform instead (a role of the pod, task or instance).
    pub allow_static_keys: bool,
    /// In the `production` profile: talk to an endpoint without TLS.
    pub allow_http_endpoint: bool,
}

/// `[database]`: PostgreSQL. What the `database` credential says of host, port and name wins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DatabaseConfig {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: NonZeroU16,
    /// Name of the database; empty: the service's name, to the letter. One with dashes is as good as any, but stands in
    /// double quotes in SQL: `CREATE DATABASE "my-service"`.
    pub name: String,
    /// The login's user name, where the credential is a bare password.
    pub username: String,
    /// The NOLOGIN role to which `migrate` grants reading and writing; empty: no grants.
    pub access_role: String,
    /// Connections of one process, over all generations.
    pub max_connections: NonZeroU32,
    /// How long a request waits for a connection; then 503.
    #[serde(with = "units::positive_duration")]
    pub acquire_timeout: Duration,
    /// How the connection is protected, in the words of libpq's `sslmode`.
    pub tls: TlsMode,
    /// PEM file of the authorities that sign the server's certificate; empty: the roots that browsers trust.
    pub tls_root_cert: PathBuf,
}

/// libpq's `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs)]
pub enum TlsMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    #[default]
    VerifyFull,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: NonZeroU16::new(5432).expect("5432 is not zero"),
            name: String::new(),
            username: String::new(),
            access_role: String::new(),
            max_connections: NonZeroU32::new(10).expect("10 is not zero"),
            acquire_timeout: Duration::from_secs(5),
            tls: TlsMode::VerifyFull,
            tls_root_cert: PathBuf::new(),
        }
    }
}
