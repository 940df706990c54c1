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

use super::{Authority, DAY, LIFETIME, Validity, intermediate};
use crate::Error;

const NAME: &str = "devstack";
const KEY: &str = "-----BEGIN PRIVATE KEY-----";

/// The longest-lived identity that a kept authority must be good for.
const DAYS: u32 = 180;

impl Authority {
    /// The one kept in a folder: [`Self::certificate_in`] it, and beside it, for the user's eyes alone, the
    /// intermediate with its key. It is made where there is none, and made anew where it is broken or near its end.
    pub fn kept(folder: &Path) -> Result<Self, Error> {
        if let Some(authority) = Self::read(folder).filter(Authority::is_trusted) {
            return Ok(authority);
        }
        let authority = Self::new(NAME);
        authority.keep(folder)?;
        Ok(authority)
    }

    fn keep(&self, folder: &Path) -> Result<(), Error> {
        let issuer = self.intermediate.clone() + &self.issuer.key().serialize_pem();
        write(&issuer_in(folder), &issuer, 0o600)?;
        write(&Self::certificate_in(folder), &self.root, 0o644)
    }

    /// Where a folder holds the root's certificate, for `curl --cacert`.
    pub fn certificate_in(folder: &Path) -> PathBuf {
        folder.join("ca.pem")
    }

    fn read(folder: &Path) -> Option<Self> {
        let root = fs::read_to_string(Self::certificate_in(folder)).ok()?;
        let issuer = fs::read_to_string(issuer_in(folder)).ok()?;
        let (certificate, key) = issuer.split_at(issuer.find(KEY)?);
        let issuer = Issuer::new(intermediate(NAME, LIFETIME), KeyPair::from_pem(key).ok()?);
        Some(Self { root, intermediate: certificate.into(), issuer })
    }

    /// Whether whoever trusts the root lets in what the issuer signs, now and as long as such an identity lives.
    fn is_trusted(&self) -> bool {
        self.verified_at(SystemTime::now()).is_some() && self.verified_at(SystemTime::now() + DAY * DAYS).is_some()
    }

    fn verified_at(&self, when: SystemTime) -> Option<()> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.root.as_bytes()).ok()?).ok()?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::new(default_provider()));
        let probe = self.issue(&["localhost"], Validity::days(DAYS + 1));
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(probe.certificate.as_bytes()).collect();
        let chain = chain.ok()?;
        let (leaf, rest) = chain.split_first()?;
        let name = ServerName::try_from("localhost").ok()?;
        let when = UnixTime::since_unix_epoch(when.duration_since(SystemTime::UNIX_EPOCH).ok()?);
        verifier.build().ok()?.verify_server_cert(leaf, rest, &name, &[], when).ok()?;
        Some(())
    }
}

fn issuer_in(folder: &Path) -> PathBuf {
    folder.join("ca-issuer.pem")
}

/// Replaces a file whole, so that nobody reads half of it and no old one's mode stays.
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

    fn fresh(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("devstack-{name}-{}", crate::random()));
        fs::create_dir(&folder).expect("it is new");
        folder
    }

    #[test]
    fn a_kept_authority_is_the_same_until_it_is_broken_or_near_its_end() {
        let folder = fresh("kept");
        let root = || Authority::kept(&folder).expect("the folder is ours").root;
        let (certificate, issuer) = (Authority::certificate_in(&folder), issuer_in(&folder));
        let first = root();
        assert_eq!(root(), first);
        assert_eq!(fs::read_to_string(&certificate).expect("it is kept"), first);

        let mut before = first;
        let mut remade = |why: &str| {
            let now = root();
            assert_ne!(now, before, "{why}");
            assert_eq!(root(), now, "{why}: the new one is kept");
            before = now;
        };
        fs::remove_file(&certificate).expect("it is there");
        remade("the root is gone");
        fs::write(&issuer, "oops").expect("it is ours");
        remade("the issuer is broken");
        fs::write(&certificate, Authority::new(NAME).certificate()).expect("it is ours");
        remade("the root is another one");
        let text = fs::read_to_string(&issuer).expect("it is kept");
        let foreign =
            text[..text.find(KEY).expect("it has a key")].to_owned() + &super::super::new_key().serialize_pem();
        fs::write(&issuer, foreign).expect("it is ours");
        remade("the key is not the issuer's");
        let short = Authority::lasting(NAME, DAY * (DAYS - 1));
        short.keep(&folder).expect("it is ours");
        assert_ne!(root(), short.root, "it ends before an identity would");
        fs::remove_dir_all(folder).expect("it is ours");
    }

    #[test]
    fn the_key_is_for_the_users_eyes_alone_also_where_the_file_was_there() {
        use std::os::unix::fs::PermissionsExt;
        let folder = fresh("mode");
        fs::write(issuer_in(&folder), "for all to see").expect("the folder is ours");
        drop(Authority::kept(&folder).expect("the folder is ours"));
        let mode = |path: PathBuf| fs::metadata(path).expect("it is kept").permissions().mode() & 0o777;
        assert_eq!(mode(issuer_in(&folder)), 0o600);
        assert!(!fs::read_to_string(Authority::certificate_in(&folder)).expect("it is kept").contains("PRIVATE"));
        fs::remove_dir_all(folder).expect("it is ours");
    }
}
