//! The framework's own sections of the configuration, with their defaults.

pub(crate) mod auth;
pub(crate) mod connections;
pub(crate) mod traces;
pub(crate) mod vault;

use self::{
    auth::{AudienceClaim, TokenAlgorithm},
    traces::{HeaderSetting, ProcessAttribute},
    vault::{VaultAuth, VaultConfig},
};
use super::{
    section::{UnboundedSetting, unbounded},
    units,
};
use crate::{
    credentials::login::{Host, PostgresName},
    http::client_address::ProxyNetwork,
    secrets::id::{SecretId, VersionId},
};
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    num::{NonZeroU16, NonZeroU32},
    path::PathBuf,
    time::Duration,
};
use vestibule_derive::ConfigSection;

/// `[server]`: the public listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ConfigSection)]
#[serde(default)]
pub struct ServerConfig {
    /// The address and port. With port 0 the system chooses one, and the log names it.
    #[serde(with = "units::address")]
    #[setting(restart)]
    pub listen: SocketAddr,
    /// The longest time until the response to a request starts. After it, the client gets 503.
    #[serde(with = "units::duration")]
    #[setting(min = "10ms", max = "1h")]
    pub request_timeout: Duration,
    /// The longest time until the last byte of a response, after it started. After it, the connection ends, or its stream if an
    /// HTTP/2 connection has others, so that a client that does not read keeps nothing in use. A [`LongLived`](crate::LongLived) response may last longer.
    #[serde(with = "units::duration")]
    #[setting(min = "100ms", max = "1h")]
    pub response_timeout: Duration,
    /// The largest number of requests in flight. A request is in flight until the last byte of its response's body, or
    /// until a [`LongLived`](crate::LongLived) response begins. One more gets 503.
    #[setting(min = 1, max = 100_000)]
    pub max_in_flight: NonZeroU32,
    /// The largest number of `LongLived` responses, and of WebSockets that hold one. One more gets 503.
    #[setting(min = 1, max = 100_000)]
    pub max_long_lived: NonZeroU32,
    /// The largest body of a request. A larger one gets 413.
    #[serde(with = "units::size")]
    #[setting(min = "0 B", max = "1 GiB")]
    pub body_limit: ByteSize,
    /// `true` if responses of 1 KiB or more are compressed with gzip for clients that accept it. An attacker who can
    /// choose a part of a response and see its length can guess the rest (BREACH): turn it off, or leave such a route
    /// out with `Cache-Control: no-transform`.
    pub compression: bool,
    /// The proxies that say who the client is: networks such as `10.0.0.0/8`, or addresses. Nobody else is believed.
    pub trusted_proxies: Vec<ProxyNetwork>,
    /// The header in which these proxies name the client. Each of them must append to it, or set it.
    pub proxy_header: ProxyHeader,
    /// The time for which a stopping service is unready but still accepts requests, until load balancers have noticed.
    #[serde(with = "units::duration")]
    #[setting(min = "0s", max = "10m")]
    pub linger: Duration,
    /// The longest time for which a stopping service then waits for requests in flight.
    #[serde(with = "units::duration")]
    #[setting(min = "0s", max = "1h")]
    pub drain: Duration,
    /// HTTPS, with the certificate of the credential `server_tls`. A change applies to new connections.
    pub tls: bool,
    /// The host names and addresses for which the certificate must be valid; if it is empty, any host.
    pub tls_names: Vec<String>,
    /// The id of the secret with the authorities of client certificates: the credential `client_ca`. If it is set, a
    /// client without such a certificate cannot connect. Without it, no client is asked for one. `{prefix}/` at its
    /// start stands for `secrets.prefix`.
    pub client_ca: Option<SecretId>,
    /// `true` if `GET /openapi.json` answers with the OpenAPI document of the routes. It is open to everybody.
    pub openapi: bool,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 8080).into(),
            request_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(60),
            max_in_flight: NonZeroU32::new(1024).expect("1024 is not zero"),
            max_long_lived: NonZeroU32::new(1024).expect("1024 is not zero"),
            body_limit: ByteSize::mib(1),
            compression: true,
            trusted_proxies: Vec::new(),
            proxy_header: ProxyHeader::XForwardedFor,
            linger: Duration::from_secs(3),
            drain: Duration::from_secs(25),
            tls: false,
            tls_names: Vec::new(),
            client_ca: None,
            openapi: true,
        }
    }
}

