//! A login: the files of an auth method, exchanged for a token.

use super::{
    client::{VaultAnswer, VaultCall},
    files::VaultFile,
    servers::VaultServers,
    sessions::VaultSession,
};
use crate::{
    config::settings::vault::{VaultAuth, VaultConfig},
    credentials::{json, unescaped},
    secrets::source::SourceError,
};
use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    body::Bytes,
    http::{HeaderValue, StatusCode},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::{path::Path, time::Duration};
use tokio::time::Instant;
use zeroize::Zeroizing;

/// The token of a pod's service account (*Managing Service Accounts*, "Bound service account token volume").
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// The login of this process, by its auth method.
pub(super) struct VaultLogin {
    config: VaultConfig,
    path: String,
    files: Vec<VaultFile>,
}

/// The content that a login sends: the body of a request, or the token of a token file. It is wiped.
pub(super) struct LoginCredentials(Zeroizing<Vec<u8>>);

impl LoginCredentials {
    /// Returns their SHA-256, to tell whether they changed.
    pub(super) fn digest(&self) -> [u8; 32] {
        digest(&SHA256, &self.0).as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

/// The answer to a login.
#[derive(Deserialize)]
struct LoginAnswer {
    auth: IssuedToken,
}

#[derive(Deserialize)]
struct IssuedToken {
    #[serde(deserialize_with = "unescaped")]
    client_token: SecretString,
    lease_duration: u64,
    #[serde(default)]
    num_uses: u64,
}

/// The answer to the question what a token is.
#[derive(Deserialize)]
struct LookupAnswer {
    data: TokenProperties,
}

#[derive(Deserialize)]
struct TokenProperties {
    ttl: u64,
    #[serde(default)]
    num_uses: u64,
}

impl VaultLogin {
    pub(super) fn new(config: &VaultConfig) -> Self {
        let path = match config.auth {
            VaultAuth::Kubernetes | VaultAuth::AppRole | VaultAuth::Jwt => {
                format!("auth/{}/login", config.auth_mount())
            }
            VaultAuth::TokenFile => "auth/token/lookup-self".into(),
        };
        let VaultConfig { jwt_file, role_id_file, secret_id_file, token_file, .. } = config;
        let files = match config.auth {
            VaultAuth::Kubernetes | VaultAuth::Jwt => vec![("jwt_file", jwt_file)],
            VaultAuth::AppRole => vec![("role_id_file", role_id_file), ("secret_id_file", secret_id_file)],
            VaultAuth::TokenFile => vec![("token_file", token_file)],
        };
        // The check of the configuration wants a path for each method but `kubernetes`.
        let files = files
            .into_iter()
            .map(|(setting, path)| VaultFile::new(setting, path.as_deref().unwrap_or(Path::new(SERVICE_ACCOUNT))));
        Self { config: config.clone(), path, files: files.collect() }
    }

    /// Returns `true` if its tokens are this process's own. Those of a token file are the agent's.
    pub(super) fn owns_tokens(&self) -> bool {
        self.config.auth != VaultAuth::TokenFile
    }

    /// Reads the files of the auth method.
    ///
    /// # Errors
    /// A transient error if one cannot be read.
    pub(super) async fn credentials(&self) -> Result<LoginCredentials, SourceError> {
        let mut fields = match self.config.auth {
            VaultAuth::Kubernetes | VaultAuth::Jwt => vec![("role", Zeroizing::new(self.config.role.clone()))],
            VaultAuth::AppRole | VaultAuth::TokenFile => Vec::new(),
        };
        for file in &self.files {
            fields.push((file.setting.trim_end_matches("_file"), file.read().await?));
        }
        Ok(LoginCredentials(match (self.config.auth, fields.as_slice()) {
            (VaultAuth::TokenFile, [(_, token)]) => Zeroizing::new(token.as_bytes().to_vec()),
            _ => json_object(&fields),
        }))
    }

    /// Logs in with these credentials.
    ///
    /// # Errors
    /// [`SourceError::NoIdentity`] if the server says no, and a transient error if it cannot say.
    pub(super) async fn log_in(
        &self,
        servers: &VaultServers,
        credentials: &LoginCredentials,
        deadline: Instant,
    ) -> Result<VaultSession, SourceError> {
        let since = Instant::now();
        if self.config.auth == VaultAuth::TokenFile {
            let token = header_of(&credentials.0)?;
            let answer = servers.ask(&VaultCall::get(&self.path, &token), deadline).await?;
            return self.session_of_file(token, &answer, since);
        }
        let answer = servers.ask(&VaultCall::login(&self.path, &credentials.0), deadline).await?;
        self.session(&answer, since)
    }

    /// Returns the session with the token of an answer to a login.
    pub(super) fn session(&self, answer: &VaultAnswer, since: Instant) -> Result<VaultSession, SourceError> {
        let LoginAnswer { auth } = self.read_answer(answer)?;
        self.check_uses(auth.num_uses)?;
        let token = header_of(auth.client_token.expose_secret().as_bytes())?;
        Ok(VaultSession::new(token, since, Duration::from_secs(auth.lease_duration)))
    }

    /// Returns the session with the token of a file, from what the server says of it.
    pub(super) fn session_of_file(
        &self,
        token: HeaderValue,
        answer: &VaultAnswer,
        since: Instant,
    ) -> Result<VaultSession, SourceError> {
        let LookupAnswer { data } = self.read_answer(answer)?;
        self.check_uses(data.num_uses)?;
        Ok(VaultSession::new(token, since, Duration::from_secs(data.ttl)))
    }

    /// Reads an answer, or the server's reason for none.
    fn read_answer<'a, T: Deserialize<'a>>(&self, answer: &'a VaultAnswer) -> Result<T, SourceError> {
        if answer.status != StatusCode::OK {
            return Err(SourceError::NoIdentity(self.reason(answer)));
        }
        json(answer.text(), "the answer to a login")
            .map_err(|_| SourceError::Unavailable(format!("the answer to {} cannot be understood", self.path)))
    }

    /// Returns the reason why the server says no.
    fn reason(&self, answer: &VaultAnswer) -> String {
        let status = answer.status.as_u16();
        let quoted = answer.quoted_errors();
        let namespace = &self.config.namespace;
        if answer.errors().iter().any(|error| error == "namespace not found") {
            return format!("there is no namespace `{namespace}`");
        }
        let what = match self.config.auth {
            VaultAuth::TokenFile => "the token of secrets.vault.token_file is not accepted".to_owned(),
            _ => format!("the login at {} is denied", self.path),
        };
        if quoted.is_empty() { format!("{what} (HTTP {status})") } else { format!("{what}: {quoted} (HTTP {status})") }
    }

    /// Refuses a token that ends after some uses: each read is one.
    fn check_uses(&self, uses: u64) -> Result<(), SourceError> {
        if uses == 0 {
            return Ok(());
        }
        Err(SourceError::NoIdentity(format!(
            "its tokens end after {uses} uses, and a service needs any number (num_uses)"
        )))
    }
}

/// Returns a token as the value of a header, in memory that is wiped.
fn header_of(token: &[u8]) -> Result<HeaderValue, SourceError> {
    let bytes = Bytes::from_owner(Zeroizing::new(token.to_vec()));
    let mut value = HeaderValue::from_maybe_shared(bytes)
        .map_err(|_| SourceError::NoIdentity("the token has characters that no header can carry".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Writes a JSON object of texts, into memory that is wiped and that does not grow.
fn json_object(fields: &[(&str, Zeroizing<String>)]) -> Zeroizing<Vec<u8>> {
    // No escape is longer than 6 bytes.
    let room = fields.iter().map(|(name, value)| name.len() + 6 * value.len() + 8).sum();
    let mut json = Zeroizing::new(Vec::with_capacity(room));
    for (name, value) in fields {
        let separator = if json.is_empty() { b'{' } else { b',' };
        json.push(separator);
        for (text, end) in [(*name, ":"), (value.as_str(), "")] {
            serde_json::to_writer(&mut *json, text).expect("memory can be written to");
            json.extend_from_slice(end.as_bytes());
        }
    }
    json.push(b'}');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "nothing is secret here")]
    #[test]
    fn a_body_is_json_and_does_not_outgrow_its_room() {
        let value = "\u{1}\"\\\n\u{7f}ä😀".repeat(50);
        let fields = [("role_id", Zeroizing::new("r".to_owned())), ("secret_id", Zeroizing::new(value.clone()))];
        let room: usize = fields.iter().map(|(name, value)| name.len() + 6 * value.len() + 8).sum();
        let body = json_object(&fields);
        assert!(body.len() <= room);
        let read: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(read, serde_json::json!({ "role_id": "r", "secret_id": value }));
    }
}
