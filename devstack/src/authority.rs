mod identity;
mod kept;

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use reqwest::ClientBuilder;

pub use identity::Identity;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the authority's own certificates are good for.
const LIFETIME: Duration = Duration::from_secs(5 * 365 * DAY.as_secs());

/// What a service on this machine is called, by its clients.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A local certificate authority: a root, and one intermediate that issues. So the order of a chain matters, as it does
/// with a real one.
///
/// The root's key is not kept: nothing but the intermediate is ever issued with it.
pub struct Authority {
    root: String,
    intermediate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// From when until when a certificate is good, to the second.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    /// The first moment.
    pub from: SystemTime,
    /// The last one.
    pub until: SystemTime,
}

impl Validity {
    /// Since an hour ago, for so long from now.
    pub fn lasting(length: Duration) -> Self {
        let now = SystemTime::now();
        Self { from: now - Duration::from_secs(60 * 60), until: now + length }
    }

    /// Since an hour ago, for so many days from now.
    pub fn days(count: u32) -> Self {
        Self::lasting(DAY * count)
    }

    /// Over since a minute ago.
    pub fn over() -> Self {
        let now = SystemTime::now();
        Self { from: now - DAY, until: now - Duration::from_secs(60) }
    }

    /// Not yet begun: it does in an hour.
    pub fn not_yet() -> Self {
        let now = SystemTime::now();
        Self { from: now + Duration::from_secs(60 * 60), until: now + DAY }
    }
}

impl Authority {
    /// One that lives in memory alone. The name shows in the certificates; two of the same name are still two.
    pub fn new(name: &str) -> Self {
        Self::lasting(name, LIFETIME)
    }

    /// One whose own certificates end so long from now.
    pub fn lasting(name: &str, length: Duration) -> Self {
        let (root_key, key) = (new_key(), new_key());
        let mut root = authority(format!("{name} root"), BasicConstraints::Constrained(1), length);
        root.use_authority_key_identifier_extension = false;
        let root_pem = root.self_signed(&root_key).expect("the parameters are ours").pem();
        let intermediate = intermediate(name, length);
        let signed = intermediate.signed_by(&key, &Issuer::new(root, root_key)).expect("the parameters are ours");
        Self { root: root_pem, intermediate: signed.pem(), issuer: Issuer::new(intermediate, key) }
    }

    /// The root's certificate, as PEM: what a client trusts, and what a bundle of client CAs holds.
    pub fn certificate(&self) -> &str {
        &self.root
    }

    /// An identity for a server with these DNS names and IP addresses, at least one.
    ///
    /// # Panics
    /// If a name is neither: DNS names are ASCII.
    pub fn issue(&self, names: &[&str], validity: Validity) -> Identity {
        let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
        let subject = names.first().expect("a server has a name").clone();
        let mut parameters = CertificateParams::new(names).expect("DNS names are ASCII");
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(parameters, &subject, validity)
    }

    /// An identity for a server on this machine: `localhost`, `127.0.0.1` and `::1`.
    pub fn local(&self, validity: Validity) -> Identity {
        self.issue(&LOCAL, validity)
    }

    /// An identity for a client; `subject` is its common name, and a DNS name in its subjectAltName.
    ///
    /// # Panics
    /// If it is not ASCII.
    pub fn client(&self, subject: &str, validity: Validity) -> Identity {
        let mut parameters = CertificateParams::new([subject.to_owned()]).expect("DNS names are ASCII");
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(parameters, subject, validity)
    }

    fn sign(&self, mut parameters: CertificateParams, subject: &str, validity: Validity) -> Identity {
        parameters.distinguished_name = called(subject);
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.use_authority_key_identifier_extension = true;
        (parameters.not_before, parameters.not_after) = (validity.from.into(), validity.until.into());
        let key = new_key();
        let leaf = parameters.signed_by(&key, &self.issuer).expect("the parameters are ours");
        Identity { certificate: leaf.pem() + &self.intermediate, private_key: key.serialize_pem() }
    }

    /// An HTTP client that trusts this authority and nobody else, and uses no proxy.
    pub fn trusted(&self) -> ClientBuilder {
        let root = reqwest::Certificate::from_pem(self.root.as_bytes()).expect("it is ours");
        reqwest::Client::builder().no_proxy().tls_certs_only([root])
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("P-256 keys can be made anywhere")
}

fn called(name: &str) -> DistinguishedName {
    let mut called = DistinguishedName::new();
    called.push(DnType::CommonName, name);
    called
}

fn authority(name: String, constraints: BasicConstraints, length: Duration) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = called(&name);
    parameters.is_ca = IsCa::Ca(constraints);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters.use_authority_key_identifier_extension = true;
    let Validity { from, until } = Validity::lasting(length);
    // Earlier than those of any identity, the expired ones included.
    (parameters.not_before, parameters.not_after) = ((from - 2 * DAY).into(), until.into());
    parameters
}

fn intermediate(name: &str, length: Duration) -> CertificateParams {
    authority(format!("{name} issuer"), BasicConstraints::Constrained(0), length)
}
