//! The certificates of admin listeners that `audit` trusts.

use crate::{
    credentials::certificate::Certificate,
    exit::{Exit, Fault},
    regular_file, trust,
};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use std::path::Path;

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

/// Returns a configuration that trusts the authorities in this PEM file.
///
/// # Errors
/// If the file cannot be read, or is not made of certificates alone.
pub(super) fn of_file(path: &Path) -> Result<ClientConfig, Fault> {
    let fault = |problem: String| {
        let remedy = "give a PEM file with the certificates of authorities, and nothing else";
        Fault::new(Exit::Usage, format!("--ca {}", path.display()), problem, remedy)
    };
    let pem = regular_file::read(path).map_err(|error| fault(format!("it cannot be read: {error}")))?;
    let authorities = Certificate::parse_all(&pem, "certificates in PEM").map_err(|error| fault(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.der).map_err(|_| fault("one of its certificates cannot be an authority".into()))?;
    }
    Ok(trust::builder().with_root_certificates(roots).with_no_client_auth())
}
