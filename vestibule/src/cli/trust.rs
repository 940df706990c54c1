//! Which certificates of admin listeners the commands believe.

use crate::{
    exit::{Exit, Fault},
    trust,
};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use std::{path::Path, sync::Arc};

/// How a listener is asked.
pub(super) type Connector = HttpsConnector<HttpConnector>;

/// In the clear, or by TLS as `config` says; then `name` is what certificates must be for, in place of the host of a URL.
pub(super) fn connector(config: ClientConfig, name: Option<ServerName<'static>>) -> Connector {
    let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http();
    let builder = match name {
        Some(name) => builder.with_server_name_resolver(FixedServerNameResolver::new(name)),
        None => builder,
    };
    builder.enable_http1().build()
}

/// Whoever listens there. For probes of this machine's own listener, as the kubelet does it: its certificate is for the
/// name that clients use, not for the address that a probe asks.
pub(super) fn anyone() -> Connector {
    let verifier = Arc::new(Anyone(aws_lc_rs::default_provider()));
    let config = trust::builder().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    connector(config, None)
}

/// Whom the authorities in this PEM file vouch for.
///
/// # Errors
/// If there is none in it.
pub(super) fn of_file(path: &Path) -> Result<ClientConfig, Fault> {
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
    Ok(trust::builder().with_root_certificates(roots).with_no_client_auth())
}

/// Believes every certificate; that its holder has the key is verified all the same.
#[derive(Debug)]
struct Anyone(CryptoProvider);

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
