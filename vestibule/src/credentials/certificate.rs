//! X.509 certificates, as far as a listener must understand them.

use crate::secrets::kind::Malformed;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use time::OffsetDateTime;
use x509_cert::{
    Certificate as Parsed,
    der::oid::db::rfc5280::ID_KP_SERVER_AUTH,
    der::{Decode, asn1::Ia5String},
    ext::pkix::{BasicConstraints, ExtendedKeyUsage, SubjectAltName, name::GeneralName},
    time::Time,
};

/// A certificate that can be read.
pub(crate) struct Certificate {
    pub(super) der: CertificateDer<'static>,
    parsed: Parsed,
}

impl Certificate {
    pub(crate) fn parse(der: CertificateDer<'static>) -> Option<Self> {
        let parsed = Parsed::from_der(&der).ok()?;
        Some(Self { der, parsed })
    }

    /// Every certificate of a PEM text, one at least.
    pub(super) fn all(pem: &str, expected: &'static str) -> Result<Vec<Self>, Malformed> {
        let parse = |der: Result<CertificateDer<'static>, _>| der.ok().and_then(Self::parse);
        let all: Option<Vec<_>> = CertificateDer::pem_slice_iter(pem.as_bytes()).map(parse).collect();
        all.filter(|all| !all.is_empty()).ok_or(Malformed::expected(expected))
    }

    /// When it ends.
    pub(super) fn expires_at(&self) -> OffsetDateTime {
        at(self.parsed.tbs_certificate().validity().not_after)
    }

    /// Whether it may be used at this moment.
    pub(super) fn check_date(&self, now: OffsetDateTime) -> Result<(), Malformed> {
        if now > self.expires_at() {
            return Err(Malformed::expected("certificates that are in date: one of them has ended"));
        }
        if now < at(self.parsed.tbs_certificate().validity().not_before) {
            return Err(Malformed::expected(
                "certificates that are in date: one of them has not begun (is this machine's clock right?)",
            ));
        }
        Ok(())
    }

    /// Whether this is the certificate of the one who signed `other`, by name.
    pub(super) fn issued(&self, other: &Self) -> bool {
        self.parsed.tbs_certificate().subject() == other.parsed.tbs_certificate().issuer()
    }

    /// Whether it may sign certificates.
    pub(super) fn is_authority(&self) -> bool {
        let constraints = self.parsed.tbs_certificate().get_extension::<BasicConstraints>();
        matches!(constraints, Ok(Some((_, BasicConstraints { ca: true, .. }))))
    }

    /// Whether a server may use it: its extended key usage says so, or it has none.
    pub(super) fn is_for_servers(&self) -> bool {
        match self.parsed.tbs_certificate().get_extension::<ExtendedKeyUsage>() {
            Ok(Some((_, ExtendedKeyUsage(usages)))) => usages.contains(&ID_KP_SERVER_AUTH),
            Ok(None) => true,
            Err(_) => false,
        }
    }

    /// Whom it is for, as RFC 4514 writes it.
    pub(crate) fn subject(&self) -> String {
        self.parsed.tbs_certificate().subject().to_string()
    }

    /// The common name in its subject.
    pub(crate) fn common_name(&self) -> Option<String> {
        let name = self.parsed.tbs_certificate().subject().common_name().ok()??;
        Some(name.value().into_owned())
    }

    /// The names of hosts that it is for.
    pub(crate) fn dns_names(&self) -> Vec<String> {
        self.alternatives(|name| match name {
            GeneralName::DnsName(name) => Some(name),
            _ => None,
        })
    }

    /// The URIs that it is for, such as SPIFFE ids.
    pub(crate) fn uris(&self) -> Vec<String> {
        self.alternatives(|name| match name {
            GeneralName::UniformResourceIdentifier(uri) => Some(uri),
            _ => None,
        })
    }

    /// Whether it names a host or an address, where clients look for one: RFC 9525 has them ignore the common name.
    pub(super) fn names_a_host(&self) -> bool {
        let host = |name: &GeneralName| matches!(name, GeneralName::DnsName(_) | GeneralName::IpAddress(_));
        self.alternative_names().iter().any(host)
    }

    fn alternatives(&self, wanted: impl Fn(&GeneralName) -> Option<&Ia5String>) -> Vec<String> {
        self.alternative_names().iter().filter_map(wanted).map(ToString::to_string).collect()
    }

    fn alternative_names(&self) -> Vec<GeneralName> {
        let names = self.parsed.tbs_certificate().get_extension::<SubjectAltName>();
        names.ok().flatten().map(|(_, SubjectAltName(names))| names).unwrap_or_default()
    }
}

fn at(time: Time) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + time.to_unix_duration()
}