/// The header in which a proxy names the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    /// `X-Forwarded-For`, which most proxies and load balancers write.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// `[admin]`: the listener for probes and people, never for the public.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ConfigSection)]
#[serde(default)]
pub struct AdminConfig {
    /// The address and port.
    #[serde(with = "units::address")]
    #[setting(restart)]
    pub listen: SocketAddr,
    /// HTTPS, with the certificate of the credential `server_tls`. Clients need no certificate. A change applies to new
    /// connections.
    pub tls: bool,
    /// `true` if `admin.listen` may be an address for all networks (`0.0.0.0`, `[::]`) outside of the `dev` profile. Keep
    /// the port off the public network, for example with a network policy.
    pub allow_all_addresses: bool,
    /// The clients that may have the service reload by `POST /reload`, as `reload --fleet` does: none (`off`), or those that
    /// can read the first signing key of the service at the manager (`signed`).
    pub reload: ReloadAccess,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 9090).into(),
            tls: false,
            allow_all_addresses: false,
            reload: ReloadAccess::Off,
        }
    }
}

/// The clients that may have the service reload over its admin listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadAccess {
    /// Nobody.
    #[default]
    Off,
    /// Requests that a signing key of the service has signed.
    Signed,
}

/// `[telemetry]`: the log on standard output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ConfigSection)]
#[serde(default)]
pub struct TelemetryConfig {
    /// The format of log events.
    #[setting(restart)]
    pub format: LogFormat,
    /// Directives of `tracing_subscriber::EnvFilter`, such as `info,sqlx=warn`.
    #[serde(with = "units::filter")]
    pub filter: String,
}

/// The format of log events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object per line.
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

/// `[secrets]`: the secrets manager, the ids of credentials, and the times of loads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ConfigSection)]
#[serde(default)]
pub struct SecretsConfig {
    /// The secrets manager. It has no effect if the service brings a manager of its own
    /// ([`main_with`](crate::main_with)).
    #[setting(restart)]
    pub provider: SecretsProvider,
    /// The start of ids; if it is empty, the service's name. A credential without an id in `ids` has the id
    /// `<prefix>/<name>`. `{prefix}/` at the start of an id stands for it. With `vault`, `<mount>/data/` stands before it
    /// in both.
    pub prefix: String,
    /// The longest time for the whole bootstrap, and for one reload.
    #[serde(with = "units::duration")]
    #[setting(min = "1s", max = "1h")]
    pub deadline: Duration,
    /// The time between polls of the manager, give or take 10 %; with `"0s"`, there are no polls.
    #[serde(with = "units::duration")]
    #[setting(min = "1s", max = "1d", zero)]
    pub refresh_every: Duration,
    /// The pause before a version that the other side rejected is tried again. A short pause heals sooner. A long one locks
    /// no account out.
    #[serde(with = "units::duration")]
    #[setting(min = "1s", max = "1h")]
    pub probe_every: Duration,
    /// The longest time for which credentials may go unverified before the service reports them as stale.
    #[serde(with = "units::duration")]
    #[setting(min = "1s", max = "365d")]
    pub max_stale: Duration,
    /// The answer of readiness after `max_stale`.
    pub when_stale: WhenStale,
    /// The ids at the manager, by the credentials' names. `{prefix}/` at the start of an id stands for `prefix`.
    pub ids: BTreeMap<String, SecretId>,
    /// The ids of versions that are never used, at any stage: versions that leaked and were rotated. They may be of any
    /// secret, and it is no mistake if the manager does not know one.
    pub revoked: BTreeSet<VersionId>,
    /// The keys of settings that look like credentials and are none, such as `service.build_hash`.
    pub not_credentials: Vec<String>,
    /// The settings of AWS Secrets Manager.
    #[setting(section)]
    pub aws: AwsConfig,
    /// The settings of Vault or OpenBao.
    #[setting(section)]
    pub vault: VaultConfig,
}

