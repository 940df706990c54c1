//! A login: the files of an auth method, exchanged for a token.

use super::{
    client::{VaultAnswer, VaultCall, json_object},
    files,
    servers::VaultServers,
    sessions::VaultSession,
};
use crate::{
    config::settings::vault::{VaultAuth, VaultConfig},
    credentials::{json, unescaped},
    moment::Moment,
    secrets::source::SourceError,
};
use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    body::Bytes,
    http::{HeaderValue, StatusCode},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::Instant;
use zeroize::Zeroizing;

/// The token of a pod's service account (*Managing Service Accounts*, "Bound service account token volume").
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// The type of a batch token.
const BATCH: &str = "batch";

/// The login of this process, by its auth method.
pub(super) struct VaultLogin {
    config: VaultConfig,
    path: String,
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
    #[serde(default)]
    policies: Vec<String>,
    #[serde(default)]
    token_type: String,
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
    #[serde(default, rename = "type")]
    token_type: String,
}

/// The answer to a renewal of a token, or to the question what it is.
#[derive(Deserialize)]
struct RefreshAnswer {
    auth: Option<RenewedToken>,
    data: Option<TokenProperties>,
}

#[derive(Deserialize)]
struct RenewedToken {
    lease_duration: u64,
}

/// A token that a login gave.
pub(super) struct GrantedToken {
    pub(super) token: HeaderValue,
    pub(super) since: Moment,
    /// Zero if the token does not end.
    pub(super) lifetime: Duration,
    /// `true` if it may ask about itself. Then a denial means that it has ended.
    pub(super) may_ask: bool,
    /// `true` if it is a batch token: nobody can renew or revoke it, and no lease outlives it.
    pub(super) is_batch: bool,
}

impl VaultLogin {
    pub(super) fn new(config: &VaultConfig) -> Self {
        let path = match config.auth {
            VaultAuth::Kubernetes | VaultAuth::AppRole | VaultAuth::Jwt => {
                format!("auth/{}/login", config.auth_mount())
            }
            VaultAuth::TokenFile => "auth/token/lookup-self".into(),
        };
        Self { config: config.clone(), path }
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
        let VaultConfig { role, jwt_file, role_id_file, secret_id_file, token_file, .. } = &self.config;
        let fields = match self.config.auth {
            VaultAuth::Kubernetes | VaultAuth::Jwt => {
                let path = jwt_file.as_deref().unwrap_or(Path::new(SERVICE_ACCOUNT));
                vec![("role", Zeroizing::new(role.clone())), ("jwt", files::read("jwt_file", path).await?)]
            }
            VaultAuth::AppRole => {
                let role_id = read("role_id_file", role_id_file).await?;
                vec![("role_id", role_id), ("secret_id", read("secret_id_file", secret_id_file).await?)]
            }
            VaultAuth::TokenFile => {
                let token = read("token_file", token_file).await?;
                return Ok(LoginCredentials(Zeroizing::new(token.as_bytes().to_vec())));
            }
        };
        Ok(LoginCredentials(json_object(&fields)))
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
    ) -> Result<GrantedToken, SourceError> {
        let since = Moment::now();
        if self.config.auth == VaultAuth::TokenFile {
            let token = header_of(&credentials.0)?;
            let answer = servers.ask(&VaultCall::get(&self.path, &token), deadline).await?;
            let LookupAnswer { data } = self.read_answer(&answer)?;
            self.check_uses(data.num_uses)?;
            let (lifetime, is_batch) = (Duration::from_secs(data.ttl), data.token_type == BATCH);
            return Ok(GrantedToken { token, since, lifetime, may_ask: true, is_batch });
        }
        let answer = servers.ask(&VaultCall::login(&self.path, &credentials.0), deadline).await?;
        let LoginAnswer { auth } = self.read_answer(&answer)?;
        self.check_uses(auth.num_uses)?;
        let token = header_of(auth.client_token.expose_secret().as_bytes())?;
        let (lifetime, is_batch) = (Duration::from_secs(auth.lease_duration), auth.token_type == BATCH);
        let may_ask = auth.policies.iter().any(|policy| policy == "default");
        Ok(GrantedToken { token, since, lifetime, may_ask, is_batch })
    }

    /// Makes the token of a session last longer, if its time can be extended, and learns when it ends. The one of a token
    /// file is the agent's to renew.
    ///
    /// # Errors
    /// A transient error if the server does not answer.
    pub(super) async fn refresh(
        &self,
        servers: &VaultServers,
        session: &VaultSession,
        deadline: Instant,
    ) -> Result<(), SourceError> {
        let asked = Moment::now();
        let call = if self.owns_tokens() {
            VaultCall::post("auth/token/renew-self", session.token(), &Zeroizing::default())
        } else {
            VaultCall::get(&self.path, session.token())
        };
        let answer = servers.ask(&call, deadline).await?;
        if answer.status == StatusCode::FORBIDDEN && session.may_ask() {
            session.lasts_until(asked);
            return Ok(());
        }
        let seconds = match json::<RefreshAnswer>(answer.text(), "the time of a token") {
            Ok(RefreshAnswer { auth: Some(token), .. }) => token.lease_duration,
            Ok(RefreshAnswer { data: Some(token), .. }) => token.ttl,
            // A token that cannot be renewed ends when it would.
            _ => return Ok(()),
        };
        if seconds > 0 {
            session.lasts_until(asked.plus(Duration::from_secs(seconds)));
        }
        Ok(())
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

async fn read(setting: &str, path: &Option<PathBuf>) -> Result<Zeroizing<String>, SourceError> {
    let path = path.as_deref().expect("the check of the configuration wants it for this method");
    files::read(setting, path).await
}

/// Returns a token as the value of a header, in memory that is wiped.
fn header_of(token: &[u8]) -> Result<HeaderValue, SourceError> {
    let bytes = Bytes::from_owner(Zeroizing::new(token.to_vec()));
    let mut value = HeaderValue::from_maybe_shared(bytes)
        .map_err(|_| SourceError::NoIdentity("the token has characters that no header can carry".into()))?;
    value.set_sensitive(true);
    Ok(value)
}
