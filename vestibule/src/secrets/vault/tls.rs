//! The TLS of connections to Vault.

use super::files::VaultFile;
use crate::{
    blocking_reads::FileReads,
    config::{base_url::BaseUrl, settings::vault::VaultConfig},
    credentials::pem::{self, PemBlock, PemLabel},
    secrets::source::SourceError,
    trust,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer},
};

/// The files that connections to Vault need.
pub(super) struct VaultTls {
    is_needed: bool,
    /// The authorities. `None` if they are the platform's.
    ca: Option<VaultFile>,
    /// A client certificate, and its key.
    client: Option<(VaultFile, VaultFile)>,
    platform: FileReads,
}

impl VaultTls {
    pub(super) fn new(config: &VaultConfig) -> Self {
        let VaultConfig { addresses, ca, client_cert, client_key, .. } = config;
        let client = client_cert.as_deref().zip(client_key.as_deref());
        Self {
            is_needed: addresses.iter().any(BaseUrl::is_https),
            ca: ca.as_deref().map(|path| VaultFile::new("ca", path)),
            client: client.map(|(certificate, key)| {
                (VaultFile::new("client_cert", certificate), VaultFile::new("client_key", key))
            }),
            platform: FileReads::default(),
        }
    }

    /// Reads the files, and returns the configuration for connections.
    ///
    /// # Errors
    /// A transient error if a file cannot be used: somebody may be replacing it.
    pub(super) async fn config(&self) -> Result<ClientConfig, SourceError> {
        if !self.is_needed {
            return Ok(trust::no_authorities());
        }
        let roots = match &self.ca {
            Some(file) => authorities(&file.read_pem().await?)?,
            None => self.platform_roots().await?,
        };
        let builder = trust::builder().with_root_certificates(roots);
        let Some((certificate, key)) = &self.client else {
            return Ok(builder.with_no_client_auth());
        };
        let (chain, key) = (certificate_of(certificate).await?, key_of(key).await?);
        builder
            .with_client_auth_cert(chain, key)
            .map_err(|_| not_usable("the key of secrets.vault.client_key is not that of client_cert".into()))
    }

    async fn platform_roots(&self) -> Result<RootCertStore, SourceError> {
        let roots = trust::platform_roots(&self.platform).await;
        roots.map_err(|fault| not_usable(format!("{}: {}", fault.subject, fault.problem)))
    }
}

fn authorities(text: &str) -> Result<RootCertStore, SourceError> {
    let certificates = trust::authorities_in(text)
        .map_err(|problem| not_usable(format!("the file of secrets.vault.ca: {problem}")))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates);
    Ok(roots)
}

/// Reads the certificates of a file, which may have a key too.
async fn certificate_of(file: &VaultFile) -> Result<Vec<CertificateDer<'static>>, SourceError> {
    let mut blocks = blocks_of(file).await?;
    blocks.retain(|block| block.label == PemLabel::Certificate);
    Ok(blocks.iter().map(|block| block.der.to_vec().into()).collect())
}

/// Reads the first private key of a file, which may have certificates too.
async fn key_of(file: &VaultFile) -> Result<PrivateKeyDer<'static>, SourceError> {
    let blocks = blocks_of(file).await?;
    let key = blocks.iter().find_map(PemBlock::private_key);
    Ok(key.ok_or_else(|| not_usable("the file of secrets.vault.client_key has no private key".into()))?.clone_key())
}

async fn blocks_of(file: &VaultFile) -> Result<Vec<PemBlock>, SourceError> {
    let malformed = || {
        let expected = "certificates or a key without a passphrase in PEM, each block whole";
        not_usable(format!("the file of secrets.vault.{}: expected {expected}", file.setting))
    };
    pem::blocks(&file.read_pem().await?).map_err(|_| malformed())
}

fn not_usable(problem: String) -> SourceError {
    SourceError::NotConnected { problem, remedy: Some("put a PEM file of this kind there") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn a_client_certificate_is_read_with_its_whole_chain() {
        let own = rcgen::generate_simple_self_signed(["own".to_owned()]).unwrap();
        let issuer = rcgen::generate_simple_self_signed(["issuer".to_owned()]).unwrap().cert.pem();
        let (certificate, key) = (own.cert.pem(), own.signing_key.serialize_pem());
        let path = std::env::temp_dir().join(format!("client-{}.pem", uuid::Uuid::new_v4()));
        let file = VaultFile::new("client_cert", &path);
        for content in [
            format!("{certificate}{issuer}{key}").into(),
            format!("{}{}{key}", certificate.trim(), issuer.trim()).into(),
            format!("\u{feff}{certificate}{issuer}{key}").into(),
            [b"# Autorit\xe9\n", format!("{certificate}{issuer}{key}").as_bytes()].concat(),
        ] {
            fs::write(&path, &content).unwrap();
            assert_eq!(certificate_of(&file).await.unwrap().len(), 2);
            key_of(&file).await.unwrap();
        }
        fs::write(&path, format!("{certificate}{}", issuer.replacen("-----END", "----END", 1))).unwrap();
        let error = certificate_of(&file).await.unwrap_err();
        assert!(error.to_string().contains("secrets.vault.client_cert: expected"), "{error}");
        fs::remove_file(&path).unwrap();
    }
}
