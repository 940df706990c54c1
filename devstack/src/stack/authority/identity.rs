//! A certificate with its private key.

use std::fmt;

use aws_lc_rs::digest::{self, SHA256};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;

/// A certificate and its private key, for a server or for a client. Its `Debug` shows neither.
#[derive(Clone)]
pub struct Identity {
    /// The chain as PEM: the leaf, then the intermediate.
    pub certificate: String,
    /// The private key: PKCS #8 as PEM.
    pub private_key: String,
}

impl Identity {
    /// Returns the text of a secret that holds both: `{"certificate": …, "private_key": …}`.
    pub fn secret(&self) -> String {
        json!({ "certificate": self.certificate, "private_key": self.private_key }).to_string()
    }

    /// Returns the certificates of the chain one by one, as PEM. The leaf is the first.
    pub fn certificates(&self) -> Vec<&str> {
        self.certificate.split_inclusive("-----END CERTIFICATE-----\n").collect()
    }

    /// Returns the leaf as DER, as a TLS handshake shows it.
    pub fn leaf(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("it is ours")
    }

    /// Returns the SHA-256 of the leaf in base64url, as a token has it that is bound to this certificate (RFC 8705).
    pub fn thumbprint(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(digest::digest(&SHA256, &self.leaf()))
    }

    /// Returns the identity for an HTTP client that shows it to its server.
    pub fn for_client(&self) -> reqwest::Identity {
        let both = format!("{}{}", self.certificate, self.private_key);
        reqwest::Identity::from_pem(both.as_bytes()).expect("it is ours")
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}
