//! Answers of a KV engine, version 2.

use super::{
    client::VaultAnswer,
    engine::{not_found, parse},
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
use axum::http::StatusCode;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

const ENGINE: &str = "a KV engine of version 2";

/// The answer to a read, also that of a version which was deleted.
#[derive(Deserialize)]
struct ReadAnswer<'a> {
    #[serde(borrow)]
    data: ReadData<'a>,
}

#[derive(Deserialize)]
struct ReadData<'a> {
    /// The fields of the secret. `None` if the version was deleted or destroyed.
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    metadata: ReadMetadata<'a>,
}

#[derive(Deserialize)]
struct ReadMetadata<'a> {
    version: u64,
    #[serde(borrow, deserialize_with = "timestamp")]
    created_time: &'a str,
    #[serde(default)]
    destroyed: bool,
}

/// A secret with one field, `value`: its value is that text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BareValue {
    #[serde(deserialize_with = "unescaped")]
    value: SecretString,
}

/// The answer about all versions.
#[derive(Deserialize)]
struct VersionsAnswer<'a> {
    #[serde(borrow)]
    data: VersionsData<'a>,
}

#[derive(Deserialize)]
struct VersionsData<'a> {
    current_version: u64,
    #[serde(borrow)]
    versions: BTreeMap<&'a str, VersionEntry<'a>>,
}

#[derive(Deserialize)]
struct VersionEntry<'a> {
    #[serde(borrow, deserialize_with = "timestamp")]
    created_time: &'a str,
    deletion_time: &'a str,
    destroyed: bool,
}

impl VersionEntry<'_> {
    fn is_readable(&self) -> bool {
        let is_deleted = time(self.deletion_time).is_some_and(|at| at <= OffsetDateTime::now_utc());
        !self.destroyed && !is_deleted
    }
}

/// Returns the value of an answer. `held` is the version that need not be read again.
pub(super) fn value(
    path: VaultPath<'_>,
    answer: &VaultAnswer,
    held: Option<&VersionId>,
) -> Result<Fetched, SourceError> {
    let Some(ReadData { data, metadata }) = read(path, answer)? else {
        return Ok(Fetched::Absent);
    };
    let Some(data) = data else {
        let what = if metadata.destroyed { "destroyed" } else { "deleted" };
        return Err(SourceError::Missing(format!("version {} is {what}", metadata.version)));
    };
    let version = version_id(metadata.version, metadata.created_time);
    if held == Some(&version) {
        return Ok(Fetched::Same);
    }
    // The fields as they were written, or the one text that is the whole secret.
    let text = match json::<BareValue>(data.get(), "one text") {
        Ok(BareValue { value }) => value,
        Err(_) => data.get().into(),
    };
    Ok(Fetched::New(SecretValue { text, version, created: time(metadata.created_time), lease: None }))
}

/// Returns the number of the newest version, also of one that was deleted. It is 0 if there is none.
pub(super) fn number(path: VaultPath<'_>, answer: &VaultAnswer) -> Result<u64, SourceError> {
    Ok(read(path, answer)?.map_or(0, |data| data.metadata.version))
}

/// Returns the current version and the one before it, if they can be read.
pub(super) fn versions(path: VaultPath<'_>, answer: &VaultAnswer) -> Result<Versions, SourceError> {
    if answer.status == StatusCode::NOT_FOUND {
        return not_found(path, answer).map(|()| Versions::new());
    }
    let VersionsAnswer { data } = parse(path, answer, ENGINE)?;
    let mut versions = Versions::new();
    for (stage, number) in
        [(Stage::Current, Some(data.current_version)), (Stage::Previous, data.current_version.checked_sub(1))]
    {
        let Some(number) = number else { continue };
        match data.versions.get(number.to_string().as_str()) {
            Some(entry) if entry.is_readable() => {
                versions.insert(stage, version_id(number, entry.created_time));
            }
            _ => {}
        }
    }
    if !versions.contains_key(&Stage::Current) && data.current_version > 0 {
        return Err(SourceError::Missing(format!("version {} is deleted or destroyed", data.current_version)));
    }
    Ok(versions)
}

/// Reads the answer to a read. Returns `None` if there is no secret.
fn read<'a>(path: VaultPath<'_>, answer: &'a VaultAnswer) -> Result<Option<ReadData<'a>>, SourceError> {
    if answer.status != StatusCode::NOT_FOUND {
        return Ok(Some(parse::<ReadAnswer<'_>>(path, answer, ENGINE)?.data));
    }
    // The answer for a version that was deleted has its metadata.
    if let Ok(ReadAnswer { data }) = json(answer.text(), "a version") {
        return Ok(Some(data));
    }
    not_found(path, answer).map(|()| None)
}

/// Returns the id of a version. The number alone is not enough: a secret that was removed begins at 1 again.
fn version_id(number: u64, created: &str) -> VersionId {
    VersionId::new(format!("{number}@{created}"))
}

/// Reads a time, and nothing else: people see it in the id of a version.
pub(super) fn timestamp<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'de str, D::Error> {
    let text = <&str>::deserialize(deserializer)?;
    if time(text).is_some() { Ok(text) } else { Err(D::Error::custom("it is no time")) }
}

fn time(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}
