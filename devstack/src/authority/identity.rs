use std::fmt;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;

/// A certificate and its private key, for a server or for a client. Its `Debug` shows neither.
#[derive(Clone)]
pub struct Identity {
    /// The chain as PEM: the leaf, then the intermediate.
    pub certificate: String,
    /// PKCS #8 as PEM.
    pub private_key: String,
}

impl Identity {
    /// What the manager keeps: certificate and key as one secret.
    pub fn secret(&self) -> String {
        json!({ "certificate": self.certificate, "private_key": self.private_key }).to_string()
    }

    /// The certificates of the chain one by one, as PEM: the leaf first.
    pub fn certificates(&self) -> Vec<&str> {
        self.certificate.split_inclusive("-----END CERTIFICATE-----\n").collect()
    }

    /// The certificate itself, as DER: what a handshake shows first.
    pub fn leaf(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("it is ours")
    }

    /// For an HTTP client that shows it to its server.
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
