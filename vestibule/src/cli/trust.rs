//! Which certificates of admin listeners the commands believe.

use crate::exit::{Exit, Fault};
use hyper_rustls::ConfigBuilderExt;
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, WantsVerifier,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use std::{path::Path, sync::Arc};

/// Whom to believe.
#[derive(Clone)]
pub(super) struct Trust(ClientConfig);

impl Trust {
    /// Whoever listens there. For probes of this machine's own listener, as the kubelet does it: its certificate is for
    /// the name that clients use, not for the address that a probe asks.
    pub(super) fn anyone() -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = Arc::new(Anyone(provider));
        Self(builder().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
    }

    /// Whom the authorities in this PEM file vouch for.
    ///
    /// # Errors
    /// If there is none in it.
    pub(super) fn file(path: &Path) -> Result<Self, Fault> {
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_file_iter(path).into_iter().flatten().flatten();
        let (added, _) = roots.add_parsable_certificates(certificates);
        if added == 0 {
            return Err(Fault::new(
                Exit::Usage,
                format!("--ca {}", path.display()),
                "no certificate can be read from it",
                "give a PEM file with the certificates of authorities",
            ));
        }
        Ok(Self(builder().with_root_certificates(roots).with_no_client_auth()))
    }

    /// Whom the platform trusts: nobody, if it does not say.
    pub(super) fn platform() -> Self {
        let builder = builder().with_native_roots();
        let builder = builder.unwrap_or_else(|_| self::builder().with_root_certificates(RootCertStore::empty()));
        Self(builder.with_no_client_auth())
    }

    pub(super) fn config(&self) -> ClientConfig {
        self.0.clone()
    }
}

fn builder() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites for them")
}

/// Believes every certificate; that its holder has the key is verified all the same.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
