//! Answers of an engine that makes logins, such as that for databases.

use super::{
    client::VaultAnswer,
    engine::{not_found, parse},
    kv::timestamp,
    path::VaultPath,
};
use crate::{
    credentials::{json, unescaped},
    secrets::{
        id::VersionId,
        source::{Fetched, SourceError},
        version::{SecretValue, Stage, Versions},
    },
};
use aws_lc_rs::digest::{SHA256, digest};
use axum::http::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::time::Duration;

const ENGINE: &str = "an engine that makes logins";

/// The problem of a role whose logins do not end by themselves.
pub(super) const NO_LEASE: &str = "gives no lease";

/// A login that was made for this process.
pub(super) struct IssuedLogin {
    pub(super) text: SecretString,
    pub(super) version: VersionId,
    pub(super) lease_id: SecretString,
    pub(super) granted: Duration,
}

/// The answer with a login that was made for it.
#[derive(Deserialize)]
struct IssuedAnswer<'a> {
    #[serde(deserialize_with = "unescaped")]
    lease_id: SecretString,
    lease_duration: u64,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// The part of a login that names its user.
#[derive(Deserialize)]
struct LoginUser {
    username: String,
}

/// The answer with a login that the engine rotates, or about its role.
#[derive(Deserialize)]
struct StaticAnswer<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct RotatedLogin<'a> {
    #[serde(borrow, deserialize_with = "timestamp")]
    last_vault_rotation: &'a str,
    /// The time until the next rotation, in seconds.
    #[serde(default)]
    ttl: Option<u64>,
}

/// Returns the login of an answer. Its version is the user's name. Never the id of the lease: who knows it can end the
/// lease.
pub(super) fn issued(path: VaultPath<'_>, answer: &VaultAnswer) -> Result<IssuedLogin, SourceError> {
    check_role(path, answer)?;
    let IssuedAnswer { lease_id, lease_duration, data } = parse(path, answer, ENGINE)?;
    if lease_id.expose_secret().is_empty() || lease_duration == 0 {
        return Err(SourceError::Malformed(format!("the role {} {NO_LEASE}", path.name)));
    }
    let version = match json::<LoginUser>(data.get(), "a login") {
        Ok(LoginUser { username }) if is_shown(&username) => VersionId::new(username),
        _ => version_of_unnamed(&lease_id),
    };
    let granted = Duration::from_secs(lease_duration);
    Ok(IssuedLogin { text: data.get().into(), version, lease_id, granted })
}

/// Returns the login that the engine rotates. `held` is the version that need not be read again. `is_worth_waiting` is
/// `true` for a version whose successor may still come at once.
pub(super) fn rotated(
    path: VaultPath<'_>,
    answer: &VaultAnswer,
    held: Option<&VersionId>,
    is_worth_waiting: impl FnOnce(&VersionId) -> bool,
) -> Result<Fetched, SourceError> {
    check_role(path, answer)?;
    let StaticAnswer { data } = parse(path, answer, ENGINE)?;
    let RotatedLogin { last_vault_rotation, ttl } = last_rotation(path, data)?;
    let version = VersionId::new(last_vault_rotation);
    if held == Some(&version) {
        return Ok(Fetched::Same);
    }
    if ttl == Some(0) && is_worth_waiting(&version) {
        return Err(SourceError::Unavailable("the engine is about to rotate this login".into()));
    }
    Ok(Fetched::New(SecretValue { text: data.get().into(), version, created: None, lease: None }))
}

/// Returns the version of the login that the engine rotates.
pub(super) fn versions_of_rotated(path: VaultPath<'_>, answer: &VaultAnswer) -> Result<Versions, SourceError> {
    check_role(path, answer)?;
    let StaticAnswer { data } = parse(path, answer, ENGINE)?;
    let RotatedLogin { last_vault_rotation, .. } = last_rotation(path, data)?;
    Ok(Versions::from([(Stage::Current, VersionId::new(last_vault_rotation))]))
}

fn last_rotation<'a>(path: VaultPath<'_>, data: &'a RawValue) -> Result<RotatedLogin<'a>, SourceError> {
    json(data.get(), "a login that is rotated")
        .map_err(|_| SourceError::Malformed(format!("the role {} has no time of its last rotation", path.name)))
}

/// Refuses an answer that says that there is no such role.
fn check_role(path: VaultPath<'_>, answer: &VaultAnswer) -> Result<(), SourceError> {
    let missing = || Err(SourceError::Missing(format!("the engine at {}/ has no role {}", path.mount, path.name)));
    match answer.status {
        StatusCode::NOT_FOUND => not_found(path, answer).and_then(|()| missing()),
        StatusCode::BAD_REQUEST if answer.errors().iter().any(|error| error.contains("unknown role")) => missing(),
        _ => Ok(()),
    }
}

/// Returns `true` if people may be shown a user's name as it is.
fn is_shown(username: &str) -> bool {
    (1..=256).contains(&username.len()) && username.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Returns the version of a login without a user's name.
fn version_of_unnamed(lease_id: &SecretString) -> VersionId {
    let digest = digest(&SHA256, lease_id.expose_secret().as_bytes());
    let first: [u8; 8] = digest.as_ref()[..8].try_into().expect("SHA-256 has 32 bytes");
    VersionId::new(format!("{:016x}", u64::from_be_bytes(first)))
}
