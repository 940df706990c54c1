//! The arguments of the command line. The doc comments are the help texts.

use super::{health::HealthProbe, reload::waves::WaveSize};
use crate::{
    config::SecretsProvider,
    debug_tokens::LIFETIMES,
    secrets::{
        aws::policy::{KmsKey, is_account},
        rights::RightsHolder,
    },
};
use clap::{Args, Parser, Subcommand};
use rustls::pki_types::ServerName;
use std::{num::NonZeroUsize, path::PathBuf, time::Duration};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

#[derive(Parser)]
#[command(
    after_help = "Exit codes: 0 stopped as asked, 64 usage, 65 a credential is malformed, 66 a credential does not \
                  exist, 69 the manager or the database is unavailable, 70 bug, 71 cannot bind, 75 deadline passed, \
                  77 denied, 78 configuration."
)]
pub(super) struct Cli {
    /// The folder that contains default.toml and the profiles.
    #[arg(long, global = true, env = "APP_CONFIG_DIR", default_value = "config", value_name = "FOLDER")]
    pub(super) config_dir: PathBuf,
    #[command(subcommand)]
    pub(super) command: Option<CliCommand>,
}

#[derive(Subcommand)]
pub(super) enum CliCommand {
    /// Fetch every credential, then serve; reload on SIGHUP (the default).
    Serve,
    /// Check the configuration, and report all mistakes at once.
    Check {
        /// Also fetch every credential and build the service, as a start does.
        #[arg(long)]
        live: bool,
    },
    /// Apply the migrations with the `migrator` credential.
    Migrate,
    /// Print the effective configuration, and the source of each value.
    Config {
        /// Print JSON, with the credentials that the service needs.
        #[arg(long)]
        json: bool,
        /// Print all settings as a table: type, default, bounds, what a change needs, and the meaning.
        #[arg(long, conflicts_with = "json")]
        explain: bool,
    },
    /// Print the OpenAPI document of the routes. Needs no configuration.
    Openapi {
        /// Describe the routes as they are with authentication on.
        #[arg(long)]
        auth: bool,
    },
    /// Print the least policy with which a command works, for the ids of this configuration.
    ///
    /// It is an IAM policy, or a policy of Vault or OpenBao. It is on standard output alone; remarks are on standard error.
    /// Needs no credential, and asks nobody.
    Policy {
        /// The command that gets the rights.
        #[arg(long = "for", value_enum, value_name = "COMMAND", default_value = "serve")]
        holder: RightsHolder,
        /// The provider whose policy is printed; without it, that of the secrets. With secrets at Vault, `aws` prints the
        /// policy for databases with auth = "iam".
        #[arg(long, value_enum)]
        provider: Option<SecretsProvider>,
        /// The AWS account, if no id of a secret is an ARN: 12 digits.
        #[arg(long, value_name = "ID", value_parser = account)]
        account: Option<String>,
        /// The ARN of a key of KMS that the secrets are encrypted with, if it is not AWS's own. Once for each key; each Region
        /// has its own.
        #[arg(long, value_name = "ARN", value_parser = kms_key)]
        kms_key: Vec<KmsKey>,
        /// The resource id of a database with auth = "iam", such as database=db-ABCDEFGHIJKL01234, or
        /// databases.reports=cluster-… for the section of that name.
        #[arg(long, value_name = "SECTION=ID", value_parser = database_resource)]
        database_resource: Vec<(String, String)>,
    },
    /// Send SIGHUP to the running service, or reload a fleet. Works in a container that has no `kill`.
    ///
    /// The kernel says which process listens beside the admin listener of this configuration. No other one gets the signal.
    ///
    /// With --fleet, each replica gets a request on its admin listener, which must allow it (admin.reload). Ends with the
    /// output and the code of `audit`, or with the code of the replicas that could not be reloaded.
    Reload {
        /// Refuse to signal any other process than this one.
        #[arg(long, value_name = "PID")]
        pid: Option<i32>,
        /// Wait for the reload, and end with 0 or the code of its report. Ends with 75 after twice secrets.deadline and
        /// 5 s.
        #[arg(long, group = "outcome")]
        wait: bool,
        /// After the reload, wait up to this long (such as 30s) for answers of the new generation. Then print whether it
        /// has more errors than the one before, or is slower. With --fleet, more errors stop it.
        #[arg(long, value_name = "DURATION", requires = "outcome", default_value = "0s", value_parser = settle)]
        settle: Duration,
        /// Reload these replicas, in waves, and stop at the first bad outcome: admin listeners as `audit` takes them. Signs
        /// the requests with the service's signing key, which it fetches from the manager.
        #[arg(long, value_name = "URL", num_args = 1.., group = "outcome", conflicts_with = "pid")]
        fleet: Vec<String>,
        /// The size of each wave after the first, which is one replica: a number, a part of the fleet such as 25%, or
        /// `double`: twice the size of the wave before.
        #[arg(long, value_name = "SIZE", requires = "fleet", default_value = "double", value_parser = WaveSize::parse)]
        wave: WaveSize,
        /// End after the last wave, without the audit. Each wave has compared the versions of its replicas; nobody has looked
        /// for what still uses older ones.
        #[arg(long, requires = "fleet")]
        no_audit: bool,
        /// The expected number of different replicas. By default, the number of URLs; with dns://, any number.
        #[arg(long, value_name = "N", requires = "fleet")]
        expect: Option<NonZeroUsize>,
        /// PEM file of the authorities to trust for the replicas' certificates, in place of those that the platform
        /// trusts.
        #[arg(long, value_name = "FILE", requires = "fleet")]
        ca: Option<PathBuf>,
        /// The host that the replicas' certificates must be for, in place of the hosts of the URLs.
        #[arg(long, value_name = "HOST", value_parser = host, requires = "fleet")]
        name: Option<ServerName<'static>>,
    },
    /// Compare the versions that each replica holds with those that the secrets manager has now.
    ///
    /// Ends with 0 if every replica holds the current version of every credential, and nothing older. Ends with 69 if a
    /// replica is behind, drains or does not answer, or if the number of replicas is not the expected one. A credential with
    /// a lease is not compared, because each replica has its own.
    Audit(AuditArguments),
    /// Print a token of the running service. A request that bears it in `x-debug-token` is logged at debug.
    ///
    /// The service on this machine signs it with its signing key, and each of its replicas accepts it.
    DebugToken {
        /// The lifetime of the token, from 1m to 1h.
        #[arg(long = "for", value_name = "DURATION", default_value = "10m", value_parser = token_lifetime)]
        lifetime: Duration,
    },
    /// Ask the service on this machine, for a container's health check.
    Health {
        /// The probe to ask for.
        #[arg(value_enum, default_value = "ready")]
        probe: HealthProbe,
    },
}

