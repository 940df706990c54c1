//! Answers of a secrets engine, by their status.

use super::{client::VaultAnswer, path::VaultPath};
use crate::{credentials::json, secrets::source::SourceError};
use axum::http::StatusCode;
use serde::Deserialize;

/// Returns `Ok` if a 404 means that the secret does not exist.
pub(super) fn not_found(path: VaultPath<'_>, answer: &VaultAnswer) -> Result<(), SourceError> {
    match answer.errors().first() {
        None if answer.is_rejection() => Ok(()),
        None => Err(SourceError::Unavailable("HTTP 404, which is not the answer of a server of Vault".into())),
        Some(error) if error.contains("namespace not found") => {
            Err(SourceError::NoIdentity("there is no such namespace".into()))
        }
        Some(_) => Err(SourceError::Missing(format!("there is no secrets engine at {}/", path.mount))),
    }
}

/// Reads an answer that is no 404. `engine` is the engine that gives it.
pub(super) fn parse<'a, T: Deserialize<'a>>(
    path: VaultPath<'_>,
    answer: &'a VaultAnswer,
    engine: &str,
) -> Result<T, SourceError> {
    match answer.status {
        StatusCode::OK => json(answer.text(), "an answer of the engine")
            .map_err(|_| SourceError::Malformed(format!("the answer is not that of {engine}, at {}/", path.mount))),
        StatusCode::FORBIDDEN => {
            let may = path.engine.capability();
            Err(SourceError::Denied(format!("no policy of its token lets it {may} this path")))
        }
        status => Err(SourceError::Unavailable(format!("it answers HTTP {}", status.as_u16()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::vault::path::VaultEngine;
    use axum::http::HeaderMap;
    use zeroize::Zeroizing;

    #[test]
    fn only_the_servers_own_404_means_that_there_is_no_secret() {
        let path = VaultPath { engine: VaultEngine::Kv, mount: "kv", name: "signing" };
        let not_found_with = |body: &str| {
            let body = Zeroizing::new(body.as_bytes().to_vec());
            not_found(path, &VaultAnswer { status: StatusCode::NOT_FOUND, headers: HeaderMap::new(), body })
        };
        assert_eq!(not_found_with(r#"{"errors":[]}"#), Ok(()));
        for body in ["<html>default backend - 404</html>", "", "{}"] {
            assert!(not_found_with(body).unwrap_err().is_transient(), "{body}");
        }
    }
}
