//! The command socket: a Unix socket beside the admin listener, with the same routes. The commands `health` and `reload`
//! use it, because the kernel tells both sides which process is at the other end.

use rustix::process::geteuid;
use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};
use tokio::net::{UnixSocket, UnixStream};

/// The largest number of characters of the service's name that are in the socket's. An address of a Unix socket has 107
/// at most.
const LONGEST_SERVICE: usize = 36;

/// The name of a command socket. It follows from the service's name and the address of its admin listener, so two
/// services have the same name only if they cannot both listen.
pub(crate) struct CommandSocket(String);

/// The user of a command, by its number. The kernel says it.
#[derive(Clone, Copy)]
pub(crate) struct CommandUser(pub(crate) u32);

impl CommandUser {
    /// Returns `true` for the user of this process, and for root.
    pub(crate) fn may_command(self) -> bool {
        self.0 == geteuid().as_raw() || self.0 == 0
    }
}

impl CommandSocket {
    /// Returns the socket of the service whose admin listener has this address.
    pub(crate) fn of(service: &str, admin: SocketAddr) -> Self {
        let service: String = service.chars().take(LONGEST_SERVICE).collect();
        Self(format!("vestibule-{service}@{}", reachable(admin)))
    }

    /// Binds the socket. Nobody can connect yet.
    ///
    /// # Errors
    /// If another process has it, or the operating system refuses it.
    pub(super) fn bind(&self) -> io::Result<UnixSocket> {
        #[cfg(not(target_os = "linux"))]
        self.remove_if_stale();
        let socket = UnixSocket::new_stream()?;
        socket.bind(self.path())?;
        Ok(socket)
    }

    /// Connects to the socket.
    ///
    /// # Errors
    /// If nobody listens there.
    pub(crate) async fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(self.path()).await
    }

    /// Returns the path. On Linux it is an abstract name: it is no file, belongs to the network namespace as the admin
    /// listener does, and is free as soon as the process ends (unix(7)).
    fn path(&self) -> PathBuf {
        if cfg!(target_os = "linux") { format!("\0{self}").into() } else { std::env::temp_dir().join(&self.0) }
    }

    /// Removes the file that a killed process left.
    #[cfg(not(target_os = "linux"))]
    fn remove_if_stale(&self) {
        let connected = std::os::unix::net::UnixStream::connect(self.path());
        if connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            let _ = std::fs::remove_file(self.path());
        }
    }
}

impl fmt::Display for CommandSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns the address at which this machine reaches a listener. One on all addresses is reachable at the loopback's.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(service: &str, admin: &str) -> String {
        CommandSocket::of(service, admin.parse().expect("an address")).to_string()
    }

    #[test]
    fn the_name_is_that_of_the_service_and_its_reachable_admin_address() {
        assert_eq!(name("svc", "10.0.0.7:9090"), "vestibule-svc@10.0.0.7:9090");
        assert_eq!(name("svc", "0.0.0.0:9090"), name("svc", "127.0.0.1:9090"));
        assert_eq!(name("svc", "[::]:9090"), name("svc", "[::1]:9090"));
    }

    #[tokio::test]
    async fn a_socket_of_the_longest_name_can_be_bound_once() {
        let admin = "[1111:2222:3333:4444:5555:6666:7777:8888%4294967295]:65535".parse().expect("an address");
        let socket = CommandSocket::of(&"n".repeat(200), admin);
        socket.connect().await.expect_err("nobody listens");
        let bound = socket.bind().expect("a socket");
        assert_eq!(socket.bind().expect_err("it is taken").kind(), io::ErrorKind::AddrInUse);
        let _listener = bound.listen(1).expect("a listener");
        socket.connect().await.expect("it listens");
    }
}
