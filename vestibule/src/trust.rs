//! The certificate authorities that our TLS clients trust: the platform's, or those in the file that `SSL_CERT_FILE`
//! names.

use crate::exit::{Exit, Fault};
use hyper_rustls::ConfigBuilderExt;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};

/// Returns a configuration that trusts the platform's authorities. They are read once, now.
///
/// # Errors
/// A fault with exit code 78 if none can be read.
pub(crate) fn platform_authorities() -> Result<ClientConfig, Fault> {
    match builder().with_native_roots() {
        Ok(builder) => Ok(builder.with_no_client_auth()),
        Err(_) => Err(Fault::new(
            Exit::Config,
            "the platform's certificate authorities",
            "none can be read, so no certificate can be verified",
            "install them (the package ca-certificates), or name a file of them in SSL_CERT_FILE",
        )),
    }
}

/// Returns a configuration that trusts no authority, so that every TLS handshake fails: for calls without TLS that stay
/// on this machine.
pub(crate) fn no_authorities() -> ClientConfig {
    builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth()
}

/// Returns a builder for TLS 1.2 and 1.3 on aws-lc-rs. It trusts nobody yet.
pub(crate) fn builder() -> ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("aws-lc-rs has TLS 1.2 and 1.3")
}
