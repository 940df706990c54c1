//! The ways in for fuzz targets: each function calls one private parser. They are no part of the public interface, and
//! change without notice.

use crate::{
    auth,
    cli::{
        admin_listeners::address::ReplicaAddress,
        audit::replica::ReplicaStatus,
        reload::{ReloadStatus, fleet},
    },
    config::{self, AuthConfig, BaseUrl, Config, ProxyHeader, ServerConfig, ServiceSettings, Sources},
    credentials::{SigningKeys, certificate::Certificate, pem},
    http::{
        RequestId,
        client_address::{ProxyNetwork, TrustedProxies},
        problem,
    },
    metrics::exposition_format::ExpositionFormat,
    resources::{Signer, api_client::retry},
    secrets::{Kind, Malformed, SecretString, SecretValue, SecretValues, VersionId, aws, resolver, shape, vault},
};

pub use crate::secrets::vault::fuzzing::VaultTexts;

use axum::{
    Router,
    body::{self, Body},
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, Request, StatusCode, Uri},
};
use futures_util::FutureExt;
use std::{collections::BTreeMap, net::IpAddr, time::Duration};
use tower::ServiceExt;

/// Reads a value as a kind does.
///
/// # Errors
/// The text of the fault: the form that was expected, and the shape that was seen.
pub fn read<K: Kind>(text: &str) -> Result<K, String> {
    kind(text).map_err(|expected| format!("{expected}; seen: {}", shape::of(text)))
}

fn kind<K: Kind>(text: &str) -> Result<K, Malformed> {
    let value = SecretValue { text: text.into(), version: VersionId::new("v1"), created: None, lease: None };
    resolver::check_size(&value)?;
    K::read(&SecretValues::new(value, BTreeMap::new(), None))
}

/// Returns the contents of all blocks of a PEM text.
pub fn pem(text: &str) -> Option<Vec<Vec<u8>>> {
    Some(pem::blocks(text).ok()?.into_iter().map(|block| block.der.to_vec()).collect())
}

/// Returns the texts in a certificate: those that a log or a handler gets.
pub fn certificate(der: &[u8]) -> Option<Vec<String>> {
    let certificate = Certificate::parse(der.to_vec().into())?;
    let mut texts = vec![certificate.subject()];
    texts.extend(certificate.common_name());
    texts.extend(certificate.dns_names());
    texts.extend(certificate.uris());
    Some(texts)
}

/// Returns a signer of this purpose, with a key that everybody knows.
pub fn signer(purpose: &'static str) -> Signer {
    let keys: SigningKeys = kind("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=").expect("it is base64 of 32 bytes");
    let day = Duration::from_secs(24 * 60 * 60);
    Signer::new("signing", keys.into(), purpose, day, day, Default::default(), Default::default())
}

/// Returns the id of a secret as another Region knows it.
pub fn id_in_region(id: &str, region: &str) -> String {
    aws::in_region(id, region).into_owned()
}

/// Returns the URL of a reference below a base URL.
pub fn join(base: &BaseUrl, reference: &Uri) -> Option<Uri> {
    base.join(reference)
}

/// Returns the effective configuration as `config` prints it.
pub fn explain<T: ServiceSettings>(config: &Config<T>, sources: &Sources) -> String {
    config::effective(config, sources)
}

/// Returns the address of a replica as an audit prints it, and the URL of its status.
///
/// # Errors
/// The mistake in the address.
pub fn replica_address(text: &str) -> Result<(String, Uri), &'static str> {
    let address = ReplicaAddress::parse(text)?;
    Ok((address.to_string(), address.status_url()))
}

/// Returns the texts that an audit prints from the status of a replica.
#[expect(clippy::disallowed_methods, reason = "nothing is secret here")]
pub fn replica_status(json: &str) -> Option<Vec<String>> {
    let status: ReplicaStatus = serde_json::from_str(json).ok()?;
    let mut texts = vec![status.draining_reasons()];
    for credential in &status.credentials {
        texts.push(credential.loaded_at());
        texts.extend(credential.versions().map(Into::into));
    }
    Some(texts)
}