/// A secrets manager.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SecretsProvider {
    /// AWS Secrets Manager.
    #[default]
    Aws,
    /// HashiCorp Vault, or OpenBao.
    Vault,
}

impl SecretsProvider {
    /// Returns the start of ids that are not configured: the prefix, below the mount if the manager has mounts.
    pub(super) fn start_of_ids(self, mount: &str, prefix: &str) -> String {
        match self {
            Self::Aws => prefix.to_owned(),
            Self::Vault => VaultConfig::start_of_ids(mount, prefix),
        }
    }
}

/// The answer of readiness while credentials are stale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenStale {
    /// 200, with `degraded` and the reason.
    #[default]
    Report,
    /// 503. If the manager is away, this takes all replicas out of service at once, and cures nothing.
    Unready,
}

impl Default for SecretsConfig {
    fn default() -> Self {
        Self {
            provider: SecretsProvider::Aws,
            prefix: String::new(),
            deadline: Duration::from_secs(30),
            refresh_every: Duration::from_secs(5 * 60),
            probe_every: Duration::from_secs(15),
            max_stale: Duration::from_secs(24 * 60 * 60),
            when_stale: WhenStale::Report,
            ids: BTreeMap::new(),
            revoked: BTreeSet::new(),
            not_credentials: Vec::new(),
            aws: AwsConfig::default(),
            vault: VaultConfig::default(),
        }
    }
}

/// `[secrets.aws]`: AWS Secrets Manager. A change needs a restart. Has no effect if the service brings a manager of its
/// own ([`main_with`](crate::main_with)).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ConfigSection)]
#[serde(default)]
pub struct AwsConfig {
    /// The Region to ask, then the Regions to which its secrets are replicated. Each is asked if those before it do not
    /// answer. If it is empty, the SDK's own chain finds the Region.
    #[setting(restart)]
    pub regions: Vec<String>,
    /// `true` if static keys from the environment or a profile file may be used outside of the `dev` profile. An identity
    /// should come from the platform instead (a role of the pod, task or instance).
    #[setting(restart)]
    pub allow_static_keys: bool,
    /// `true` if an endpoint without TLS may be used outside of the `dev` profile.
    #[setting(restart)]
    pub allow_http_endpoint: bool,
}

/// `[database]`, and each `[databases.NAME]`: PostgreSQL. The host, port and name in the login win over these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ConfigSection)]
#[serde(default)]
pub struct DatabaseConfig {
    /// The host name or address, or the folder of a Unix socket.
    pub host: Host,
    /// The TCP port.
    #[setting(min = 1, max = 65535)]
    pub port: NonZeroU16,
    /// The name of the database; without it, the service's name, or NAME in `[databases.NAME]`. A name with dashes works, but needs double quotes in SQL: `CREATE DATABASE "my-service"`.
    pub name: Option<PostgresName>,
    /// The user name of the login, if the credential is a bare password, or if `auth` is `iam`.
    pub username: Option<PostgresName>,
    /// The proof that a log-in brings: the `password` of a credential, or a token of RDS (`iam`). For `iam`, the
    /// credential with this section's name is not fetched: `username`, `host`, `port` and `name` are those of here, and a
    /// token is signed for each log-in with the platform's identity.
    pub auth: DatabaseAuth,
    /// The AWS Region of a database with `auth = "iam"`; without it, the first of `secrets.aws.regions`, or the platform's.
    pub region: Option<String>,
    /// The user as which `migrate` logs in with `auth = "iam"`; without it, `migrate` logs in with its own credential.
    pub migrator_username: Option<PostgresName>,
    /// The NOLOGIN role to which `migrate` grants reading and writing; without it, there are no grants.
    pub access_role: Option<PostgresName>,
    /// The NOLOGIN role that owns what migrations create; without it, their login does. `migrate` takes its place (`SET
    /// ROLE`), so its login must be a member. A login that owns a table cannot be dropped: one that the manager creates
    /// and drops needs this setting.
    pub owner_role: Option<PostgresName>,
    /// The largest number of connections of one process, over all generations.
    #[setting(min = 1, max = 10_000)]
    pub max_connections: NonZeroU32,
    /// The longest time for which a request waits for a connection. After it, the client gets 503.
    #[serde(with = "units::duration")]
    #[setting(min = "10ms", max = "10m")]
    pub acquire_timeout: Duration,
    /// The longest time of a statement; with `"0s"`, it is `server.request_timeout`. The server ends a longer one.
    /// `Transaction::set_statement_timeout` raises it for background work.
    #[serde(with = "units::duration")]
    #[setting(min = "1ms", max = "1d", zero)]
    pub statement_timeout: Duration,
    /// The longest time for which a transaction may wait for its next statement; with `"0s"`, it is
    /// `server.request_timeout`. After it, the server ends the connection.
    #[serde(with = "units::duration")]
    #[setting(min = "1ms", max = "1d", zero)]
    pub idle_in_transaction_timeout: Duration,
    /// `true` if a log-in sends both timeouts in the startup parameter `options`, which RDS Proxy refuses. With `false`,
    /// set them for the role.
    pub startup_options: bool,
    /// The age at which a connection is closed when it comes back, give or take 10 %.
    #[serde(with = "units::duration")]
    #[setting(min = "1s", max = "7d")]
    pub max_lifetime: Duration,
    /// The time after which an idle connection is closed, give or take 10 %.
    #[serde(with = "units::duration")]
    #[setting(min = "1s", max = "7d")]
    pub idle_timeout: Duration,
    /// The protection of the connection, in the words of libpq's `sslmode`; none through a Unix socket, where the
    /// kernel vouches for the other side.
    pub tls: TlsMode,
    /// `true` if `tls` may be a mode that does not verify the server's certificate outside of the `dev` profile.
    pub allow_unverified_tls: bool,
    /// The PEM file of the authorities that sign the server's certificate; without it, the roots that browsers trust.
    pub tls_root_cert: Option<PathBuf>,
}

