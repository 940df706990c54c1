//! The ways in for fuzz targets, which read the answers of a server.

use super::{
    VaultPath, VaultServers, certificates,
    client::{VaultAnswer, VaultCall},
    failure::AddressFailure,
    kv,
    login::VaultLogin,
    logins,
    servers::{self, AnswerVerdict},
};
use crate::{
    config::{base_url::BaseUrl, settings::vault::VaultConfig},
    moment::Moment,
    secrets::{
        id::SecretId,
        source::{Fetched, SourceError},
    },
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use secrecy::SecretString;
use zeroize::Zeroizing;

/// The texts that people see because of an answer.
pub struct VaultTexts {
    /// Errors and versions, if it is the answer to a read.
    pub of_reads: Vec<String>,
    /// Errors, if it is the answer to a login, or has a certificate.
    pub of_logins: Vec<String>,
    /// Versions, if it has a login or a certificate that was made.
    pub versions: Vec<String>,
}

fn answer(status: StatusCode, headers: HeaderMap, body: &str) -> VaultAnswer {
    VaultAnswer { status, headers, body: Zeroizing::new(body.as_bytes().to_vec()) }
}

/// Reads an answer in every way.
pub(crate) fn texts(status: StatusCode, headers: HeaderMap, body: &str) -> VaultTexts {
    let answer = answer(status, headers, body);
    let id = SecretId::parse("kv/data/orders/signing").expect("it is an id");
    let path = VaultPath::parse(&id).expect("it is a path");
    let address = BaseUrl::parse("https://vault.example").expect("it is a URL");
    let config = VaultConfig { addresses: vec![address.clone()], ..VaultConfig::default() };
    let (servers, login) = (VaultServers::new(&config), VaultLogin::new(&config));
    let (token, since) = (HeaderValue::from_static("t"), Moment::now());

    let (get, login_call) = (VaultCall::get("", &token), VaultCall::login("", &Zeroizing::default()));
    let failure = |call: &VaultCall<'_>| match servers.judge(&address, call, &answer) {
        AnswerVerdict::Failed(failure) => Some(AddressFailure::error_of(&[failure]).to_string()),
        AnswerVerdict::Redirect(_) | AnswerVerdict::Final => None,
    };
    let text = |error: SourceError| error.to_string();
    let mut of_reads: Vec<_> = failure(&get).into_iter().collect();
    match kv::value(path, &answer, None) {
        Ok(Fetched::New(value)) => of_reads.push(value.version.to_string()),
        Ok(Fetched::Same | Fetched::Absent) => {}
        Err(error) => of_reads.push(text(error)),
    }
    match kv::versions(path, &answer) {
        Ok(versions) => of_reads.extend(versions.values().map(ToString::to_string)),
        Err(error) => of_reads.push(text(error)),
    }
    of_reads.extend(kv::number(path, &answer).err().map(text));
    let sessions = [login.session(&answer, since), login.session_of_file(token, &answer, since)];
    let mut of_logins: Vec<_> =
        sessions.into_iter().filter_map(Result::err).map(text).chain(failure(&login_call)).collect();
    let mut versions = Vec::new();
    match logins::issued(path, &answer) {
        Ok(issued) => versions.push(issued.version.to_string()),
        Err(error) => of_reads.push(text(error)),
    }
    match logins::rotated(path, &answer, None, |_| false) {
        Ok(Fetched::New(value)) => versions.push(value.version.to_string()),
        Ok(Fetched::Same | Fetched::Absent) => {}
        Err(error) => of_reads.push(text(error)),
    }
    match certificates::issued(path, &answer) {
        Ok(issued) => versions.push(issued.version().to_string()),
        Err(error) => of_logins.push(text(error)),
    }
    of_reads.extend(certificates::revocation(path, &answer).err().map(text));
    VaultTexts { of_reads, of_logins, versions }
}

/// Returns the value in an answer to a read.
pub(crate) fn value(body: &str) -> Option<SecretString> {
    let id = SecretId::parse("kv/data/orders/signing").expect("it is an id");
    let path = VaultPath::parse(&id).expect("it is a path");
    match kv::value(path, &answer(StatusCode::OK, HeaderMap::new(), body), None) {
        Ok(Fetched::New(value)) => Some(value.text),
        _ => None,
    }
}

/// Returns the index that no node reaches, from the index of an answer.
pub(crate) fn unreachable_index(index: &HeaderValue) -> Option<HeaderValue> {
    servers::unreachable_index(index)
}
