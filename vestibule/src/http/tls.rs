//! What a TLS handshake needs, made of the credentials of one generation.

use crate::{
    config,
    credentials::{all_secrets::AllSecrets, client_ca::ClientCa, tls_identity::TlsIdentity},
    secrets::credential::Credential,
};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{NoServerSessionStorage, danger::ClientCertVerifier},
    sign::SingleCertAndKey,
};
use std::sync::Arc;

/// The configurations of both listeners. `None`: no TLS.
#[derive(Default)]
pub(crate) struct Tls {
    pub(crate) public: Option<Arc<ServerConfig>>,
    pub(crate) admin: Option<Arc<ServerConfig>>,
    made_of: Option<MadeOf>,
}

/// What it is the same for. Sessions are resumed within one [`ServerConfig`] and not beyond.
struct MadeOf {
    identity: Arc<TlsIdentity>,
    clients: Option<Arc<ClientCa>>,
    listeners: (bool, bool),
}

impl MadeOf {
    fn same_as(&self, other: &Self) -> bool {
        let clients = match (&self.clients, &other.clients) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        clients && Arc::ptr_eq(&self.identity, &other.identity) && self.listeners == other.listeners
    }
}

impl Tls {
    /// The configurations of `before`, where nothing that they are made of has changed.
    pub(crate) fn build<S>(
        secrets: &AllSecrets<S>,
        server: &config::ServerConfig,
        admin: &config::AdminConfig,
        before: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        let Some(credential) = &secrets.server_tls else { return Arc::default() };
        let made_of = MadeOf {
            identity: credential.shared(),
            clients: secrets.client_ca.as_ref().map(Credential::shared),
            listeners: (server.tls, admin.tls),
        };
        let same = |before: &&Arc<Self>| before.made_of.as_ref().is_some_and(|before| before.same_as(&made_of));
        if let Some(before) = before.filter(same) {
            return before.clone();
        }
        let clients = made_of.clients.as_ref().map(|clients| clients.verifier());
        Arc::new(Self {
            public: server.tls.then(|| config(&made_of.identity, clients)),
            admin: admin.tls.then(|| config(&made_of.identity, None)),
            made_of: Some(made_of),
        })
    }
}

fn config(identity: &TlsIdentity, clients: Option<Arc<dyn ClientCertVerifier>>) -> Arc<ServerConfig> {
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&versions)
        .expect("the provider has cipher suites for both versions");
    let verifies = clients.is_some();
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(clients),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.key())));
    if verifies {
        // Nobody looks at the certificate of a session that is resumed, and it may have ended.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}
