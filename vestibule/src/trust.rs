//! The certificate authorities that our TLS clients trust: the platform's, or those in the file that `SSL_CERT_FILE`
//! names.

use crate::exit::{Exit, Fault};
use hyper_rustls::ConfigBuilderExt;
use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

/// The file with the authorities in Debian, Alpine, and images made from them.
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

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

/// Checks that the platform trusts an authority at least. Reads no more than one, if that is in the usual place: all of them
/// cost a start 5 ms.
///
/// # Errors
/// As [`platform_authorities`].
pub(crate) fn check_platform_authorities() -> Result<(), Fault> {
    #[expect(clippy::disallowed_methods, reason = "the variables are OpenSSL's, and no settings of ours")]
    let is_elsewhere = ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().any(|name| std::env::var_os(name).is_some());
    let has_one = || CertificateDer::pem_file_iter(BUNDLE).is_ok_and(|mut all| matches!(all.next(), Some(Ok(_))));
    if !is_elsewhere && has_one() {
        return Ok(());
    }
    platform_authorities().map(drop)
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
