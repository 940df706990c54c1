//! The TLS configuration of the listeners, made of the credentials of one generation.

use super::connection::ClientAuthority;
use crate::{
    config::settings,
    credentials::{all_secrets::AllSecrets, client_ca::ClientCa, tls_identity::TlsIdentity},
    secrets::credential::Credential,
};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{NoServerSessionStorage, danger::ClientCertVerifier},
    sign::SingleCertAndKey,
};
use std::{any::Any, sync::Arc};

/// The TLS configurations of both listeners. `None` if a listener does not use TLS.
#[derive(Default)]
pub(crate) struct Tls {
    pub(crate) public: Option<Arc<ServerConfig>>,
    pub(crate) admin: Option<Arc<ServerConfig>>,
    inputs: Option<TlsInputs>,
}

/// The inputs of [`Tls`]. While they stay the same, so does the [`ServerConfig`]: sessions are resumed only within one.
struct TlsInputs {
    identity: Arc<TlsIdentity>,
    clients: Option<Arc<ClientCa>>,
    public: bool,
    admin: bool,
}

impl TlsInputs {
    fn same_as(&self, other: &Self) -> bool {
        let same_clients = match (&self.clients, &other.clients) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        let same_listeners = self.public == other.public && self.admin == other.admin;
        same_clients && same_listeners && Arc::ptr_eq(&self.identity, &other.identity)
    }
}

impl Tls {
    /// Returns the authorities with which the public listener verifies clients.
    pub(super) fn client_authority(&self) -> Option<ClientAuthority> {
        let authority: Arc<dyn Any + Send + Sync> = self.inputs.as_ref()?.clients.clone()?;
        Some(Arc::downgrade(&authority))
    }

    /// Returns the configurations of `before` if their inputs are the same, and new ones otherwise.
    pub(crate) fn build<S>(
        secrets: &AllSecrets<S>,
        server: &settings::ServerConfig,
        admin: &settings::AdminConfig,
        before: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        let Some(credential) = &secrets.server_tls else { return Arc::default() };
        let inputs = TlsInputs {
            identity: credential.shared(),
            clients: secrets.client_ca.as_ref().map(Credential::shared),
            public: server.tls,
            admin: admin.tls,
        };
        if let Some(before) = before
            && let Some(inputs_before) = &before.inputs
            && inputs_before.same_as(&inputs)
        {
            return before.clone();
        }
        let verifier = inputs.clients.as_ref().map(|clients| clients.verifier());
        let public = if server.tls { Some(config(&inputs.identity, verifier)) } else { None };
        let admin = if admin.tls { Some(config(&inputs.identity, None)) } else { None };
        Arc::new(Self { public, admin, inputs: Some(inputs) })
    }
}

/// Returns the configuration of a listener that shows `identity`. If there is a verifier, clients must show a
/// certificate.
fn config(identity: &TlsIdentity, verifier: Option<Arc<dyn ClientCertVerifier>>) -> Arc<ServerConfig> {
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&versions)
        .expect("the provider has cipher suites for both versions");
    let verifies_clients = verifier.is_some();
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.key())));
    if verifies_clients {
        // Nobody verifies the certificate of a resumed session again, and it may have expired since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}
