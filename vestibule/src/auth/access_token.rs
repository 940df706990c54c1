//! The token of a request, as a handler sees it: its claims.

use super::{bearer, token::TokenClaims};
use crate::http::problem::Problem;
use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    http::request::Parts,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{convert::Infallible, fmt, sync::Arc};
use time::OffsetDateTime;

/// The claims of the token that a request bears, verified.
///
/// It is an extractor, for the routes of [`Application::routes`](crate::Application::routes). Where authentication is off,
/// and in [`public_routes`](crate::Application::public_routes), there is no token: a handler that takes it then answers
/// 401, and a handler that takes `Option<AccessToken>` gets `None`.
///
/// ```
/// use serde::Deserialize;
/// use vestibule::{AccessToken, Problem};
///
/// #[derive(Deserialize)]
/// struct Claims {
///     tenant: String,
/// }
///
/// async fn delete_all(token: AccessToken) -> Result<String, Problem> {
///     token.require_scope("orders:delete")?;
///     let claims: Claims = token.claims()?;
///     Ok(format!("{} deletes all orders of {}", token.subject(), claims.tenant))
/// }
/// ```
#[derive(Clone)]
pub struct AccessToken(Arc<TokenClaims>);

impl AccessToken {
    pub(super) fn new(claims: TokenClaims) -> Self {
        Self(Arc::new(claims))
    }

    /// Returns the subject: the person or the program that the token speaks for (`sub`).
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// Returns the scopes (`scope`, or `scp`).
    pub fn scopes(&self) -> &[String] {
        &self.0.scopes
    }

    /// Returns the id of the client that got the token (`client_id`, or `azp`).
    pub fn client_id(&self) -> Option<&str> {
        self.0.client_id.as_deref()
    }

    /// Returns the time at which the token expires.
    pub fn expires(&self) -> OffsetDateTime {
        let seconds = i64::try_from(self.0.expires).unwrap_or(i64::MAX);
        OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::PrimitiveDateTime::MAX.assume_utc())
    }

    /// Returns the thumbprint of the certificate that the token is bound to (RFC 8705). The client of this request has
    /// shown it.
    pub fn thumbprint(&self) -> Option<&str> {
        self.0.thumbprint.as_deref()
    }

    /// Reads the claims into a type of the service.
    ///
    /// # Errors
    /// A 403 if the token has not the claims of this type.
    pub fn claims<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        T::deserialize(&Value::Object(self.0.all.clone()))
            .map_err(|_| bearer::forbidden("the token has not the claims that this needs"))
    }

    /// Asks for a scope. [`RequireScope`](crate::RequireScope) does so for a whole route.
    ///
    /// # Errors
    /// A 403 that names the scope, if the token has not got it.
    pub fn require_scope(&self, scope: &str) -> Result<(), Problem> {
        if self.0.scopes.iter().any(|has| has == scope) { Ok(()) } else { Err(bearer::insufficient_scope(scope)) }
    }

    pub(super) fn has_expired(&self) -> bool {
        jsonwebtoken::get_current_timestamp() >= self.0.expires
    }
}

/// Leaves the claims out: they are of a person.
impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken").finish_non_exhaustive()
    }
}

impl<S: Sync> FromRequestParts<S> for AccessToken {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get().cloned().ok_or_else(bearer::no_token)
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for AccessToken {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get().cloned())
    }
}
