//! The principal of a request, by its token or by its client's certificate.

use super::{access_token::AccessToken, bearer};
use crate::http::{client::ClientCertificate, problem::Problem};
use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    http::request::Parts,
};
use std::convert::Infallible;

/// The principal of a request: the subject of its token, or else that of its client's certificate.
///
/// It is an extractor. A handler that takes it answers a request without either with 401. A handler that takes
/// `Option<Principal>` gets `None`.
///
/// A token is read in [`Application::routes`](crate::Application::routes) if authentication is on, and nowhere else. In
/// [`public_routes`](crate::Application::public_routes), the principal is that of the certificate, also if the request
/// bears a token: a route that must know its users belongs in `routes`.
///
/// ```
/// use vestibule::Principal;
///
/// /// A route of `Application::routes`. There is no principal if authentication is off.
/// async fn greet(principal: Option<Principal>) -> String {
///     match principal {
///         Some(principal) => format!("hello, {}", principal.subject()),
///         None => "hello".to_owned(),
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub enum Principal {
    /// The request bears a token.
    Token(AccessToken),
    /// The connection has a client certificate, and the request bears no token.
    Certificate(ClientCertificate),
}

impl Principal {
    /// Returns the subject of the token, or that of the certificate.
    pub fn subject(&self) -> &str {
        match self {
            Self::Token(token) => token.subject(),
            Self::Certificate(client) => client.subject(),
        }
    }

    fn of(parts: &Parts) -> Option<Self> {
        let token = parts.extensions.get().cloned().map(Self::Token);
        token.or_else(|| parts.extensions.get().cloned().map(Self::Certificate))
    }
}

impl<S: Sync> FromRequestParts<S> for Principal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::of(parts).ok_or_else(bearer::no_token)
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Principal {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(Self::of(parts))
    }
}
