//! The rules of a listener. They follow the generation in service.

use super::connection::ClientAuthority;
use crate::{
    application::{Application, Live},
    config::settings::connections::ConnectionsConfig,
};
use rustix::process::{Resource, getrlimit};
use rustls::ServerConfig;
use std::{sync::Arc, time::Duration};

/// The largest number of connections of the admin listener, and of the command socket. These places are kept back from
/// the public listener.
const MAX_ADMIN: usize = 64;
const MAX_COMMANDS: usize = 16;

/// The age at which a connection of a command is asked to end. A command has one, for as long as it waits for a reload and compares
/// the generations.
const MAX_AGE_OF_COMMANDS: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The files that the process may need to open besides the connections of clients: those of admin listeners, calls to the
/// secrets manager and to other services, files of the configuration.
const OTHER_FILES: u64 = 128;

/// The rules of one listener at this moment.
pub(crate) trait ListenerPolicy: Send + Sync + 'static {
    /// Returns the limits for connections.
    fn limits(&self) -> ListenerLimits;

    /// Returns the configuration of TLS. `None` if the listener does not use it.
    fn tls(&self) -> Option<ListenerTls>;

    /// Returns the authorities of clients. `None` if clients need no certificate.
    fn client_authority(&self) -> Option<ClientAuthority>;

    /// Returns `true` while most places for requests are taken.
    fn is_short_of_places(&self) -> bool;
}

/// The limits of a listener.
pub(crate) struct ListenerLimits {
    /// The largest number of open connections.
    pub(super) max_open: usize,
    pub(super) connections: ConnectionsConfig,
    pub(super) response_timeout: Duration,
}

/// The TLS of a listener.
pub(crate) struct ListenerTls {
    pub(super) config: Arc<ServerConfig>,
    /// The authorities that it verifies clients with.
    pub(super) authority: Option<ClientAuthority>,
}

/// The rules of the public listener.
pub(crate) struct PublicPolicy<A: Application>(pub(crate) Live<A>);

/// The rules of the admin listener.
pub(crate) struct AdminPolicy<A: Application>(pub(crate) Live<A>);

/// The rules of the command socket.
pub(crate) struct CommandPolicy<A: Application>(pub(crate) Live<A>);

impl<A: Application> ListenerPolicy for PublicPolicy<A> {
    fn limits(&self) -> ListenerLimits {
        let config = self.0.generation().config.clone();
        let databases = config.databases.values().chain([&config.database]);
        let pools: u64 = databases.map(|database| u64::from(database.max_connections.get())).sum();
        let configured = config.connections.max_open.get() as usize;
        limits_of(&self.0, configured.min(max_files_of_clients(getrlimit(Resource::Nofile).current, pools)))
    }

    fn tls(&self) -> Option<ListenerTls> {
        let tls = self.0.generation().tls.clone();
        Some(ListenerTls { config: tls.public.clone()?, authority: tls.client_authority() })
    }

    fn client_authority(&self) -> Option<ClientAuthority> {
        self.0.generation().tls.client_authority()
    }

    fn is_short_of_places(&self) -> bool {
        let generation = self.0.generation();
        let max = generation.config.server.max_in_flight.get() as usize;
        // The last sixteenth.
        generation.in_flight.available_permits() <= max / 16
    }
}

impl<A: Application> ListenerPolicy for AdminPolicy<A> {
    fn limits(&self) -> ListenerLimits {
        limits_of(&self.0, MAX_ADMIN)
    }

    fn tls(&self) -> Option<ListenerTls> {
        let tls = self.0.generation().tls.clone();
        Some(ListenerTls { config: tls.admin.clone()?, authority: None })
    }

    fn client_authority(&self) -> Option<ClientAuthority> {
        None
    }

    fn is_short_of_places(&self) -> bool {
        false
    }
}

impl<A: Application> ListenerPolicy for CommandPolicy<A> {
    fn limits(&self) -> ListenerLimits {
        let mut limits = limits_of(&self.0, MAX_COMMANDS);
        limits.connections.max_age = MAX_AGE_OF_COMMANDS;
        limits
    }

    fn tls(&self) -> Option<ListenerTls> {
        None
    }

    fn client_authority(&self) -> Option<ClientAuthority> {
        None
    }

    fn is_short_of_places(&self) -> bool {
        false
    }
}

fn limits_of<A: Application>(live: &Live<A>, max_open: usize) -> ListenerLimits {
    let config = live.generation().config.clone();
    ListenerLimits { max_open, connections: config.connections, response_timeout: config.server.response_timeout }
}

/// Returns the number of files that may be connections of clients. The others are for everything else; if the process may
/// open few, that is half of them.
fn max_files_of_clients(max_files: Option<u64>, pools: u64) -> usize {
    let Some(max_files) = max_files else { return usize::MAX };
    let kept_back = (OTHER_FILES + pools).min(max_files / 2);
    usize::try_from(max_files - kept_back).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_kept_back_for_everything_but_clients() {
        assert_eq!(max_files_of_clients(None, 10), usize::MAX);
        assert_eq!(max_files_of_clients(Some(1024), 10), 1024 - 138);
        assert_eq!(max_files_of_clients(Some(256), 10), 128);
        assert_eq!(max_files_of_clients(Some(1), 10), 1);
    }
}
