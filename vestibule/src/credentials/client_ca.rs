//! The certificate authorities of clients.

use super::{ValueText, certificate::Certificate, json};
use crate::secrets::{
    kind::{Kind, Malformed},
    version::SecretValues,
};
use rustls::{
    RootCertStore,
    crypto::aws_lc_rs,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use secrecy::ExposeSecret;
use serde::Deserialize;
use std::sync::Arc;
use time::OffsetDateTime;

/// The authorities that sign the certificates of TLS clients. A client without such a certificate cannot connect.
///
/// The manager has a bundle in PEM: bare, or as `{"certificate": "…"}`, or under the name `ca.crt`. While clients move
/// from one authority to another, the bundle has both.
///
/// The framework fetches it if `server.client_ca` is set, so it is no field of a service's `Secrets`.
pub struct ClientCa {
    verifier: Arc<dyn ClientCertVerifier>,
    expires_at: OffsetDateTime,
}

#[derive(Deserialize)]
struct ClientCaJson {
    #[serde(alias = "ca.crt")]
    certificate: String,
}

impl ClientCa {
    pub(super) const EXPECTED: &str = "the certificates of authorities in PEM, bare or as {\"certificate\": \"<PEM>\"}, or under \
         the name ca.crt";

    /// Returns the verifier of clients' certificates.
    pub(crate) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        self.verifier.clone()
    }
}

impl Kind for ClientCa {
    const NAME: &'static str = "client_ca";

    fn read(values: &SecretValues) -> Result<Self, Malformed> {
        let text = values.current().text.expose_secret();
        let unpacked;
        let pem = match ValueText::of(text, Self::EXPECTED)? {
            ValueText::Json(text) => {
                unpacked = json::<ClientCaJson>(text, Self::EXPECTED)?.certificate;
                &unpacked
            }
            ValueText::Bare(text) => text,
        };
        let authorities = Certificate::parse_all(pem, Self::EXPECTED)?;
        if !authorities.iter().all(Certificate::is_authority) {
            return Err(Malformed::expected("only certificates of authorities, but one of them may not sign others"));
        }
        // The verifier does not check the dates of an authority. An expired one is left out: it must not keep out the
        // clients of the others.
        let now = OffsetDateTime::now_utc();
        let in_date: Vec<_> = authorities.into_iter().filter(|authority| authority.check_date(now).is_ok()).collect();
        let Some(expires_at) = in_date.iter().map(Certificate::expires_at).min() else {
            return Err(Malformed::expected("the certificate of at least one authority that is valid now"));
        };
        let mut roots = RootCertStore::empty();
        for authority in in_date {
            roots.add(authority.der).map_err(|_| Malformed::expected(Self::EXPECTED))?;
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|_| Malformed::expected(Self::EXPECTED))?;
        Ok(Self { verifier, expires_at })
    }

    fn expires_at(&self) -> Option<OffsetDateTime> {
        Some(self.expires_at)
    }
}
