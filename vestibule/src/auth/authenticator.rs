//! The authenticator: it says which requests may go on.

use super::{
    access_token::AccessToken,
    bearer,
    issuer_keys::{IssuerKeys, NotLookedUp, PAUSE},
    key_set::KeySet,
    metrics::{AuthMetrics, TokenOutcome},
    token::{TokenFault, TokenRules},
    verified_tokens::VerifiedTokens,
};
use crate::{
    blocking_reads::FileReads,
    config::settings::auth::AuthConfig,
    exit::Fault,
    http::{client::ClientCertificate, problem::Problem},
    moment::Moment,
};
use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::{Serialize, Serializer};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// The authenticator of one configuration. Generations with the same one share it.
pub(crate) struct Authenticator {
    config: AuthConfig,
    rules: TokenRules,
    keys: Arc<IssuerKeys>,
    verified: VerifiedTokens,
    metrics: AuthMetrics,
}

/// The reason for which a token is not verified.
enum Unverified {
    Faulty(TokenFault),
    /// The keys in use have not its key, but the issuer may have published it since they were fetched.
    UnknownKey(NotLookedUp),
}

/// The parts from which a load makes an authenticator.
pub(crate) struct AuthenticatorParts<'a> {
    pub(crate) config: &'a AuthConfig,
    pub(crate) in_service: Option<&'a Arc<Authenticator>>,
    pub(crate) metrics: &'a AuthMetrics,
    pub(crate) deadline: Instant,
    pub(crate) files: &'a FileReads,
}

impl Authenticator {
    /// Returns the authenticator that a configuration asks for. `None` if authentication is off. Fetches the issuer's keys,
    /// unless they are in service.
    ///
    /// # Errors
    /// A fault if they cannot be fetched before the deadline.
    pub(crate) async fn open(parts: AuthenticatorParts<'_>) -> Result<Option<Arc<Self>>, Fault> {
        let AuthenticatorParts { config, in_service, metrics, deadline, files } = parts;
        if config.issuer.is_empty() {
            return Ok(None);
        }
        let keys = match in_service {
            Some(in_service) if in_service.config == *config => return Ok(Some(in_service.clone())),
            Some(in_service) if in_service.keys.are_of(config) => in_service.keys.clone(),
            _ => IssuerKeys::fetch(config, metrics, deadline, files).await?,
        };
        Ok(Some(Arc::new(Self {
            config: config.clone(),
            rules: TokenRules::of(config),
            keys,
            verified: VerifiedTokens::new(config.cache_lifetime),
            metrics: metrics.clone(),
        })))
    }

    /// Returns `true` if this is the authenticator that a configuration asks for. `None` is the one if authentication is
    /// off.
    pub(crate) fn is_of(authenticator: Option<&Arc<Self>>, config: &AuthConfig) -> bool {
        match authenticator {
            Some(authenticator) => authenticator.config == *config,
            None => config.issuer.is_empty(),
        }
    }

    /// Verifies the token of a request.
    ///
    /// # Errors
    /// The response to a request that may not go on.
    pub(super) async fn check(
        &self,
        headers: &HeaderMap,
        client: Option<&ClientCertificate>,
    ) -> Result<AccessToken, Problem> {
        let (outcome, result) = match bearer::token(headers) {
            Ok(Some(token)) => self.verify(token, client).await,
            Ok(None) => (TokenOutcome::Missing, Err(bearer::no_token())),
            Err(problem) => (TokenOutcome::Refused, Err(problem)),
        };
        self.metrics.count(outcome);
        result
    }

