//! The verifier of clients' certificates.

use super::certificate::Certificate;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use std::{fmt, sync::Arc};
use time::OffsetDateTime;

/// A verifier that trusts, at each handshake, those of its authorities that are in date then. rustls checks the dates of
/// the other certificates of a chain, but not those of an authority.
///
/// The dates are compared when they matter, and not when the bundle is read: the clock may be set in between.
pub(super) struct ClientVerifier {
    authorities: Vec<Certificate>,
    /// The verifier that trusts all of them.
    of_all: Arc<dyn ClientCertVerifier>,
}

impl ClientVerifier {
    /// Makes the verifier. Returns `None` if there is no authority, or if one of them cannot be one.
    pub(super) fn new(authorities: Vec<Certificate>) -> Option<Self> {
        let of_all = verifier_of(&authorities)?;
        Some(Self { authorities, of_all })
    }
}

fn verifier_of<'a>(authorities: impl IntoIterator<Item = &'a Certificate>) -> Option<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.der.clone()).ok()?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()?;
    Some(verifier)
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientVerifier")
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.of_all.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let seconds = i64::try_from(now.as_secs()).map_err(|_| Error::FailedToGetCurrentTime)?;
        let at = OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| Error::FailedToGetCurrentTime)?;
        let is_in_date = |authority: &&Certificate| authority.check_date(at).is_ok();
        let in_date: Vec<_> = self.authorities.iter().filter(is_in_date).collect();
        if in_date.len() == self.authorities.len() {
            return self.of_all.verify_client_cert(end_entity, intermediates, now);
        }
        match verifier_of(in_date) {
            Some(verifier) => verifier.verify_client_cert(end_entity, intermediates, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.of_all.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.of_all.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.of_all.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd,
    };
    use std::time::Duration;

    /// Makes an authority that is valid in these years, and the certificate of a client.
    fn authority(name: &str, first_year: i32, last_year: i32) -> (Certificate, CertificateDer<'static>) {
        let (key, client_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        (params.not_before, params.not_after) = (date_time_ymd(first_year, 1, 1), date_time_ymd(last_year, 1, 1));
        let certificate = Certificate::parse(params.self_signed(&key).unwrap().der().clone()).unwrap();
        let mut client = CertificateParams::default();
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let client = client.signed_by(&client_key, &Issuer::new(params, key)).unwrap().der().clone();
        (certificate, client)
    }

    fn year(year: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_556_952 + 86_400))
    }

    /// The clock may be wrong when the bundle is read, and set afterwards.
    #[test]
    fn the_dates_of_authorities_count_at_the_handshake() {
        let ((old, of_old), (new, of_new)) = (authority("old", 2000, 2030), authority("new", 2020, 2050));
        let verifier = ClientVerifier::new(vec![old, new]).unwrap();
        let accepts = |client: &CertificateDer<'_>, at| verifier.verify_client_cert(client, &[], at).is_ok();
        for (at, accepts_old, accepts_new) in
            [(2010, true, false), (2025, true, true), (2040, false, true), (2060, false, false), (2025, true, true)]
        {
            assert_eq!((accepts(&of_old, year(at)), accepts(&of_new, year(at))), (accepts_old, accepts_new), "{at}");
        }
    }
}
