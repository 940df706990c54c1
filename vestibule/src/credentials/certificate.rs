//! X.509 certificates: their dates, names, issuer and usage.

use super::pem::{self, PemBlock, PemLabel};
use crate::secrets::{expiry::Expiry, kind::Malformed};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_cert::{
    Certificate as Parsed,
    der::oid::db::rfc5280::ID_KP_SERVER_AUTH,
    der::{Decode, asn1::Ia5String},
    ext::pkix::{BasicConstraints, ExtendedKeyUsage, SubjectAltName, name::GeneralName},
    time::Time,
};

/// The text for a block of PEM that is whole, and whose content is no certificate that RFC 5280 allows.
const UNREADABLE: &str = "certificates as RFC 5280 has them, but the content of one block is none: it was cut or mistyped, or it has, \
     for example, a serial number of more than 20 bytes or a date before 1970";

/// A certificate that could be parsed.
pub(crate) struct Certificate {
    pub(crate) der: CertificateDer<'static>,
    parsed: Parsed,
}

impl Certificate {
    /// Parses a certificate in DER.
    pub(crate) fn parse(der: CertificateDer<'static>) -> Option<Self> {
        let parsed = Parsed::from_der(&der).ok()?;
        Some(Self { der, parsed })
    }

    /// Parses a PEM text of certificates, one at least, and nothing else.
    pub(crate) fn parse_all(text: &str, expected: &'static str) -> Result<Vec<Self>, Malformed> {
        Self::of_blocks(&pem::blocks(text).map_err(|_| Malformed::expected(expected))?, expected)
    }

    /// Parses blocks of PEM, all of which are certificates.
    pub(super) fn of_blocks(blocks: &[PemBlock], expected: &'static str) -> Result<Vec<Self>, Malformed> {
        let mut all = Vec::new();
        for block in blocks {
            if block.label != PemLabel::Certificate {
                return Err(Malformed::expected(expected));
            }
            let der = CertificateDer::from(block.der.to_vec());
            all.push(Self::parse(der).ok_or(Malformed::expected(UNREADABLE))?);
        }
        Ok(all)
    }

    pub(super) fn expiry(&self) -> Expiry {
        Expiry::between(self.not_before(), self.not_after())
    }

    fn not_before(&self) -> OffsetDateTime {
        date_time(self.parsed.tbs_certificate().validity().not_before)
    }

    pub(super) fn not_after(&self) -> OffsetDateTime {
        date_time(self.parsed.tbs_certificate().validity().not_after)
    }

    /// Checks that it is valid at this time.
    pub(super) fn check_date(&self, now: OffsetDateTime) -> Result<(), Malformed> {
        if now > self.not_after() {
            return Err(Malformed::expected("certificates that are all valid now, but one of them has expired"));
        }
        if now < self.not_before() {
            return Err(Malformed::too_early("certificates that are all valid now, but one of them is not valid yet"));
        }
        Ok(())
    }

    /// Returns `true` if its subject is the issuer of `other`. Does not check the signature.
    pub(super) fn issued(&self, other: &Self) -> bool {
        self.parsed.tbs_certificate().subject() == other.parsed.tbs_certificate().issuer()
    }

    /// Returns `true` if it may sign certificates.
    pub(super) fn is_authority(&self) -> bool {
        let constraints = self.parsed.tbs_certificate().get_extension::<BasicConstraints>();
        matches!(constraints, Ok(Some((_, BasicConstraints { ca: true, .. }))))
    }

    /// Returns `true` if a server may use it: if its extended key usage says so, or if it has none.
    pub(super) fn is_for_servers(&self) -> bool {
        match self.parsed.tbs_certificate().get_extension::<ExtendedKeyUsage>() {
            Ok(Some((_, ExtendedKeyUsage(usages)))) => usages.contains(&ID_KP_SERVER_AUTH),
            Ok(None) => true,
            Err(_) => false,
        }
    }

    /// Returns its subject in the form of RFC 4514.
    pub(crate) fn subject(&self) -> String {
        self.parsed.tbs_certificate().subject().to_string()
    }

    /// Returns its issuer in the form of RFC 4514.
    pub(super) fn issuer(&self) -> String {
        self.parsed.tbs_certificate().issuer().to_string()
    }

    /// Returns the common name of its subject. A name with control characters is none.
    pub(crate) fn common_name(&self) -> Option<String> {
        let name = self.parsed.tbs_certificate().subject().common_name().ok()??;
        let text = name.value().into_owned();
        if text.contains(char::is_control) { None } else { Some(text) }
    }

    /// Returns the host names for which it is valid.
    pub(crate) fn dns_names(&self) -> Vec<String> {
        self.alternative_names_of(|name| match name {
            GeneralName::DnsName(name) => Some(name),
            _ => None,
        })
    }

    /// Returns the URIs for which it is valid, such as SPIFFE ids.
    pub(crate) fn uris(&self) -> Vec<String> {
        self.alternative_names_of(|name| match name {
            GeneralName::UniformResourceIdentifier(uri) => Some(uri),
            _ => None,
        })
    }

    /// Returns `true` if its subjectAltName has a host or an address. Clients ignore the common name (RFC 9525).
    pub(super) fn names_a_host(&self) -> bool {
        let names = self.alternative_names();
        names.iter().any(|name| matches!(name, GeneralName::DnsName(_) | GeneralName::IpAddress(_)))
    }

    /// Returns the alternative names of one kind, as text. A name with control characters is none: a host that ends at a
    /// zero byte elsewhere could pass for another one.
    fn alternative_names_of(&self, kind: impl Fn(&GeneralName) -> Option<&Ia5String>) -> Vec<String> {
        let mut names: Vec<_> = self.alternative_names().iter().filter_map(kind).map(ToString::to_string).collect();
        names.retain(|name| !name.contains(char::is_control));
        names
    }

    fn alternative_names(&self) -> Vec<GeneralName> {
        match self.parsed.tbs_certificate().get_extension::<SubjectAltName>() {
            Ok(Some((_, SubjectAltName(names)))) => names,
            Ok(None) | Err(_) => Vec::new(),
        }
    }
}

fn date_time(time: Time) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + time.to_unix_duration()
}
