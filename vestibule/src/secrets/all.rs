//! Everything that a process of a service holds: the service's own credentials, and those of the listeners.

use super::{CLIENT_CA, Credential, Ring, SERVER_TLS, SecretSet, Slot, Wanted};
use crate::credentials::{ClientCa, TlsIdentity};

pub(crate) struct All<S> {
    pub(crate) service: S,
    pub(crate) server_tls: Option<Credential<TlsIdentity>>,
    pub(crate) client_ca: Option<Credential<ClientCa>>,
}

impl<S: SecretSet> SecretSet for All<S> {
    fn wanted() -> Vec<Wanted> {
        let own =
            [<Option<Credential<TlsIdentity>>>::wanted(SERVER_TLS), <Option<Credential<ClientCa>>>::wanted(CLIENT_CA)];
        S::wanted().into_iter().chain(own).collect()
    }

    fn take(ring: &mut Ring<'_>) -> Option<Self> {
        // All are taken before any is missed: the ring keeps every fault.
        let (service, client_ca) = (S::take(ring), Slot::take(CLIENT_CA, ring));
        let hosts = ring.hosts();
        let server_tls = match ring.asked_for(SERVER_TLS) {
            true => ring.take_if(SERVER_TLS, |identity: &TlsIdentity| identity.check_hosts(hosts)).map(Some),
            false => Some(None),
        };
        Some(Self { service: service?, server_tls: server_tls?, client_ca: client_ca? })
    }
}
