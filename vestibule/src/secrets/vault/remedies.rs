//! Remedies: the actions that help against an error of Vault or OpenBao.

use super::{
    VaultPath,
    certificates::{HAS_LEASES, NOT_ISSUED},
    logins::NO_LEASE,
    path::VaultEngine,
    policy,
};
use crate::{
    config::settings::vault::{VaultAuth, VaultConfig},
    secrets::{
        id::SecretId,
        source::{Operation, SourceError},
    },
};
use std::borrow::Cow;

/// Returns the remedy of an error of an operation on this id.
pub(super) fn remedy(
    config: &VaultConfig,
    id: &SecretId,
    error: &SourceError,
    operation: Operation,
) -> Cow<'static, str> {
    match error {
        SourceError::Denied(_) | SourceError::Missing(_)
            if operation == Operation::RenewLease && issues_certificates(id) =>
        {
            "look with `bao secrets list` if its engine is there: a reload asks it if the certificate was revoked"
                .into()
        }
        SourceError::Denied(_) => missing_right(config, id, operation).into(),
        SourceError::NoIdentity(_) | SourceError::ClockWrong(_) => login(config).into(),
        SourceError::Missing(_) => missing(id).into(),
        SourceError::Malformed(problem) if problem.ends_with(HAS_LEASES) => without_leases(id).into(),
        SourceError::Malformed(problem) if problem.starts_with(NOT_ISSUED) => issuable(id).into(),
        SourceError::Malformed(problem) if problem.ends_with(NO_LEASE) => {
            "name a role whose logins have leases, as those of an engine for databases do".into()
        }
        SourceError::Malformed(_) => {
            "name a path in an engine that gives such an answer: `bao secrets list -detailed` shows the engines".into()
        }
        SourceError::NotConnected { remedy: Some(remedy), .. } => (*remedy).into(),
        SourceError::Unavailable(_) | SourceError::NotConnected { .. } | SourceError::Unanswered(_) => {
            "check secrets.vault.addresses, the network in between, and the server's health (`bao status`)".into()
        }
    }
}

fn missing_right(config: &VaultConfig, id: &SecretId, operation: Operation) -> String {
    const MAY_BE_WRONG: &str = "; check the path too, because a wrong mount gets the same answer";
    let (path, capability, hint) = match (operation, VaultPath::parse(id)) {
        (Operation::RenewLease, _) => ("sys/leases/renew".into(), "update", ""),
        (Operation::ReadValue, Some(path)) => (path.of_value(), path.engine.capability(), MAY_BE_WRONG),
        (Operation::ReadVersions, Some(path)) => (path.of_metadata(), "read", MAY_BE_WRONG),
        (_, None) => (id.to_string(), "read", MAY_BE_WRONG),
    };
    let namespace = match config.namespace.as_str() {
        "" => String::new(),
        namespace => format!(", in the namespace {namespace}"),
    };
    format!("give its role a policy with: {}{namespace}{hint}", policy::statement(&path, capability))
}

fn login(config: &VaultConfig) -> String {
    let mount = config.auth_mount();
    let VaultConfig { role, namespace, .. } = config;
    let remedy = match config.auth {
        VaultAuth::Kubernetes => format!(
            "let the role `{role}` of auth/{mount} bind this pod's service account, its namespace and the token's \
             audience; let the server reach the cluster's TokenReview: it gives the same answer if it cannot"
        ),
        VaultAuth::Jwt => format!(
            "compare the token in secrets.vault.jwt_file with the role `{role}` of auth/{mount} (bound_audiences, \
             bound_subject, bound_claims) and with the keys and the issuer in auth/{mount}/config"
        ),
        VaultAuth::AppRole => format!(
            "put the role id and a new secret id of one role of auth/{mount} into secrets.vault.role_id_file and \
             secret_id_file: a secret id ends with its TTL and its uses; after a few wrong ones, the server denies also \
             the right one for 15 minutes"
        ),
        VaultAuth::TokenFile => {
            "let the agent put a token that is valid into secrets.vault.token_file; a policy must allow it to read \
             auth/token/lookup-self, as the policy `default` does"
                .into()
        }
    };
    let namespace = if namespace.is_empty() { "" } else { "; check secrets.vault.namespace too" };
    format!("{remedy}{namespace}")
}

fn without_leases(id: &SecretId) -> String {
    format!("turn it off in the role: `bao patch {} generate_lease=false`", role_of(id))
}

fn issuable(id: &SecretId) -> String {
    format!("compare [secrets.vault.issue.NAME] with the role: `bao read {}`", role_of(id))
}

fn issues_certificates(id: &SecretId) -> bool {
    VaultPath::parse(id).is_some_and(VaultPath::issues_certificates)
}

/// Returns the path of the role that has a value made.
fn role_of(id: &SecretId) -> String {
    VaultPath::parse(id).map_or_else(|| id.to_string(), VaultPath::of_metadata)
}

fn missing(id: &SecretId) -> String {
    match VaultPath::parse(id) {
        Some(path) if path.engine != VaultEngine::Kv => {
            format!("make the role (`bao write {} …`), or correct its id", path.of_metadata())
        }
        Some(VaultPath { mount, name, .. }) => format!(
            "put it there (`bao kv put -mount={mount} {name} …`; if it was deleted, `bao kv undelete`), or correct its id"
        ),
        None => "correct its id".into(),
    }
}
