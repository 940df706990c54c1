//! A login: the files of an auth method, exchanged for a token.

use super::{
    client::{VaultAnswer, VaultCall, json_object},
    files::VaultFile,
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
use std::{path::Path, time::Duration};
use tokio::time::Instant;
use zeroize::Zeroizing;

/// The token of a pod's service account (*Managing Service Accounts*, "Bound service account token volume").
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// The policy of all tokens, unless their role leaves it out. It lets a token ask about itself.
const DEFAULT_POLICY: &str = "default";

/// The type of a batch token.
const BATCH: &str = "batch";

/// The end of the reason of a login whose credentials are wrong, for the method `approle`. A role that is locked gets a 403.
const WRONG: &str = "(HTTP 400)";

/// The login of this process, by its auth method.
pub(super) struct VaultLogin {
    config: VaultConfig,
    path: String,
    pub(super) files: Vec<VaultFile>,
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
    /// `true` if it may ask about itself.
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
    /// A transient error if one cannot be read, or has JSON.
    pub(super) async fn credentials(&self) -> Result<LoginCredentials, SourceError> {
        let mut fields = match self.config.auth {
            VaultAuth::Kubernetes | VaultAuth::Jwt => vec![("role", Zeroizing::new(self.config.role.clone()))],
            VaultAuth::AppRole | VaultAuth::TokenFile => Vec::new(),
        };
        for file in &self.files {
            fields.push((file.setting.trim_end_matches("_file"), file.read_credential().await?));
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
    ) -> Result<GrantedToken, SourceError> {
        let since = Moment::now();
        if self.config.auth == VaultAuth::TokenFile {
            let token = header_of(&credentials.0)?;
            let answer = servers.ask_anew(&VaultCall::get(&self.path, &token), deadline).await?;
            return self.session_of_file(token, &answer, since);
        }
        let answer = servers.ask_anew(&VaultCall::login(&self.path, &credentials.0), deadline).await?;
        self.session(&answer, since)
    }

    /// Returns `true` if the server counts this denial, and locks the role after a few of them.
    pub(super) fn is_counted(&self, denial: &SourceError) -> bool {
        let is_wrong = matches!(denial, SourceError::NoIdentity(reason) if reason.ends_with(WRONG));
        self.config.auth == VaultAuth::AppRole && is_wrong
    }

    /// Returns the token of an answer to a login.
    pub(super) fn session(&self, answer: &VaultAnswer, since: Moment) -> Result<GrantedToken, SourceError> {
        let LoginAnswer { auth } = self.read_answer(answer)?;
        self.check_uses(auth.num_uses)?;
        let token = header_of(auth.client_token.expose_secret().as_bytes())?;
        let (lifetime, is_batch) = (Duration::from_secs(auth.lease_duration), auth.token_type == BATCH);
        let may_ask = auth.policies.iter().any(|policy| policy == DEFAULT_POLICY);
        Ok(GrantedToken { token, since, lifetime, may_ask, is_batch })
    }

    /// Makes the token of a session last longer, if its time can be extended, and learns when it ends. The one of a token
    /// file is the agent's to renew. Returns `false` if the server denies that.
    ///
    /// # Errors
    /// A transient error if the server does not answer.
    pub(super) async fn refresh(
        &self,
        servers: &VaultServers,
        session: &VaultSession,
        deadline: Instant,
    ) -> Result<bool, SourceError> {
        let asked = Moment::now();
        let call = if self.owns_tokens() {
            VaultCall::post("auth/token/renew-self", session.token(), &Zeroizing::default())
        } else {
            VaultCall::get(&self.path, session.token())
        };
        let answer = servers.ask(&call, deadline).await?;
        if answer.status == StatusCode::FORBIDDEN {
            return Ok(false);
        }
        let seconds = match json::<RefreshAnswer>(answer.text(), "the time of a token") {
            Ok(RefreshAnswer { auth: Some(token), .. }) => token.lease_duration,
            Ok(RefreshAnswer { data: Some(token), .. }) => token.ttl,
            // A token that cannot be renewed ends when it would.
            _ => return Ok(true),
        };
        session.has_asked();
        if seconds > 0 {
            session.lasts_until(asked.plus(Duration::from_secs(seconds)));
        }
        Ok(true)
    }

    /// Returns the token of a file, with what the server says of it.
    pub(super) fn session_of_file(
        &self,
        token: HeaderValue,
        answer: &VaultAnswer,
        since: Moment,
    ) -> Result<GrantedToken, SourceError> {
        let LookupAnswer { data } = self.read_answer(answer)?;
        self.check_uses(data.num_uses)?;
        let (lifetime, is_batch) = (Duration::from_secs(data.ttl), data.token_type == BATCH);
        Ok(GrantedToken { token, since, lifetime, may_ask: true, is_batch })
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
