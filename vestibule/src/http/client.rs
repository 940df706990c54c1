//! Who the client is, where clients must show certificates.

use super::problem::Problem;
use crate::credentials::certificate::Certificate;
use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    http::{StatusCode, request::Parts},
};
use rustls::pki_types::CertificateDer;
use std::{convert::Infallible, sync::Arc};

/// The certificate that the client of this connection has shown, verified against the authorities of
/// `server.client_ca`. An extractor: where a handler takes it, a request without one gets 403; where it takes an
/// `Option` of it, `None`.
///
/// It was verified when the connection began. A connection that is open stays open when the authorities change, or the
/// certificate ends.
///
/// ```
/// use vestibule::{ClientCertificate, Problem};
///
/// async fn whoami(client: ClientCertificate) -> String {
///     client.subject().to_owned()
/// }
/// ```
#[derive(Clone, Debug)]
pub struct ClientCertificate(Arc<Subject>);

#[derive(Debug)]
struct Subject {
    name: String,
    common_name: Option<String>,
    dns_names: Vec<String>,
    uris: Vec<String>,
}

impl ClientCertificate {
    /// The first of a chain that was verified. `None`: nobody can tell whose it is.
    pub(super) fn of(chain: &[CertificateDer<'static>]) -> Option<Self> {
        let own = Certificate::parse(chain.first()?.clone())?;
        Some(Self(Arc::new(Subject {
            name: own.subject(),
            common_name: own.common_name(),
            dns_names: own.dns_names(),
            uris: own.uris(),
        })))
    }

    /// The subject's distinguished name, as RFC 4514 writes it: `CN=orders,O=Example`. Empty where the certificate names
    /// its holder in the subjectAltName alone, as SPIFFE's may.
    pub fn subject(&self) -> &str {
        &self.0.name
    }

    /// The common name in the subject.
    pub fn common_name(&self) -> Option<&str> {
        self.0.common_name.as_deref()
    }

    /// The DNS names in the subjectAltName.
    pub fn dns_names(&self) -> &[String] {
        &self.0.dns_names
    }

    /// The URIs in the subjectAltName, such as SPIFFE ids.
    pub fn uris(&self) -> &[String] {
        &self.0.uris
    }
}

impl<S: Sync> FromRequestParts<S> for ClientCertificate {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts
            .extensions
            .get()
            .cloned()
            .ok_or_else(|| Problem::new(StatusCode::FORBIDDEN, "this needs a connection with a client certificate"))
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for ClientCertificate {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get().cloned())
    }
}
