//! Whom calls to others trust: the certificate authorities of the platform, or those that `SSL_CERT_FILE` names.

use crate::exit::{Exit, Fault};
use hyper_rustls::ConfigBuilderExt;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};

/// The platform's authorities as they are now. They are not read again.
///
/// # Errors
/// A fault with exit code 78 if there are none.
pub(crate) fn of_platform() -> Result<ClientConfig, Fault> {
    let roots = builder().with_native_roots().map_err(|_| {
        Fault::new(
            Exit::Config,
            "the platform's certificate authorities",
            "none can be read, so nobody can be trusted by TLS",
            "install them (the package ca-certificates), or name a file of them in SSL_CERT_FILE",
        )
    });
    Ok(roots?.with_no_client_auth())
}

/// Nobody: for calls that stay on this machine.
pub(crate) fn of_nobody() -> ClientConfig {
    builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth()
}

/// TLS 1.2 and 1.3 on aws-lc-rs; whom to trust is left open.
pub(crate) fn builder() -> ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("aws-lc-rs has TLS 1.2 and 1.3")
}
