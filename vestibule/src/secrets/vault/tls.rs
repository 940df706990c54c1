//! The TLS of connections to Vault.

use super::files::{BlockingReads, VaultFile};
use crate::{
    config::{base_url::BaseUrl, settings::vault::VaultConfig},
    credentials::certificate::Certificate,
    secrets::source::SourceError,
    trust,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// The files that connections to Vault need.
pub(super) struct VaultTls {
    is_needed: bool,
    /// The authorities. `None` if they are the platform's.
    ca: Option<VaultFile>,
    /// A client certificate, and its key.
    client: Option<(VaultFile, VaultFile)>,
    platform: BlockingReads,
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
            platform: BlockingReads::default(),
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
            Some(file) => authorities(&file.read().await?)?,
            None => self.platform_roots().await?,
        };
        let builder = trust::builder().with_root_certificates(roots);
        let Some((certificate, key)) = &self.client else {
            return Ok(builder.with_no_client_auth());
        };
        let (chain, key) = (certificate.read().await?, key.read().await?);
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
        let (Ok(chain), Ok(key)) = (chain, key) else {
            return Err(not_usable("secrets.vault.client_cert or client_key is not PEM".into()));
        };
        builder
            .with_client_auth_cert(chain, key)
            .map_err(|_| not_usable("the key of secrets.vault.client_key is not that of client_cert".into()))
    }

    async fn platform_roots(&self) -> Result<RootCertStore, SourceError> {
        match self.platform.run(trust::platform_roots).await {
            Some(Ok(roots)) => Ok(roots),
            Some(Err(fault)) => Err(not_usable(format!("{}: {}", fault.subject, fault.problem))),
            None => Err(not_usable("the platform's certificate authorities could not be read in time".into())),
        }
    }
}

fn authorities(text: &str) -> Result<RootCertStore, SourceError> {
    let certificates = Certificate::parse_all(text, "certificates in PEM")
        .map_err(|malformed| not_usable(format!("the file of secrets.vault.ca: {malformed}")))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates.into_iter().map(|certificate| certificate.der));
    Ok(roots)
}

fn not_usable(problem: String) -> SourceError {
    SourceError::NotConnected { problem, remedy: Some("put a PEM file of this kind there") }
}
