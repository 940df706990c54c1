//! An authority that is stored in a folder.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use crate::stack::authority::validity::{DAY, Validity};
use crate::stack::authority::{Authority, LIFETIME, intermediate_parameters};
use crate::stack::error::Error;

const NAME: &str = "devstack";
const KEY: &str = "-----BEGIN PRIVATE KEY-----";

/// The longest lifetime of an identity, in days. A stored authority must be valid for at least that long.
const DAYS: u32 = 180;

impl Authority {
    /// Loads the authority from a folder. Makes a new one if there is none, or if it is broken or near its end.
    ///
    /// The folder holds the root's certificate in [`Self::certificate_in`]. The intermediate with its key is beside it,
    /// in a file that only the user may read.
    pub fn load_or_create(folder: &Path) -> Result<Self, Error> {
        if let Some(authority) = Self::read(folder)
            && authority.is_trusted()
        {
            return Ok(authority);
        }
        let authority = Self::new(NAME);
        authority.store(folder)?;
        Ok(authority)
    }

    fn store(&self, folder: &Path) -> Result<(), Error> {
        let issuer = self.intermediate.clone() + &self.issuer.key().serialize_pem();
        write(&issuer_in(folder), &issuer, 0o600)?;
        write(&Self::certificate_in(folder), &self.root, 0o644)
    }

    /// Returns the path of the root's certificate in a folder, for `curl --cacert`.
    pub fn certificate_in(folder: &Path) -> PathBuf {
        folder.join("ca.pem")
    }

    fn read(folder: &Path) -> Option<Self> {
        let root = fs::read_to_string(Self::certificate_in(folder)).ok()?;
        let text = fs::read_to_string(issuer_in(folder)).ok()?;
        let (certificate, key) = text.split_at(text.find(KEY)?);
        let issuer = Issuer::new(intermediate_parameters(NAME, LIFETIME), KeyPair::from_pem(key).ok()?);
        Some(Self { root, intermediate: certificate.into(), issuer })
    }

    /// Returns true if a client that trusts the root accepts what the issuer signs, now and at the end of the longest
    /// lifetime.
    fn is_trusted(&self) -> bool {
        self.verified_at(SystemTime::now()).is_some() && self.verified_at(SystemTime::now() + DAY * DAYS).is_some()
    }

    /// Returns `None` if such a client rejects it at this time.
    fn verified_at(&self, time: SystemTime) -> Option<()> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.root.as_bytes()).ok()?).ok()?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::new(default_provider()));
        let probe = self.issue(&["localhost"], Validity::days(DAYS + 1));
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(probe.certificate.as_bytes()).collect();
        let chain = chain.ok()?;
        let (leaf, rest) = chain.split_first()?;
        let name = ServerName::try_from("localhost").ok()?;
        let unix_time = UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).ok()?);
        verifier.build().ok()?.verify_server_cert(leaf, rest, &name, &[], unix_time).ok()?;
        Some(())
    }
}

fn issuer_in(folder: &Path) -> PathBuf {
    folder.join("ca-issuer.pem")
}

/// Replaces a file in one step. So nobody reads half of it, and the mode of an older file does not stay.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&new, path))
        .map_err(Error::io(format!("write {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::authority::new_key;
    use crate::stack::random::random;

    fn fresh(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("devstack-{name}-{}", random()));
        fs::create_dir(&folder).expect("it is new");
        folder
    }

    #[test]
    fn a_stored_authority_is_the_same_until_it_is_broken_or_near_its_end() {
        let folder = fresh("stored");
        let root = || Authority::load_or_create(&folder).expect("the folder is ours").root;
        let (certificate, issuer) = (Authority::certificate_in(&folder), issuer_in(&folder));
        let first = root();
        assert_eq!(root(), first);
        assert_eq!(fs::read_to_string(&certificate).expect("it is stored"), first);

        let mut before = first;
        let mut remade = |why: &str| {
            let now = root();
            assert_ne!(now, before, "{why}");
            assert_eq!(root(), now, "{why}: the new one is stored");
            before = now;
        };
        fs::remove_file(&certificate).expect("it is there");
        remade("the root is gone");
        fs::write(&issuer, "oops").expect("it is ours");
        remade("the issuer is broken");
        fs::write(&certificate, Authority::new(NAME).certificate()).expect("it is ours");
        remade("the root is another one");
        let text = fs::read_to_string(&issuer).expect("it is stored");
        let foreign = text[..text.find(KEY).expect("it has a key")].to_owned() + &new_key().serialize_pem();
        fs::write(&issuer, foreign).expect("it is ours");
        remade("the key is not the issuer's");
        let short = Authority::lasting(NAME, DAY * (DAYS - 1));
        short.store(&folder).expect("it is ours");
        assert_ne!(root(), short.root, "it ends before an identity would");
        fs::remove_dir_all(folder).expect("it is ours");
    }

    #[test]
    fn only_the_user_may_read_the_key_even_if_the_file_was_there_before() {
        use std::os::unix::fs::PermissionsExt;
        let folder = fresh("mode");
        fs::write(issuer_in(&folder), "for all to see").expect("the folder is ours");
        drop(Authority::load_or_create(&folder).expect("the folder is ours"));
        let mode = |path: PathBuf| fs::metadata(path).expect("it is stored").permissions().mode() & 0o777;
        assert_eq!(mode(issuer_in(&folder)), 0o600);
        assert!(!fs::read_to_string(Authority::certificate_in(&folder)).expect("it is stored").contains("PRIVATE"));
        fs::remove_dir_all(folder).expect("it is ours");
    }
}
