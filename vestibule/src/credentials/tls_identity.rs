//! Who a TLS server is: a certificate chain and its key, as one credential.

use super::{certificate::Certificate, json, unescaped};
use crate::secrets::{
    kind::{Kind, Malformed},
    version::SecretValues,
};
use rustls::{
    crypto::aws_lc_rs::{self, sign::any_supported_type},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    sign::CertifiedKey,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::{sync::Arc, time::Duration};
use time::OffsetDateTime;
use webpki::{EndEntityCert, KeyUsage};
use zeroize::Zeroizing;

/// A certificate chain and the private key that fits it. In one secret, so that no reader finds one half of each.
///
/// Checked when it is read: the key fits; each certificate is signed by the next; all are in date; the first is for
/// servers, and names a host.
pub struct TlsIdentity {
    key: Arc<CertifiedKey>,
    expires_at: OffsetDateTime,
}

#[derive(Deserialize)]
struct Json {
    #[serde(alias = "tls.crt")]
    certificate: String,
    #[serde(alias = "tls.key", deserialize_with = "unescaped")]
    private_key: SecretString,
}

impl TlsIdentity {
    const EXPECTED: &str = "the JSON of a certificate and its key, {\"certificate\": \"<PEM chain>\", \"private_key\": \
         \"<PEM>\"}, or under the names tls.crt and tls.key; the key without a passphrase";
    const ALGORITHM: &str =
        "a private key as TLS uses them: RSA from 2048 bits, ECDSA on P-256, P-384 or P-521, or Ed25519";
    const FITS: &str = "a private key that fits the first certificate";
    const CHAIN: &str =
        "a chain in order: the server's own certificate first, each one signed by the next; without gaps";
    const FOR_SERVERS: &str = "a certificate for servers: its extended key usage has no serverAuth";
    const HOST: &str = "a certificate that names a host in its subjectAltName (clients ignore the common name)";

    /// What rustls serves with.
    pub(crate) fn key(&self) -> Arc<CertifiedKey> {
        self.key.clone()
    }

    /// Whether clients that ask for any of these hosts or addresses accept the certificate.
    pub(crate) fn check_hosts(&self, hosts: &[String]) -> Result<(), Malformed> {
        let own = self.key.cert.first().and_then(|own| EndEntityCert::try_from(own).ok());
        let valid = |host: &String| {
            let name = ServerName::try_from(host.as_str());
            name.is_ok_and(|name| own.as_ref().is_some_and(|own| own.verify_is_valid_for_subject_name(&name).is_ok()))
        };
        if hosts.iter().all(valid) {
            return Ok(());
        }
        Err(Malformed::expected("a certificate that is valid for each of server.tls_names"))
    }
}

impl Kind for TlsIdentity {
    const NAME: &'static str = "tls_identity";

    fn read(values: &SecretValues) -> Result<Self, Malformed> {
        let Json { certificate, private_key } =
            json(values.current().text.expose_secret().trim_start(), Self::EXPECTED)?;
        let chain = Certificate::all(&certificate, Self::EXPECTED)?;
        let key = PrivateKeyDer::from_pem_slice(private_key.expose_secret().as_bytes())
            .map(Zeroizing::new)
            .map_err(|_| Malformed::expected(Self::EXPECTED))?;
        let key = any_supported_type(&key).map_err(|_| Malformed::expected(Self::ALGORITHM))?;
        check(&chain, OffsetDateTime::now_utc())?;
        let expires_at = chain.iter().map(Certificate::expires_at).min().ok_or(Malformed::expected(Self::EXPECTED))?;
        let key = CertifiedKey::new(chain.into_iter().map(|certificate| certificate.der).collect(), key);
        key.keys_match().map_err(|_| Malformed::expected(Self::FITS))?;
        Ok(Self { key: Arc::new(key), expires_at })
    }

    fn expires_at(&self) -> Option<OffsetDateTime> {
        Some(self.expires_at)
    }
}

fn check(chain: &[Certificate], now: OffsetDateTime) -> Result<(), Malformed> {
    let (Some(own), Some(last)) = (chain.first(), chain.last()) else {
        return Err(Malformed::expected(TlsIdentity::EXPECTED));
    };
    chain.iter().try_for_each(|certificate| certificate.check_date(now))?;
    if !own.names_a_host() {
        return Err(Malformed::expected(TlsIdentity::HOST));
    }
    if !own.is_for_servers() {
        return Err(Malformed::expected(TlsIdentity::FOR_SERVERS));
    }
    if !chain.windows(2).all(|pair| pair[1].issued(&pair[0])) {
        return Err(Malformed::expected(TlsIdentity::CHAIN));
    }
    if chain.len() == 1 {
        return Ok(());
    }
    // Signatures and constraints, as a client would see them that trusts the last of the chain.
    let between: Vec<CertificateDer<'_>> = chain[1..chain.len() - 1].iter().map(|one| one.der.clone()).collect();
    let verified = webpki::anchor_from_trusted_cert(&last.der).and_then(|anchor| {
        EndEntityCert::try_from(&own.der)?
            .verify_for_usage(
                aws_lc_rs::default_provider().signature_verification_algorithms.all,
                &[anchor],
                &between,
                UnixTime::since_unix_epoch(Duration::from_secs(now.unix_timestamp().unsigned_abs())),
                KeyUsage::server_auth(),
                None,
                None,
            )
            .map(drop)
    });
    verified.map_err(|_: webpki::Error| Malformed::expected(TlsIdentity::CHAIN))
}