/// The arguments of `audit`.
#[derive(Args)]
pub(super) struct AuditArguments {
    /// Admin listeners: http://10.0.0.7:9090, or 10.0.0.7:9090; with admin.tls, https://10.0.0.7:9090. Or a name with the
    /// addresses of several: dns://payments-admin:9090, with admin.tls dns+https://payments-admin:9090.
    #[arg(required = true, value_name = "URL")]
    pub(super) urls: Vec<String>,
    /// The expected number of different replicas. By default, the number of URLs; with dns://, any number.
    #[arg(long, value_name = "N")]
    pub(super) expect: Option<NonZeroUsize>,
    /// PEM file of the authorities to trust for the replicas' certificates, in place of those that the platform
    /// trusts.
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// The host that the replicas' certificates must be for, in place of the hosts and names of the URLs.
    #[arg(long, value_name = "HOST", value_parser = host)]
    pub(super) name: Option<ServerName<'static>>,
    /// The time after which each credential with a lease must have been loaded, such as 2026-11-29T03:04:05Z: the time
    /// at which all leases were revoked.
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub(super) since: Option<OffsetDateTime>,
}

/// Parses the value of `--name`.
fn host(text: &str) -> Result<ServerName<'static>, &'static str> {
    ServerName::try_from(text.to_owned()).map_err(|_| "give the name of a host, or an IP address")
}

/// Parses the value of `--since`.
fn since(text: &str) -> Result<OffsetDateTime, &'static str> {
    match OffsetDateTime::parse(text, &Rfc3339) {
        Ok(since) if since <= OffsetDateTime::now_utc() => Ok(since),
        Ok(_) => Err("it is in the future: give the time at which the leases were revoked"),
        Err(_) => Err("give a time of RFC 3339 with its offset from UTC, such as 2026-11-29T03:04:05Z"),
    }
}

/// Parses the value of `--account`.
fn account(text: &str) -> Result<String, &'static str> {
    if is_account(text) { Ok(text.to_owned()) } else { Err("give the 12 digits of an account") }
}

/// Parses a value of `--kms-key`.
fn kms_key(text: &str) -> Result<KmsKey, &'static str> {
    KmsKey::parse(text)
        .ok_or("give the ARN of a key, such as arn:aws:kms:eu-west-1:123456789012:key/…; a policy cannot name an alias")
}

/// Parses a value of `--database-resource`.
fn database_resource(text: &str) -> Result<(String, String), &'static str> {
    let expected = "give a section and a resource id, such as database=db-ABCDEFGHIJKL01234; the id begins with db-, cluster- \
                    or prx-";
    let (section, id) = text.split_once('=').ok_or(expected)?;
    let name = ["db-", "cluster-", "prx-"].iter().find_map(|kind| id.strip_prefix(kind)).ok_or(expected)?;
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(expected);
    }
    Ok((section.to_owned(), id.to_owned()))
}

/// Parses the value of `--settle`.
fn settle(text: &str) -> Result<Duration, &'static str> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= Duration::from_secs(60 * 60) => Ok(duration),
        _ => Err("give a duration of up to 1h, such as 30s"),
    }
}

/// Parses the value of `--for`.
fn token_lifetime(text: &str) -> Result<Duration, &'static str> {
    match humantime::parse_duration(text) {
        Ok(duration) if LIFETIMES.contains(&duration) => Ok(duration),
        _ => Err("give a duration from 1m to 1h, such as 10m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_that_was() {
        let hour = Duration::from_secs(60 * 60);
        let at = OffsetDateTime::now_utc() - hour;
        assert_eq!(since(&at.format(&Rfc3339).unwrap()), Ok(at));
        assert_eq!(since("2026-01-02T03:04:05+01:00"), since("2026-01-02T02:04:05.000Z"));
        let ahead = (OffsetDateTime::now_utc() + hour).format(&Rfc3339).unwrap();
        assert!(since(&ahead).unwrap_err().contains("future"));
        for text in ["", "yesterday", "1h", "2026-01-02", "2026-01-02T03:04:05", "2026-01-02 03:04", "1767323045"] {
            assert!(since(text).unwrap_err().contains("such as 2026-"), "{text}");
        }
    }
}
