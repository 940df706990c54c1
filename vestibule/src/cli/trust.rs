//! The certificates of admin listeners that `audit` and `reload --fleet` trust.

use super::{admin, admin_listeners::address::ReplicaAddress};
use crate::{
    blocking_reads::FileReads,
    exit::{Exit, Fault},
    trust,
};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use std::path::Path;

/// A connector to admin listeners, over HTTP or HTTPS.
pub(super) type Connector = HttpsConnector<HttpConnector>;

/// The TLS of connections to admin listeners.
pub(super) struct AdminTls {
    config: ClientConfig,
    /// The host that each certificate must be for, in place of the replica's own.
    name: Option<ServerName<'static>>,
}

impl AdminTls {
    /// Trusts the authorities in the PEM file `ca`, or those of the platform. No authority is read if no address needs one.
    ///
    /// # Errors
    /// If the authorities cannot be read.
    pub(super) async fn new(
        ca: Option<&Path>,
        name: Option<ServerName<'static>>,
        addresses: &[ReplicaAddress],
    ) -> Result<Self, Fault> {
        let config = match ca {
            Some(file) => of_file(file).await?,
            None if addresses.iter().any(ReplicaAddress::is_https) => {
                trust::platform_authorities(&FileReads::default()).await?
            }
            None => trust::no_authorities(),
        };
        Ok(Self { config, name })
    }

    /// Returns a connector to this address. Its certificate must be for the name of the command line, for that of the
    /// address, or for the host in it.
    pub(super) fn connector(&self, address: &ReplicaAddress) -> Connector {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(admin::TIMEOUT));
        let builder = HttpsConnectorBuilder::new().with_tls_config(self.config.clone()).https_or_http();
        let builder = match self.name.as_ref().or(address.name()) {
            Some(name) => builder.with_server_name_resolver(FixedServerNameResolver::new(name.clone())),
            None => builder,
        };
        builder.enable_http1().wrap_connector(http)
    }
}

/// Returns a configuration that trusts the authorities in this PEM file.
///
/// # Errors
/// If the file cannot be read, or is not made of certificates alone.
async fn of_file(path: &Path) -> Result<ClientConfig, Fault> {
    let fault = |problem: String| {
        let remedy = "give a PEM file with the certificates of authorities, and nothing else";
        Fault::new(Exit::Usage, format!("--ca {}", path.display()), problem, remedy)
    };
    let read = FileReads::default().read_pem(path).await;
    let pem = read.map_err(|error| fault(format!("it cannot be read: {error}")))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(trust::authorities_in(&pem).map_err(fault)?);
    Ok(trust::builder().with_root_certificates(roots).with_no_client_auth())
}
