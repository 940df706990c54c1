//! The listeners. They are bound only when there is a generation to serve.

use super::{command_socket::CommandSocket, socket::ListenerSocket};
use crate::{
    application::{Application, Generation},
    cause::RootCause,
    exit::{Exit, Fault, Phase, Report},
};
use std::{io, net::SocketAddr, sync::Arc};
use tokio::{
    net::{TcpSocket, UnixSocket},
    sync::watch,
};

/// The largest number of connections that wait to be accepted. The kernel's own limit (`net.core.somaxconn`) applies
/// too.
const BACKLOG: u32 = 1024;

/// The listeners, bound, and the generation that they serve.
pub(crate) struct BoundListeners<A: Application> {
    pub(crate) public: ListenerSocket,
    pub(crate) admin: ListenerSocket,
    /// The listener at the command socket.
    pub(crate) commands: ListenerSocket,
    pub(crate) live: watch::Sender<Arc<Generation<A>>>,
}

/// Binds the listeners. Takes the first generation, because without credentials there is nothing to serve. None listens
/// unless all can.
///
/// # Errors
/// A report of every address that cannot be bound.
pub(crate) fn bind<A: Application>(first: Arc<Generation<A>>) -> Result<BoundListeners<A>, Report> {
    let config = &first.config;
    let public = BoundSocket::bind("server.listen", config.server.listen);
    let admin = BoundSocket::bind("admin.listen", config.admin.listen);
    let (public, admin) = both(public, admin)?;
    let commands = BoundCommandSocket::bind(A::PACKAGE.name, &admin).map_err(report)?;
    let (public, admin) = both(public.listen(), admin.listen())?;
    let commands = commands.listen().map_err(report)?;
    Ok(BoundListeners { public, admin, commands, live: watch::Sender::new(first) })
}

/// Returns both results, or the faults of those that failed.
fn both<T>(public: Result<T, Fault>, admin: Result<T, Fault>) -> Result<(T, T), Report> {
    match (public, admin) {
        (Ok(public), Ok(admin)) => Ok((public, admin)),
        (public, admin) => {
            let faults = [public.err(), admin.err()].into_iter().flatten().collect();
            Err(Report { phase: Phase::Bind, faults })
        }
    }
}

fn report(fault: Fault) -> Report {
    Report::of(Phase::Bind, fault)
}

/// An address that the process has bound, and on which nobody can connect yet.
struct BoundSocket {
    key: &'static str,
    address: SocketAddr,
    socket: TcpSocket,
}

impl BoundSocket {
    fn bind(key: &'static str, address: SocketAddr) -> Result<Self, Fault> {
        match bound_socket(address) {
            Ok(socket) => Ok(Self { key, address, socket }),
            Err(error) => Err(bind_fault(key, address, &error)),
        }
    }

    fn listen(self) -> Result<ListenerSocket, Fault> {
        match self.socket.listen(BACKLOG) {
            Ok(listener) => Ok(ListenerSocket::Tcp(listener)),
            Err(error) => Err(bind_fault(self.key, self.address, &error)),
        }
    }
}

/// The command socket, on which nobody can connect yet.
struct BoundCommandSocket {
    name: CommandSocket,
    socket: UnixSocket,
}

impl BoundCommandSocket {
    /// Binds the command socket that belongs to this admin listener.
    fn bind(service: &str, admin: &BoundSocket) -> Result<Self, Fault> {
        // The configured port may be 0.
        let address = admin.socket.local_addr().map_err(|error| bind_fault(admin.key, admin.address, &error))?;
        let name = CommandSocket::of(service, address);
        match name.bind() {
            Ok(socket) => Ok(Self { name, socket }),
            Err(error) => Err(command_socket_fault(&name, &error)),
        }
    }

    fn listen(self) -> Result<ListenerSocket, Fault> {
        match self.socket.listen(BACKLOG) {
            Ok(listener) => Ok(ListenerSocket::Unix(listener)),
            Err(error) => Err(command_socket_fault(&self.name, &error)),
        }
    }
}

fn command_socket_fault(name: &CommandSocket, error: &io::Error) -> Fault {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "stop the process that has it (`ss -xlp` names it), or configure another admin.listen"
        }
        _ => "allow the service to listen on a Unix socket",
    };
    let subject = format!("the command socket {name}");
    Fault::new(Exit::Bind, subject, format!("cannot be bound: {}", error.kind()), remedy)
}

fn bound_socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn bind_fault(key: &str, address: SocketAddr, error: &io::Error) -> Fault {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "stop the process that listens there, or configure another port",
        io::ErrorKind::PermissionDenied => "configure a port from 1024 on, or grant CAP_NET_BIND_SERVICE",
        _ => "configure an address of this machine",
    };
    Fault::new(Exit::Bind, format!("{key} = {address}"), format!("cannot be bound: {}", RootCause::of(error)), remedy)
}