/// Returns `true` if a text is a status that `reload` can read.
#[expect(clippy::disallowed_methods, reason = "nothing is secret here")]
pub fn is_reload_status(json: &str) -> bool {
    serde_json::from_str::<ReloadStatus>(json).is_ok()
}

/// Returns the texts that `reload --fleet` prints from the answer of a replica with this status.
pub fn reload_answer(code: StatusCode, json: &str) -> Vec<String> {
    let address = ReplicaAddress::parse("http://10.0.0.7:9090").expect("it is an address");
    fleet::shown(&address, code, json)
}

/// Reads an answer of a Vault server in every way. Returns the texts that people see because of it.
pub fn vault_texts(status: StatusCode, headers: HeaderMap, body: &str) -> VaultTexts {
    vault::fuzzing::texts(status, headers, body)
}

/// Returns the value in the answer of a Vault server to a read.
pub fn vault_value(body: &str) -> Option<SecretString> {
    vault::fuzzing::value(body)
}

/// Returns the index that a request to a Vault server names, from the index of an answer.
pub fn vault_index(index: &HeaderValue) -> Option<HeaderValue> {
    vault::fuzzing::unreachable_index(index)
}

/// Returns the pause that an answer of another service asks for.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    retry::retry_after(headers)
}

/// Returns the seconds by which the clock of the manager is ahead, from the date of its answer.
pub fn seconds_ahead(date: &str) -> Option<i64> {
    Some(aws::errors::time_ahead(date)?.whole_seconds())
}

/// Verifies a token of `issuer` for `audience` with the keys of a JWKS document. Returns the ids of the keys that can be
/// used, and the subject of the token.
///
/// # Errors
/// The problem of the document. Inside, the reason for which the token is refused.
pub fn token(
    issuer: &str,
    audience: &str,
    document: &[u8],
    token: &str,
) -> Result<(Vec<String>, Result<String, &'static str>), &'static str> {
    let config = AuthConfig { issuer: issuer.into(), audience: audience.into(), ..AuthConfig::default() };
    auth::verify(&config, document, token)
}

/// Returns `true` if the metadata of `issuer`, which came over TLS, names keys that are fetched over TLS too.
///
/// # Errors
/// The problem of the metadata.
pub fn names_keys_over_tls(issuer: &str, metadata: &[u8]) -> Result<bool, &'static str> {
    Ok(auth::keys_url(metadata, issuer, true)?.is_https())
}

/// Returns the client of a request that `peer` sent, if these networks are trusted.
pub fn client_address(peer: IpAddr, trusted: &[&str], header: ProxyHeader, headers: &HeaderMap) -> IpAddr {
    let networks = trusted.iter().filter_map(|network| ProxyNetwork::parse(network));
    let config = ServerConfig { trusted_proxies: networks.collect(), proxy_header: header, ..ServerConfig::default() };
    TrustedProxies::of(&config).client(peer, headers)
}

/// Returns `true` if a scraper that sends these headers gets OpenMetrics.
pub fn is_openmetrics_wanted(headers: &HeaderMap) -> bool {
    ExpositionFormat::accepted(headers) == ExpositionFormat::OpenMetrics
}

/// Returns the id of a request with these headers.
pub fn request_id(headers: HeaderMap) -> String {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.headers = headers;
    let Ok(id) = RequestId::from_request_parts(&mut parts, &()).now_or_never().expect("it does not wait");
    id.to_string()
}

/// Returns the answer of routes to a request: the status, and the text. An error of axum becomes a problem, as in the frame.
pub fn answer(routes: Router, request: Request<Body>) -> (StatusCode, String) {
    let answering = async {
        let Ok(response) = routes.oneshot(request).await;
        let response = if problem::is_other_error(&response) { problem::unify(response, true).await } else { response };
        let status = response.status();
        let text = body::to_bytes(response.into_body(), usize::MAX).await.expect("it is in memory");
        (status, String::from_utf8_lossy(&text).into_owned())
    };
    answering.now_or_never().expect("nothing waits")
}
