//! A local certificate authority.

pub(crate) mod identity;
mod storage;
pub(crate) mod validity;

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use reqwest::ClientBuilder;

use crate::stack::authority::identity::Identity;
use crate::stack::authority::validity::{DAY, Validity};

/// The lifetime of the authority's own certificates.
const LIFETIME: Duration = Duration::from_secs(5 * 365 * DAY.as_secs());

/// The names under which clients reach a service on this machine.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A local certificate authority: a root, and one intermediate that issues. So the order of a chain matters, as it does
/// with a real one.
///
/// The root's key is not kept: it signs the intermediate and nothing else.
pub struct Authority {
    root: String,
    intermediate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes an authority in memory. The certificates show its name. Two authorities of one name do not trust each
    /// other.
    pub fn new(name: &str) -> Self {
        Self::lasting(name, LIFETIME)
    }

    /// Makes an authority whose own certificates end after `length` from now.
    pub fn lasting(name: &str, length: Duration) -> Self {
        let (root_key, key) = (new_key(), new_key());
        let mut root = ca_parameters(format!("{name} root"), BasicConstraints::Constrained(1), length);
        root.use_authority_key_identifier_extension = false;
        let root_pem = root.self_signed(&root_key).expect("the parameters are ours").pem();
        let intermediate = intermediate_parameters(name, length);
        let signed = intermediate.signed_by(&key, &Issuer::new(root, root_key)).expect("the parameters are ours");
        Self { root: root_pem, intermediate: signed.pem(), issuer: Issuer::new(intermediate, key) }
    }

    /// Returns the root's certificate as PEM. A client trusts it, and a bundle of client CAs holds it.
    pub fn certificate(&self) -> &str {
        &self.root
    }

    /// Issues an identity for a server with these DNS names and IP addresses, at least one.
    ///
    /// # Panics
    /// If a name is not ASCII.
    pub fn issue(&self, names: &[&str], validity: Validity) -> Identity {
        let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
        let subject = names.first().expect("a server has a name").clone();
        let mut parameters = CertificateParams::new(names).expect("DNS names are ASCII");
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(parameters, &subject, validity)
    }

    /// Issues an identity for a server on this machine: `localhost`, `127.0.0.1` and `::1`.
    pub fn local(&self, validity: Validity) -> Identity {
        self.issue(&LOCAL, validity)
    }

    /// Issues an identity for a client. `subject` is its common name, and a DNS name in its subjectAltName.
    ///
    /// # Panics
    /// If `subject` is not ASCII.
    pub fn client(&self, subject: &str, validity: Validity) -> Identity {
        let mut parameters = CertificateParams::new([subject.to_owned()]).expect("DNS names are ASCII");
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(parameters, subject, validity)
    }

    fn sign(&self, mut parameters: CertificateParams, subject: &str, validity: Validity) -> Identity {
        parameters.distinguished_name = common_name(subject);
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.use_authority_key_identifier_extension = true;
        (parameters.not_before, parameters.not_after) = (validity.from.into(), validity.until.into());
        let key = new_key();
        let leaf = parameters.signed_by(&key, &self.issuer).expect("the parameters are ours");
        Identity { certificate: leaf.pem() + &self.intermediate, private_key: key.serialize_pem() }
    }

    /// Returns a builder for an HTTP client that trusts this authority and no other, and uses no proxy.
    pub fn trusted(&self) -> ClientBuilder {
        let root = reqwest::Certificate::from_pem(self.root.as_bytes()).expect("it is ours");
        reqwest::Client::builder().no_proxy().tls_certs_only([root])
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("P-256 keys can be made anywhere")
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn ca_parameters(name: String, constraints: BasicConstraints, length: Duration) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = common_name(&name);
    parameters.is_ca = IsCa::Ca(constraints);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters.use_authority_key_identifier_extension = true;
    let Validity { from, until } = Validity::lasting(length);
    // Earlier than the start of any identity, also of the expired ones.
    (parameters.not_before, parameters.not_after) = ((from - 100 * DAY).into(), until.into());
    parameters
}

fn intermediate_parameters(name: &str, length: Duration) -> CertificateParams {
    ca_parameters(format!("{name} issuer"), BasicConstraints::Constrained(0), length)
}
