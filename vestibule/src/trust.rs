//! The certificate authorities that our TLS clients trust: the platform's, or those in the file that `SSL_CERT_FILE`
//! names. For calls to AWS, those in the file that `AWS_CA_BUNDLE` names come first.

use crate::{
    blocking_reads::{FileReads, READ},
    cause::RootCause,
    credentials::pem::{self, PemError, PemLabel},
    exit::{Exit, Fault},
};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, pki_types::CertificateDer};
use rustls_native_certs::CertificateResult;
use std::{ffi::OsString, io, path::Path};

/// The variable of AWS's other SDKs for a file of authorities. The one for Rust does not read it.
const AWS_CA_BUNDLE: &str = "AWS_CA_BUNDLE";

/// The variable that the platform's library reads.
const SSL_CERT_FILE: &str = "SSL_CERT_FILE";

/// Returns a configuration that trusts the platform's authorities. They are read once, now.
///
/// # Errors
/// A fault with exit code 69 if they cannot be read now, and with 78 if there are none.
pub(crate) async fn platform_authorities(files: &FileReads) -> Result<ClientConfig, Fault> {
    Ok(builder().with_root_certificates(platform_roots(files).await?).with_no_client_auth())
}

/// Returns the platform's authorities, one at least. They are read now.
///
/// # Errors
/// As [`platform_authorities`].
pub(crate) async fn platform_roots(files: &FileReads) -> Result<RootCertStore, Fault> {
    let mut roots = RootCertStore::empty();
    let (valid, _) = roots.add_parsable_certificates(platform_certificates(files).await?);
    if valid == 0 {
        return Err(no_certificates("none of them can be used"));
    }
    Ok(roots)
}

/// Returns the certificates of the authorities for calls to AWS.
///
/// # Errors
/// As [`platform_authorities`], and with exit code 78 if the file of `AWS_CA_BUNDLE` is not one of certificates.
pub(crate) async fn aws_certificates(files: &FileReads) -> Result<Vec<CertificateDer<'static>>, Fault> {
    #[expect(clippy::disallowed_methods, reason = "the variable is AWS's, and no setting of ours")]
    let Some(path) = std::env::var_os(AWS_CA_BUNDLE).filter(|path| !path.is_empty()) else {
        return platform_certificates(files).await;
    };
    let subject = format!("variable {AWS_CA_BUNDLE}");
    let remedy = "name a PEM file with the certificates of authorities, and nothing else";
    let text = files.read_pem(Path::new(&path)).await.map_err(|error| {
        let problem = format!("{} cannot be read: {}", path.display(), RootCause::of(&error));
        Fault::new(exit_of(&error), subject.clone(), problem, remedy)
    })?;
    authorities_in(&text).map_err(|problem| Fault::new(Exit::Config, subject, problem, remedy))
}

/// Returns the exit code for a file that cannot be read. One that is not there may come; one of a wrong kind stays wrong.
fn exit_of(error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::FileTooLarge => Exit::Config,
        _ => Exit::Unavailable,
    }
}

/// Returns the certificates of authorities in a PEM text that has nothing else, one at least. TLS can use each of them.
///
/// # Errors
/// The problem of the first block that is no such certificate. It says its number, and nothing that stands in it.
pub(crate) fn authorities_in(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let (mut roots, mut certificates) = (RootCertStore::empty(), Vec::new());
    for (block, number) in pem::blocks(text).map_err(|error| problem_of(&error))?.iter().zip(1..) {
        if block.label != PemLabel::Certificate {
            return Err(format!("block {number} is a part of a private key, and only `CERTIFICATE` is expected here"));
        }
        let certificate = CertificateDer::from(block.der.to_vec());
        if roots.add(certificate.clone()).is_err() {
            return Err(format!("the content of block {number} is no certificate: it was cut or mistyped"));
        }
        certificates.push(certificate);
    }
    Ok(certificates)
}

fn problem_of(error: &PemError) -> String {
    match error {
        PemError::NotWhole => "expected certificates in PEM and nothing else, each block whole".into(),
        PemError::OtherLabel { number, label } => {
            format!("block {number} is a `{label}`, and only `CERTIFICATE` is expected here")
        }
    }
}

