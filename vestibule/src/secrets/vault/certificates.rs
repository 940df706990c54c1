//! Answers of a PKI engine, which issues certificates.

use super::{
    ATTEMPT,
    client::{VaultAnswer, VaultCall, json_object},
    engine::{not_found, parse},
    path::VaultPath,
    servers::VaultServers,
    sessions::VaultSession,
};
use crate::{
    config::settings::vault::VaultIssueConfig,
    credentials::json,
    secrets::{
        id::{SecretId, VersionId},
        lease::{LeaseCalls, Renewal},
        source::SourceError,
    },
};
use axum::http::StatusCode;
use futures_util::future::BoxFuture;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio::time::Instant;
use zeroize::Zeroizing;

const ENGINE: &str = "a PKI engine";

/// The problem of a role whose certificates have leases.
pub(super) const HAS_LEASES: &str =
    "gives each certificate a lease (generate_lease = true), which ends with the token and revokes it";

/// The problem of a role that does not allow the certificate. The server's reason comes after it.
pub(super) const NOT_ISSUED: &str = "the role issues no such certificate";

/// A certificate that was issued for this process, with its key.
pub(super) struct IssuedCertificate {
    pub(super) text: SecretString,
    pub(super) serial: String,
    /// The time until its end.
    pub(super) left: Duration,
}

#[derive(Deserialize)]
struct IssueAnswer<'a> {
    /// Empty, unless the role has `generate_lease`.
    #[serde(borrow)]
    lease_id: Option<&'a RawValue>,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct CertificateTerms {
    serial_number: String,
    /// Its end, in seconds since 1970.
    expiration: u64,
}

#[derive(Deserialize)]
struct StoredAnswer {
    data: StoredCertificate,
}

#[derive(Deserialize)]
struct StoredCertificate {
    /// In seconds since 1970, or 0.
    revocation_time: u64,
}

/// Returns the body of a request for a certificate.
pub(super) fn request(issue: &VaultIssueConfig) -> Zeroizing<Vec<u8>> {
    let mut fields = vec![("common_name", issue.common_name.clone())];
    let others = [("alt_names", issue.alt_names.join(",")), ("ip_sans", issue.ip_sans.join(","))];
    fields.extend(others.into_iter().filter(|(_, value)| !value.is_empty()));
    if !issue.ttl.is_zero() {
        fields.push(("ttl", format!("{}s", issue.ttl.as_secs())));
    }
    let fields: Vec<_> = fields.into_iter().map(|(name, value)| (name, Zeroizing::new(value))).collect();
    json_object(&fields)
}

/// Returns the certificate of an answer.
pub(super) fn issued(path: VaultPath<'_>, answer: &VaultAnswer) -> Result<IssuedCertificate, SourceError> {
    match answer.status {
        StatusCode::NOT_FOUND => not_found(path, answer)?,
        StatusCode::BAD_REQUEST if answer.errors().iter().any(|error| error.contains("unknown role")) => {
            return Err(SourceError::Missing(format!("the engine at {}/ has no role {}", path.mount, path.name)));
        }
        // Its words are about names that the configuration has, and no secret.
        StatusCode::BAD_REQUEST => {
            return Err(SourceError::Malformed(format!("{NOT_ISSUED}: {}", answer.quoted_errors())));
        }
        _ => (),
    }
    let IssueAnswer { lease_id, data } = parse(path, answer, ENGINE)?;
    if lease_id.is_some_and(|id| id.get() != "\"\"") {
        // The certificate would be revoked with the token that it was issued with, while it is in service.
        return Err(SourceError::Malformed(format!("the role {} {HAS_LEASES}", path.name)));
    }
    let malformed = |()| SourceError::Malformed(format!("the role {} gives no certificate", path.name));
    let CertificateTerms { serial_number, expiration } =
        json(data.get(), "a certificate").map_err(|_| malformed(()))?;
    let is_serial = |byte: u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'-');
    if serial_number.is_empty() || serial_number.len() > 256 || !serial_number.bytes().all(is_serial) {
        return Err(malformed(()));
    }
    let now = u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap_or_default();
    let left = Duration::from_secs(expiration.saturating_sub(now));
    Ok(IssuedCertificate { text: data.get().into(), serial: serial_number, left })
}

impl IssuedCertificate {
    /// Returns the version: the serial number.
    pub(super) fn version(&self) -> VersionId {
        VersionId::new(self.serial.clone())
    }
}

/// Returns what the answer to a question for a stored certificate means for the one in service.
///
/// # Errors
/// If the engine does not say whether it was revoked. Where no engine is, the server denies a question that needs no token.
pub(super) fn revocation(path: VaultPath<'_>, answer: &VaultAnswer) -> Result<Renewal, SourceError> {
    match answer.status {
        StatusCode::NOT_FOUND => {
            not_found(path, answer)?;
            // The role stores none (`no_store`), so nobody can revoke them by their serial numbers.
            Ok(Renewal::AsBefore)
        }
        StatusCode::FORBIDDEN => {
            Err(SourceError::Denied(format!("the server does not say if {}/ has revoked it", path.mount)))
        }
        _ => {
            let StoredAnswer { data } = parse(path, answer, ENGINE)?;
            Ok(if data.revocation_time > 0 { Renewal::Ended } else { Renewal::AsBefore })
        }
    }
}

/// The certificate in service, as the engine has stored it. It ends by itself, and nobody can make it longer.
pub(super) struct StoredAtEngine {
    /// The id that it was issued by.
    pub(super) id: SecretId,
    pub(super) serial: String,
    pub(super) session: Arc<VaultSession>,
    pub(super) servers: Arc<VaultServers>,
}

impl LeaseCalls for StoredAtEngine {
    /// Asks if it was revoked.
    fn renew(&self) -> BoxFuture<'_, Result<Renewal, SourceError>> {
        Box::pin(async {
            let path = VaultPath::parse(&self.id).expect("a certificate was issued by it");
            let place = format!("{}/cert/{}", path.mount, self.serial);
            let call = VaultCall::get(&place, self.session.token());
            revocation(path, &self.servers.ask(&call, Instant::now() + ATTEMPT).await?)
        })
    }

    fn give_back(&self) -> BoxFuture<'_, ()> {
        // To revoke it would need a right, and grow the list of revoked ones.
        Box::pin(async {})
    }
}