    async fn verify(
        &self,
        token: &str,
        client: Option<&ClientCertificate>,
    ) -> (TokenOutcome, Result<AccessToken, Problem>) {
        let held = self.keys.held();
        if held.fetched.elapsed() > self.config.max_stale {
            let problem = Problem::busy("tokens cannot be verified now: their issuer does not answer; try again later");
            return (TokenOutcome::StaleKeys, Err(problem.retry_after(PAUSE)));
        }
        let refused = |reason| {
            tracing::debug!(reason, "the token of a request is refused");
            (TokenOutcome::Refused, Err(bearer::invalid_token(reason)))
        };
        let claims = match self.claims(token, held.set).await {
            Ok(claims) => claims,
            Err(Unverified::Faulty(TokenFault::Invalid(reason) | TokenFault::WrongKeys(reason))) => {
                return refused(reason);
            }
            Err(Unverified::Faulty(TokenFault::UnknownKey)) => return refused("its issuer has not this key"),
            // Anybody can invent the id of a key, so this is no failure of the service.
            Err(Unverified::UnknownKey(NotLookedUp::TooSoon(pause))) => {
                let detail = "the key of the token is not known yet; try again later";
                let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, detail);
                return (TokenOutcome::UnknownKey, Err(problem.retry_after(pause.max(Duration::from_secs(1)))));
            }
            Err(Unverified::UnknownKey(NotLookedUp::IssuerAway(pause))) => {
                let problem = Problem::busy("the key of the token cannot be looked up now; try again later");
                return (TokenOutcome::StaleKeys, Err(problem.retry_after(pause)));
            }
        };
        let shown = client.map(ClientCertificate::thumbprint);
        match claims.thumbprint() {
            Some(_) if claims.thumbprint() != shown => refused("it is bound to another certificate than the client's"),
            None if self.config.require_certificate_binding => refused("it is not bound to the client's certificate"),
            _ => (TokenOutcome::Accepted, Ok(claims)),
        }
    }
}

impl Authenticator {
    pub(crate) fn issuer(&self) -> &str {
        &self.config.issuer
    }

    /// Returns the time at which the issuer last confirmed its keys.
    pub(crate) fn keys_fetched(&self) -> Moment {
        self.keys.held().fetched
    }

    /// Returns the claims of a token. Fetches the keys if those in use are not the token's.
    ///
    /// # Errors
    /// The reason for which the token is not verified.
    async fn claims(&self, token: &str, mut keys: Arc<KeySet>) -> Result<AccessToken, Unverified> {
        if let Some(claims) = self.verified.get(token, &keys) {
            return Ok(claims);
        }
        let mut verified = self.rules.verify(token, &keys);
        if matches!(verified, Err(TokenFault::UnknownKey | TokenFault::WrongKeys(_))) {
            let (newer, looked_up) = self.keys.newer_than(&keys).await;
            if !Arc::ptr_eq(&newer, &keys) {
                keys = newer;
                verified = self.rules.verify(token, &keys);
            }
            if let (Err(TokenFault::UnknownKey), Err(reason)) = (&verified, looked_up) {
                return Err(Unverified::UnknownKey(reason));
            }
        }
        let claims = AccessToken::new(verified.map_err(Unverified::Faulty)?);
        self.verified.add(token, &claims, &keys);
        Ok(claims)
    }
}

/// Lets a request go on if it bears a token that is valid. Handlers find its claims as [`AccessToken`].
pub(crate) async fn authenticate(
    State(authenticator): State<Arc<Authenticator>>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let client = parts.extensions.get::<ClientCertificate>().cloned();
    match authenticator.check(&parts.headers, client.as_ref()).await {
        Ok(token) => {
            // `Debug` of the headers leaves it out then.
            if let Some(header) = parts.headers.get_mut(AUTHORIZATION) {
                header.set_sensitive(true);
            }
            parts.extensions.insert(token);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// The authenticator as `/status` shows it.
#[derive(Serialize)]
struct AuthenticationStatus<'a> {
    issuer: &'a str,
    /// A hash of the keys.
    version: &'a str,
    key_ids: Vec<&'a str>,
    verified: Moment,
}

impl Serialize for Authenticator {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let held = self.keys.held();
        let (issuer, version, key_ids) = (&*self.config.issuer, &*held.set.version, held.set.ids().collect());
        AuthenticationStatus { issuer, version, key_ids, verified: held.fetched }.serialize(serializer)
    }
}
