//! The rights that a command needs: at the secrets manager, and at databases that it logs in to with a token.

use super::id::SecretId;
use std::collections::BTreeSet;

/// A command that needs rights of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RightsHolder {
    /// The service: `serve`, and `check --live`.
    Serve,
    /// `migrate`, with the credentials of the migrators.
    Migrate,
    /// `audit`, which reads no value.
    Audit,
    /// `reload --fleet`, which signs with one value, and ends with the audit.
    Reload,
}

/// The rights that a command needs.
#[derive(Default)]
pub(crate) struct Rights<'a> {
    /// The secrets whose values it reads.
    pub(crate) values: BTreeSet<SecretId>,
    /// The secrets whose versions it compares, without their values.
    pub(crate) versions: BTreeSet<SecretId>,
    /// The log-ins that it signs tokens for.
    pub(crate) token_log_ins: Vec<TokenLogIn<'a>>,
}

/// A log-in at a database, with a token in place of a password.
pub(crate) struct TokenLogIn<'a> {
    /// The key of the database's section: `database` or `databases.NAME`.
    pub(crate) section: String,
    /// The Region of the database, if its section names one.
    pub(crate) region: Option<&'a str>,
    pub(crate) user: &'a str,
}

/// A policy that gives a command its rights, and nothing else.
#[derive(Default)]
pub(crate) struct Policy {
    /// The document. Empty if no right is needed.
    pub(crate) document: String,
    /// The remarks for the person who puts the policy into place.
    pub(crate) remarks: Vec<String>,
}
