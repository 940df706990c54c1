//! Answers of a KV engine, version 2.

use super::{VaultPath, client::VaultAnswer};
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
    path: &VaultPath<'_>,
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
    Ok(Fetched::New(SecretValue { text, version, created: time(metadata.created_time) }))
}

/// Returns the number of the newest version, also of one that was deleted. It is 0 if there is none.
pub(super) fn number(path: &VaultPath<'_>, answer: &VaultAnswer) -> Result<u64, SourceError> {
    Ok(read(path, answer)?.map_or(0, |data| data.metadata.version))
}

/// Returns the current version and the one before it, if they can be read.
pub(super) fn versions(path: &VaultPath<'_>, answer: &VaultAnswer) -> Result<Versions, SourceError> {
    if answer.status == StatusCode::NOT_FOUND {
        return not_found(path, answer).map(|()| Versions::new());
    }
    let VersionsAnswer { data } = parse(path, answer, "read")?;
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
fn read<'a>(path: &VaultPath<'_>, answer: &'a VaultAnswer) -> Result<Option<ReadData<'a>>, SourceError> {
    if answer.status != StatusCode::NOT_FOUND {
        return Ok(Some(parse::<ReadAnswer<'_>>(path, answer, "read")?.data));
    }
    // The answer for a version that was deleted has its metadata.
    if let Ok(ReadAnswer { data }) = json(answer.text(), "a version") {
        return Ok(Some(data));
    }
    not_found(path, answer).map(|()| None)
}

/// Returns `Ok` if a 404 means that the secret does not exist.
fn not_found(path: &VaultPath<'_>, answer: &VaultAnswer) -> Result<(), SourceError> {
    match answer.errors().first() {
        None if answer.is_rejection() => Ok(()),
        None => Err(SourceError::Unavailable("HTTP 404, which is not the answer of a server of Vault".into())),
        Some(error) if error.contains("namespace not found") => {
            Err(SourceError::NoIdentity("there is no such namespace".into()))
        }
        Some(_) => Err(SourceError::Missing(format!("there is no secrets engine at {}/", path.mount))),
    }
}

/// Reads an answer that is no 404.
fn parse<'a, T: Deserialize<'a>>(path: &VaultPath<'_>, answer: &'a VaultAnswer, what: &str) -> Result<T, SourceError> {
    match answer.status {
        StatusCode::OK => json(answer.text(), "an answer of a KV engine").map_err(|_| {
            SourceError::Malformed(format!("the answer is not that of a KV engine of version 2, at {}/", path.mount))
        }),
        StatusCode::FORBIDDEN => Err(SourceError::Denied(format!("no policy of its token lets it {what} this path"))),
        status => Err(SourceError::Unavailable(format!("it answers HTTP {}", status.as_u16()))),
    }
}

/// Returns the id of a version. The number alone is not enough: a secret that was removed begins at 1 again.
fn version_id(number: u64, created: &str) -> VersionId {
    VersionId::new(format!("{number}@{created}"))
}

/// Reads a time, and nothing else: people see it in the id of a version.
fn timestamp<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'de str, D::Error> {
    let text = <&str>::deserialize(deserializer)?;
    if time(text).is_some() { Ok(text) } else { Err(D::Error::custom("it is no time")) }
}

fn time(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::id::SecretId;
    use axum::http::HeaderMap;
    use zeroize::Zeroizing;

    #[test]
    fn only_the_servers_own_404_means_that_there_is_no_secret() {
        let id = SecretId::parse("kv/data/signing").unwrap();
        let path = VaultPath::parse(&id).unwrap();
        let not_found_with = |body: &str| {
            let body = Zeroizing::new(body.as_bytes().to_vec());
            not_found(&path, &VaultAnswer { status: StatusCode::NOT_FOUND, headers: HeaderMap::new(), body })
        };
        assert_eq!(not_found_with(r#"{"errors":[]}"#), Ok(()));
        for body in ["<html>default backend - 404</html>", "", "{}"] {
            assert!(not_found_with(body).unwrap_err().is_transient(), "{body}");
        }
    }
}
