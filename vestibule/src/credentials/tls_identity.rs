//! The certificate chain of a TLS server and its key, as one credential.

use super::{
    ValueText,
    certificate::Certificate,
    json,
    pem::{self, PemBlock, PemLabel},
    private_values::PrivateValues,
    unescaped,
};
use crate::secrets::{
    expiry::Expiry,
    kind::{Kind, Malformed},
    secret_parts::SecretParts,
    version::SecretValues,
};
use rustls::{
    crypto::aws_lc_rs::{self, sign::any_supported_type},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::{CertifiedKey, SigningKey},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::{sync::Arc, time::Duration};
use time::OffsetDateTime;
use webpki::{EndEntityCert, KeyUsage};

/// A certificate chain and its private key. Both are in one secret, so that nobody reads halves of two versions.
///
/// The manager has it as `{"certificate": "…", "private_key": "…"}` in PEM, or under the names `tls.crt` and `tls.key`,
/// or as one PEM text of both. The certificates that follow the server's own may be in `ca_chain` (a list, as Vault
/// writes it) or `certificate_chain`. It is accepted if the key matches the first certificate, if each certificate is
/// signed by the next, if all are valid now, and if the first is for servers and names a host.
///
/// The framework fetches it if `server.tls` or `admin.tls` is on, so it is no field of a service's `Secrets`.
pub struct TlsIdentity {
    key: Arc<CertifiedKey>,
    expiry: Expiry,
}

#[derive(Deserialize)]
struct TlsIdentityJson {
    #[serde(alias = "tls.crt")]
    certificate: String,
    #[serde(alias = "certificate_chain")]
    ca_chain: Option<ChainJson>,
    #[serde(alias = "tls.key", deserialize_with = "unescaped")]
    private_key: SecretString,
}

/// The certificates that follow the server's own.
#[derive(Deserialize)]
#[serde(untagged)]
enum ChainJson {
    Text(String),
    List(Vec<String>),
}

impl TlsIdentity {
    pub(super) const EXPECTED: &str = "the JSON of a certificate and its key, {\"certificate\": \"<PEM chain>\", \"private_key\": \
         \"<PEM>\"}, or under the names tls.crt and tls.key, or both in one PEM text; the key without a passphrase";
    pub(super) const PEM_CHAIN: &str = "certificates in PEM and nothing else in `certificate`, each block whole";
    pub(super) const PEM_KEY: &str = "one private key in PEM, in JSON in `private_key`, and without a passphrase";
    pub(super) const ALGORITHM: &str =
        "a private key that TLS can use: RSA of at least 2048 bits, ECDSA on P-256, P-384 or P-521, or Ed25519";
    pub(super) const MATCHING_KEY: &str = "a private key that matches the first certificate";
    pub(super) const CHAIN: &str =
        "a chain in order: the server's own certificate first, each one signed by the next; without gaps";
    pub(super) const AUTHORITIES: &str =
        "a chain in which each certificate but the first is that of an authority (CA:TRUE in basicConstraints)";
    pub(super) const SAME_BYTES: &str = "an issuer that is written with the same bytes as the next certificate's subject. The name is the \
         same here, but in another string type (UTF8String, PrintableString) or case; many clients, rustls among them, \
         compare bytes and refuse such a chain. Have the certificate issued again";
    pub(super) const FOR_SERVERS: &str =
        "a first certificate with serverAuth in its extended key usage, or without an extended key usage";
    pub(super) const HOST: &str =
        "a certificate that names a host in its subjectAltName (clients ignore the common name)";

    /// Returns the chain and the key, for rustls.
    pub(crate) fn key(&self) -> Arc<CertifiedKey> {
        self.key.clone()
    }

    /// Checks that the certificate is valid for all of these hosts and addresses.
    pub(crate) fn check_hosts(&self, hosts: &[String]) -> Result<(), Malformed> {
        if hosts.iter().all(|host| self.is_valid_for(host)) {
            return Ok(());
        }
        Err(Malformed::expected("a certificate that is valid for each of server.tls_names"))
    }

    fn is_valid_for(&self, host: &str) -> bool {
        let Ok(name) = ServerName::try_from(host) else { return false };
        let Some(own) = self.key.cert.first() else { return false };
        match EndEntityCert::try_from(own) {
            Ok(own) => own.verify_is_valid_for_subject_name(&name).is_ok(),
            Err(_) => false,
        }
    }
}

impl Kind for TlsIdentity {
    const NAME: &'static str = "tls_identity";

    fn read(values: &SecretValues) -> Result<Self, Malformed> {
        let (chain, key) = chain_and_key(values)?;
        let key = read_key(key)?;
        check_chain(&chain, OffsetDateTime::now_utc())?;
        let expiry =
            Expiry::earliest(chain.iter().map(Certificate::expiry)).ok_or(Malformed::expected(Self::EXPECTED))?;
        let chain = chain.into_iter().map(|certificate| certificate.der).collect();
        let key = CertifiedKey::new(chain, key);
        key.keys_match().map_err(|_| Malformed::expected(Self::MATCHING_KEY))?;
        Ok(Self { key: Arc::new(key), expiry })
    }

    fn expiry(&self) -> Option<Expiry> {
        Some(self.expiry)
    }

    /// Adds the lines of the private key that have a part of a secret value. A client knows the other ones: if they were
    /// added, it could have the line of its own request withheld.
    fn secret_parts(&self, values: &SecretValues, parts: &mut SecretParts) {
        let (Ok((_, key)), Some(certificate)) = (chain_and_key(values), self.key.cert.first()) else { return };
        for block in key.iter().filter(|block| block.label != PemLabel::EcParameters) {
            let private = PrivateValues::of(&block.der, certificate);
            parts.add_pem(&block.der, |place| private.contain(place));
        }
    }
}

/// Reads the certificates, and the blocks of the key.
fn chain_and_key(values: &SecretValues) -> Result<(Vec<Certificate>, Vec<PemBlock>), Malformed> {
    match ValueText::of(values.current().text.expose_secret(), TlsIdentity::EXPECTED)? {
        ValueText::Json(text) => of_json(text),
        ValueText::Bare(text) => of_one_text(text),
    }
}

/// Reads the certificates, and the blocks of the key, from JSON.
fn of_json(text: &str) -> Result<(Vec<Certificate>, Vec<PemBlock>), Malformed> {
    let TlsIdentityJson { certificate, ca_chain, private_key } = json(text, TlsIdentity::EXPECTED)?;
    let mut chain = Certificate::parse_all(&certificate, TlsIdentity::PEM_CHAIN)?;
    let following = match ca_chain {
        Some(ChainJson::Text(text)) => vec![text],
        Some(ChainJson::List(texts)) => texts,
        None => Vec::new(),
    };
    for text in following.iter().filter(|text| !text.trim().is_empty()) {
        let mut more = Certificate::parse_all(text, TlsIdentity::PEM_CHAIN)?;
        more.retain(|one| !chain.iter().any(|known| known.der == one.der));
        chain.append(&mut more);
    }
    let key = pem::blocks(private_key.expose_secret()).map_err(|_| Malformed::expected(TlsIdentity::PEM_KEY))?;
    Ok((chain, key))
}

/// Reads the certificates, and the blocks of the key, from one PEM text of both.
fn of_one_text(text: &str) -> Result<(Vec<Certificate>, Vec<PemBlock>), Malformed> {
    let blocks = pem::blocks(text).map_err(|_| Malformed::expected(TlsIdentity::EXPECTED))?;
    let (certificates, key): (Vec<_>, Vec<_>) =
        blocks.into_iter().partition(|block| block.label == PemLabel::Certificate);
    Ok((Certificate::of_blocks(&certificates, TlsIdentity::EXPECTED)?, key))
}

/// Reads the one private key among blocks of PEM.
fn read_key(mut blocks: Vec<PemBlock>) -> Result<Arc<dyn SigningKey>, Malformed> {
    blocks.retain(|block| block.label != PemLabel::EcParameters);
    let [block] = &blocks[..] else { return Err(Malformed::expected(TlsIdentity::PEM_KEY)) };
    let key = block.private_key().ok_or(Malformed::expected(TlsIdentity::PEM_KEY))?;
    any_supported_type(&key).map_err(|_| Malformed::expected(TlsIdentity::ALGORITHM))
}

/// Checks a chain as a strict client does.
fn check_chain(chain: &[Certificate], now: OffsetDateTime) -> Result<(), Malformed> {
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
    for pair in chain.windows(2) {
        if !pair[1].issued(&pair[0]) {
            let is_same_name = pair[1].subject().eq_ignore_ascii_case(&pair[0].issuer());
            let expected = if is_same_name { TlsIdentity::SAME_BYTES } else { TlsIdentity::CHAIN };
            return Err(Malformed::expected(expected));
        }
    }
    EndEntityCert::try_from(&own.der).map_err(|error| Malformed::expected(expected(&error)))?;
    if chain.len() == 1 {
        return Ok(());
    }
    // The verification trusts the last certificate, whatever it says. Clients trust one of their own.
    if !last.is_authority() && !last.issued(last) {
        return Err(Malformed::expected(TlsIdentity::AUTHORITIES));
    }
    let between: Vec<_> = chain[1..chain.len() - 1].iter().map(|certificate| certificate.der.clone()).collect();
    verify_signatures(&own.der, &between, &last.der, now).map_err(|error| Malformed::expected(expected(&error)))
}

/// Returns what a client expects that refuses a chain with this error, although its names are in order.
fn expected(error: &webpki::Error) -> &'static str {
    use webpki::Error;
    match error {
        Error::CaUsedAsEndEntity => {
            "a first certificate that is the server's own, but it is that of an authority (basicConstraints)"
        }
        Error::EndEntityUsedAsCa => TlsIdentity::AUTHORITIES,
        Error::PathLenConstraintViolated | Error::MaximumPathDepthExceeded => {
            "a chain that is no longer than its authorities allow (pathlen in basicConstraints), and than clients accept"
        }
        Error::NameConstraintViolation => "a certificate for names that its authorities may sign (nameConstraints)",
        Error::RequiredEkuNotFoundContext(_) => {
            "authorities with serverAuth in their extended key usage, or without one"
        }
        Error::UnsupportedCriticalExtension => "certificates without a critical extension that clients do not know",
        Error::UnsupportedCertVersion => "certificates of X.509, version 3",
        Error::UnsupportedSignatureAlgorithmContext(_) | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            "a chain with signatures that clients accept: not with SHA-1 or MD5"
        }
        _ => TlsIdentity::CHAIN,
    }
}

/// Verifies signatures and constraints, as a client does that trusts the last certificate of the chain.
fn verify_signatures(
    own: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    last: &CertificateDer<'_>,
    now: OffsetDateTime,
) -> Result<(), webpki::Error> {
    let anchor = webpki::anchor_from_trusted_cert(last)?;
    EndEntityCert::try_from(own)?.verify_for_usage(
        aws_lc_rs::default_provider().signature_verification_algorithms.all,
        &[anchor],
        between,
        UnixTime::since_unix_epoch(Duration::from_secs(now.unix_timestamp().unsigned_abs())),
        KeyUsage::server_auth(),
        None,
        None,
    )?;
    Ok(())
}