/// Returns the certificates of the platform's authorities.
async fn platform_certificates(files: &FileReads) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let of_file = match &ssl_cert_file() {
        Some(path) => certificates_of(Path::new(path), files).await?,
        None => Vec::new(),
    };
    let Some(found) = files.authorities.run(rustls_native_certs::load_native_certs).await else {
        let problem = format!("their files did not answer within {} s", READ.as_secs());
        return Err(none(Exit::Unavailable, &problem));
    };
    let CertificateResult { mut certs, errors, .. } = found;
    certs.retain(|certificate| !of_file.contains(certificate));
    certs.extend(of_file);
    if !certs.is_empty() {
        return Ok(certs);
    }
    let mut unreadable = errors.iter().filter_map(|error| match &error.kind {
        rustls_native_certs::ErrorKind::Io { inner, path } => Some((inner, path)),
        _ => None,
    });
    Err(match unreadable.next() {
        Some((error, path)) => {
            none(Exit::Unavailable, &format!("{} cannot be read: {}", path.display(), RootCause::of(error)))
        }
        None => no_certificates("none can be read, so no certificate can be verified"),
    })
}

/// Returns the certificates in the file of `SSL_CERT_FILE`. The platform's library leaves out what it cannot read, such
/// as a block that follows another one without a newline. It reports a file that is not there.
///
/// # Errors
/// A fault with exit code 78 if a block cannot be read, or if this is no regular file: the library would wait for
/// somebody who writes to a FIFO. With 69 if the file does not answer.
async fn certificates_of(path: &Path, files: &FileReads) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let text = match files.read_pem(path).await {
        Ok(text) => text,
        Err(error) => {
            let exit = match error.kind() {
                io::ErrorKind::InvalidInput => Exit::Config,
                io::ErrorKind::TimedOut => Exit::Unavailable,
                _ => return Ok(Vec::new()),
            };
            return Err(none(exit, &format!("{} cannot be read: {error}", path.display())));
        }
    };
    let mut blocks =
        pem::blocks(&text).map_err(|error| no_certificates(&format!("{}: {}", path.display(), problem_of(&error))))?;
    blocks.retain(|block| block.label == PemLabel::Certificate);
    Ok(blocks.iter().map(|block| block.der.to_vec().into()).collect())
}

/// Returns the file that the platform's library reads in place of its own, if one is named.
fn ssl_cert_file() -> Option<OsString> {
    #[expect(clippy::disallowed_methods, reason = "the variable is OpenSSL's, and no setting of ours")]
    std::env::var_os(SSL_CERT_FILE).filter(|path| !path.is_empty())
}

/// Returns the fault of a platform whose authorities are not of use.
pub(crate) fn no_certificates(problem: &str) -> Fault {
    none(Exit::Config, problem)
}

