//! The certificates of admin listeners that the commands trust.

use crate::{
    credentials::certificate::Certificate,
    exit::{Exit, Fault},
    trust,
};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use std::{fs, path::Path, sync::Arc};

/// A connector to admin listeners, over HTTP or HTTPS.
pub(super) type Connector = HttpsConnector<HttpConnector>;

/// Returns a connector that uses `config` for HTTPS. Certificates must be for `name`, or for the host of the URL if
/// there is none.
pub(super) fn connector(config: ClientConfig, name: Option<ServerName<'static>>) -> Connector {
    let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http();
    let builder = match name {
        Some(name) => builder.with_server_name_resolver(FixedServerNameResolver::new(name)),
        None => builder,
    };
    builder.enable_http1().build()
}

/// Returns a connector that accepts any certificate: it verifies nothing.
///
/// It is only for probes of this machine's own listener. Its certificate is for the name that clients use, not for the
/// address that a probe asks. The kubelet does the same.
pub(super) fn accept_any_certificate() -> Connector {
    let verifier = Arc::new(AcceptAnyCertificate(aws_lc_rs::default_provider()));
    let config = trust::builder().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    connector(config, None)
}

/// Returns a configuration that trusts the authorities in this PEM file.
///
/// # Errors
/// If the file cannot be read, or is not made of certificates alone.
pub(super) fn of_file(path: &Path) -> Result<ClientConfig, Fault> {
    let fault = |problem: String| {
        let remedy = "give a PEM file with the certificates of authorities, and nothing else";
        Fault::new(Exit::Usage, format!("--ca {}", path.display()), problem, remedy)
    };
    let pem = fs::read_to_string(path).map_err(|error| fault(format!("it cannot be read: {error}")))?;
    let authorities = Certificate::parse_all(&pem, "certificates in PEM").map_err(|error| fault(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.der).map_err(|_| fault("one of its certificates cannot be an authority".into()))?;
    }
    Ok(trust::builder().with_root_certificates(roots).with_no_client_auth())
}

/// A verifier that accepts any certificate. It only verifies that the other side has the certificate's private key.
#[derive(Debug)]
struct AcceptAnyCertificate(CryptoProvider);

impl ServerCertVerifier for AcceptAnyCertificate {
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
