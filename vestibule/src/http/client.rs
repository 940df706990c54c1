//! The client's certificate, if `server.client_ca` makes clients show one.

use super::problem::Problem;
use crate::credentials::certificate::Certificate;
use aws_lc_rs::digest::{self, SHA256};
use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    http::{StatusCode, request::Parts},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use rustls::pki_types::CertificateDer;
use std::{convert::Infallible, sync::Arc};

/// The certificate that the client of this connection has shown, verified against the authorities of
/// `server.client_ca`.
///
/// It is an extractor. A handler that takes it answers a request without a certificate with 403. A handler that takes
/// `Option<ClientCertificate>` gets `None`.
///
/// It was verified when the connection began. An open connection stays open when the certificate expires. When the
/// authorities change, it is asked to end, and cut after `server.response_timeout`: so is one that speaks another protocol,
/// whose reads and writes fail then.
///
/// ```
/// use vestibule::ClientCertificate;
///
/// async fn whoami(client: ClientCertificate) -> String {
///     client.subject().to_owned()
/// }
///
/// async fn greet(client: Option<ClientCertificate>) -> String {
///     match client {
///         Some(client) => format!("hello, {}", client.subject()),
///         None => "hello".to_owned(),
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct ClientCertificate(Arc<ClientNames>);

/// The names in a client's certificate.
#[derive(Debug)]
struct ClientNames {
    subject: String,
    common_name: Option<String>,
    dns_names: Vec<String>,
    uris: Vec<String>,
    thumbprint: String,
}

impl ClientCertificate {
    /// Returns the first certificate of a chain that was verified. `None` if it cannot be read.
    pub(super) fn of(chain: &[CertificateDer<'static>]) -> Option<Self> {
        let first = chain.first()?;
        let thumbprint = BASE64_URL_SAFE_NO_PAD.encode(digest::digest(&SHA256, first));
        let own = Certificate::parse(first.clone())?;
        Some(Self(Arc::new(ClientNames {
            subject: own.subject(),
            common_name: own.common_name(),
            dns_names: own.dns_names(),
            uris: own.uris(),
            thumbprint,
        })))
    }

    /// Returns the subject's distinguished name, as RFC 4514 writes it: `CN=orders,O=Example`. It is empty if the
    /// certificate names its holder only in the subjectAltName, as a certificate of SPIFFE may do.
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// Returns the common name in the subject.
    pub fn common_name(&self) -> Option<&str> {
        self.0.common_name.as_deref()
    }

    /// Returns the DNS names in the subjectAltName.
    pub fn dns_names(&self) -> &[String] {
        &self.0.dns_names
    }

    /// Returns the URIs in the subjectAltName, such as SPIFFE ids.
    pub fn uris(&self) -> &[String] {
        &self.0.uris
    }

    /// Returns the SHA-256 of the certificate in base64url: the `x5t#S256` of RFC 8705, which binds a token to it.
    pub fn thumbprint(&self) -> &str {
        &self.0.thumbprint
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