/// The proof that a log-in at a database brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatabaseAuth {
    /// The password of a credential.
    #[default]
    Password,
    /// A token that is signed for each log-in: IAM database authentication of RDS.
    Iam,
}

/// The protection of a connection: libpq's [`sslmode`](https://www.postgresql.org/docs/current/libpq-ssl.html).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "libpq documents them")]
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
            host: Host::parse("127.0.0.1").expect("an address is a host"),
            port: NonZeroU16::new(5432).expect("5432 is not zero"),
            name: None,
            username: None,
            auth: DatabaseAuth::Password,
            region: None,
            migrator_username: None,
            access_role: None,
            owner_role: None,
            max_connections: NonZeroU32::new(10).expect("10 is not zero"),
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::ZERO,
            idle_in_transaction_timeout: Duration::ZERO,
            startup_options: true,
            max_lifetime: Duration::from_secs(30 * 60),
            idle_timeout: Duration::from_secs(10 * 60),
            tls: TlsMode::VerifyFull,
            allow_unverified_tls: false,
            tls_root_cert: None,
        }
    }
}

impl DatabaseConfig {
    /// Returns the name of the database.
    pub(crate) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// Returns `true` if a log-in needs no secret: a token is signed for it.
    pub(crate) fn is_iam(&self) -> bool {
        self.auth == DatabaseAuth::Iam
    }
}

unbounded! {
    ProxyNetwork: "network",
    HeaderSetting: "header",
    ProcessAttribute: "attribute",
    ProxyHeader: "`x-forwarded-for` or `forwarded`",
    AudienceClaim: "`aud` or `client_id`",
    TokenAlgorithm: "`ES256`, `ES384`, `RS256`, `RS384`, `RS512`, `PS256`, `PS384`, `PS512` or `EdDSA`",
    LogFormat: "`json` or `pretty`",
    ReloadAccess: "`off` or `signed`",
    SecretsProvider: "`aws` or `vault`",
    VaultAuth: "`kubernetes`, `approle`, `jwt` or `token_file`",
    WhenStale: "`report` or `unready`",
    DatabaseAuth: "`password` or `iam`",
    TlsMode: "`disable`, `allow`, `prefer`, `require`, `verify-ca` or `verify-full`",
    SecretId: "id of a secret",
    VersionId: "id of a version",
    Host: "host",
    PostgresName: "name",
}
