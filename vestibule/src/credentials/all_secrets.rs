//! All credentials of a process: those of the service, those of the listeners, and the key of the collector of traces.

use super::{api_key::ApiKey, client_ca::ClientCa, tls_identity::TlsIdentity};
use crate::{
    config::{Config, ServiceSettings},
    secrets::{
        credential::{CLIENT_CA, Credential, OTLP, SERVER_TLS},
        id::SecretId,
        resolver::Resolver,
        set::{CredentialField, SecretSet},
        spec::CredentialSpec,
    },
};

/// All credentials of a process: a set like that of the service, with those of the framework added.
pub(crate) struct AllSecrets<S> {
    pub(crate) service: S,
    pub(crate) server_tls: Option<Credential<TlsIdentity>>,
    pub(crate) client_ca: Option<Credential<ClientCa>>,
    pub(crate) otlp: Option<Credential<ApiKey>>,
}

impl<S: SecretSet> AllSecrets<S> {
    /// Returns the credentials that a load fetches with this configuration, and their ids.
    pub(crate) fn to_fetch<T: ServiceSettings>(config: &Config<T>) -> impl Iterator<Item = (CredentialSpec, SecretId)> {
        Self::specs().into_iter().filter_map(|spec| Some((spec, config.id(&spec)?)))
    }
}

impl<S: SecretSet> SecretSet for AllSecrets<S> {
    fn specs() -> Vec<CredentialSpec> {
        let mut specs = S::specs();
        specs.push(<Option<Credential<TlsIdentity>>>::spec(SERVER_TLS));
        specs.push(<Option<Credential<ClientCa>>>::spec(CLIENT_CA));
        specs.push(<Option<Credential<ApiKey>>>::spec(OTLP));
        specs
    }

    fn resolve(resolver: &mut Resolver<'_>) -> Option<Self> {
        // Resolves all before it returns, so that the resolver has every fault.
        let service = S::resolve(resolver);
        let client_ca = CredentialField::resolve(CLIENT_CA, resolver);
        let otlp = CredentialField::resolve(OTLP, resolver);
        let tls_is_on = resolver.was_fetched(SERVER_TLS);
        let server_tls = if tls_is_on { server_tls(resolver) } else { None };
        if tls_is_on && server_tls.is_none() {
            return None;
        }
        Some(Self { service: service?, server_tls, client_ca: client_ca?, otlp: otlp? })
    }
}

/// Resolves the certificate of the listeners. It must be valid for `server.tls_names`.
fn server_tls(resolver: &mut Resolver<'_>) -> Option<Credential<TlsIdentity>> {
    let hosts = resolver.hosts();
    resolver.resolve_if(SERVER_TLS, |identity: &TlsIdentity| identity.check_hosts(hosts))
}
