//! The certificate authorities of clients.

use super::{ValueText, certificate::Certificate, client_verifier::ClientVerifier, json};
use crate::secrets::{
    expiry::Expiry,
    kind::{Kind, Malformed},
    secret_parts::SecretParts,
    version::SecretValues,
};
use rustls::server::danger::ClientCertVerifier;
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
    expiry: Expiry,
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
        // An authority that is not in date must not keep out the clients of the others.
        let now = OffsetDateTime::now_utc();
        let in_date = authorities.iter().filter(|authority| authority.check_date(now).is_ok());
        let Some(expiry) = Expiry::earliest(in_date.map(Certificate::expiry)) else {
            let expected = "the certificate of at least one authority that is valid now";
            let is_too_early = authorities.iter().any(|authority| authority.not_after() > now);
            return Err(if is_too_early { Malformed::too_early(expected) } else { Malformed::expected(expected) });
        };
        let verifier = ClientVerifier::new(authorities).ok_or(Malformed::expected(Self::EXPECTED))?;
        Ok(Self { verifier: Arc::new(verifier), expiry })
    }

    fn expiry(&self) -> Option<Expiry> {
        Some(self.expiry)
    }

    /// Adds nothing: certificates are public.
    fn secret_parts(&self, _: &SecretValues, _: &mut SecretParts) {}
}