fn none(exit: Exit, problem: &str) -> Fault {
    let remedy = match ssl_cert_file() {
        None => "install them (the package ca-certificates), or name a file of them in SSL_CERT_FILE",
        Some(_) => {
            "name another file in SSL_CERT_FILE, a PEM file with the certificates of authorities and nothing else; or leave \
             the variable out, for the authorities of the package ca-certificates"
        }
    };
    Fault::new(exit, "the platform's certificate authorities", problem, remedy)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn every_certificate_in_the_file_of_the_variable_counts() {
        let authority = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap().cert.pem();
        let (one, other) = (authority("one"), authority("other"));
        let path = std::env::temp_dir().join(format!("bundle-{}.pem", uuid::Uuid::new_v4()));
        let files = FileReads::default();
        let in_latin1 = |text: &str| [b"# Autorit\xe9\n", text.as_bytes()].concat();
        for (file, count) in [
            (format!("# the first\n{one}\n{other}").into(), Some(2)),
            (format!("{}{other}", one.trim()).into(), Some(2)),
            (format!("\u{feff}{one}").into(), Some(1)),
            (in_latin1(&format!("{}{other}", one.trim())), Some(2)),
            (format!("{one}{}", other.replacen("-----END", "----END", 1)).into(), None),
            (in_latin1(""), None),
            (Vec::new(), None),
        ] {
            fs::write(&path, &file).unwrap();
            let certificates = certificates_of(&path, &files).await;
            assert_eq!(certificates.as_ref().ok().map(Vec::len), count, "{}", String::from_utf8_lossy(&file));
            assert!(certificates.err().is_none_or(|fault| fault.exit == Exit::Config));
        }
        fs::remove_file(&path).unwrap();
        assert!(certificates_of(&path, &files).await.unwrap().is_empty(), "the library reports it");
    }

    #[tokio::test(start_paused = true)]
    async fn files_that_do_not_answer_are_named_and_hold_up_nobody() {
        let (path, files) = (Path::new("/mnt/authorities.pem"), FileReads::default());
        let _hanging = (files.of(path).hang(), files.authorities.hang());
        for (fault, problem) in [
            (certificates_of(path, &files).await.err(), "/mnt/authorities.pem cannot be read: it did not answer"),
            (platform_roots(&files).await.err(), "their files did not answer within 2 s"),
        ] {
            let fault = fault.expect("a fault");
            assert_eq!(fault.exit, Exit::Unavailable);
            assert!(fault.problem.contains(problem), "{}", fault.problem);
        }
    }

    #[tokio::test]
    async fn a_block_of_a_bundle_that_is_no_certificate_is_named_by_its_number() {
        let one = rcgen::generate_simple_self_signed(["one".to_owned()]).unwrap();
        let (certificate, key) = (one.cert.pem(), one.signing_key.serialize_pem());
        let block = |label: &str| format!("-----BEGIN {label}-----\nAAEC\n-----END {label}-----\n");
        assert_eq!(authorities_in(&format!("{certificate}{certificate}")).unwrap().len(), 2);
        for (other, problem) in [
            (block("X509 CRL"), "block 2 is a `X509 CRL`, and only `CERTIFICATE` is expected here"),
            (
                block("TRUSTED CERTIFICATE"),
                "block 2 is a `TRUSTED CERTIFICATE`, and only `CERTIFICATE` is expected here",
            ),
            (block("CERTIFICATE"), "the content of block 2 is no certificate: it was cut or mistyped"),
            (key, "block 2 is a part of a private key, and only `CERTIFICATE` is expected here"),
            (block("hunter2"), "expected certificates in PEM and nothing else, each block whole"),
        ] {
            assert_eq!(authorities_in(&format!("{certificate}{other}{certificate}")).unwrap_err(), problem);
        }
        let path = std::env::temp_dir().join(format!("bundle-{}.pem", uuid::Uuid::new_v4()));
        fs::write(&path, format!("{certificate}{}", block("X509 CRL"))).unwrap();
        let fault = certificates_of(&path, &FileReads::default()).await.unwrap_err();
        assert!(fault.problem.contains("block 2 is a `X509 CRL`"), "{}", fault.problem);
        fs::remove_file(&path).unwrap();
    }

    /// OpenSSL writes such a root if it is asked to (`-set_serial`), and its clients trust it.
    #[test]
    fn an_authority_with_a_long_serial_number_is_one_in_every_file() {
        let mut params = rcgen::CertificateParams::new(["root".to_owned()]).unwrap();
        params.serial_number = Some(rcgen::SerialNumber::from(vec![1; 30]));
        let root = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        assert!(authorities_in(&root.pem()).is_ok());
    }

    #[tokio::test]
    async fn a_file_whose_kind_is_wrong_is_one_that_nobody_waits_for() {
        let files = FileReads::default();
        let folder = std::env::temp_dir();
        assert_eq!(exit_of(&files.read_pem(&folder).await.unwrap_err()), Exit::Config);
        let path = folder.join(format!("absent-{}.pem", uuid::Uuid::new_v4()));
        assert_eq!(exit_of(&files.read_pem(&path).await.unwrap_err()), Exit::Unavailable);
    }
}
