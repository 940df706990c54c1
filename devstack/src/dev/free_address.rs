//! Addresses that must be free before anything starts.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};

use crate::dev::error::DevError;

/// The state of a socket that listens, in `/proc/net/tcp`.
const LISTENS: &str = "0A";

/// Checks that nobody listens at an address. An error names the process that does. `what` is what needs the address, and
/// `remedy` says how to give it another one.
pub(crate) fn check_free(address: &str, what: &str, remedy: &str) -> Result<(), DevError> {
    let Err(error) = TcpListener::bind(address) else { return Ok(()) };
    if error.kind() != ErrorKind::AddrInUse {
        // The program itself says what else is wrong with its address.
        return Ok(());
    }
    let holder = listening_process(address).unwrap_or_else(|| {
        let port = address.rsplit(':').next().unwrap_or_default();
        format!("another process (`lsof -nP -iTCP:{port} -sTCP:LISTEN` may name it)")
    });
    Err(DevError::new(format!("{what} needs {address}, but {holder} listens there: stop it, or {remedy}")))
}

/// Describes the process that listens at an address. Only Linux says which one it is, and only of the user's own processes.
fn listening_process(address: &str) -> Option<String> {
    let addresses: Vec<_> = address.to_socket_addrs().ok()?.collect();
    let socket = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| listening_socket(table, &addresses))?;
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let path = process.path();
        let mut files = fs::read_dir(path.join("fd")).into_iter().flatten().flatten();
        if files.any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == &*socket)) {
            let pid = process.file_name().display().to_string();
            let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
            let folder = fs::read_link(path.join("cwd")).unwrap_or_default();
            return Some(format!("process {pid} ({} in {})", name.trim(), folder.display()));
        }
    }
    None
}

/// Returns the socket that listens at one of these addresses, as the files of its process name it.
fn listening_socket(table: &str, addresses: &[SocketAddr]) -> Option<String> {
    let table = fs::read_to_string(table).ok()?;
    for line in table.lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        if let [_, local, _, LISTENS, _, _, _, _, _, inode, ..] = fields[..]
            && addresses.iter().any(|address| is_in_the_way(local, *address))
        {
            return Some(format!("socket:[{inode}]"));
        }
    }
    None
}

/// Returns `true` if a socket that listens at `local`, as the table writes it, lets nobody else listen at `wanted`.
fn is_in_the_way(local: &str, wanted: SocketAddr) -> bool {
    let Some((ip, port)) = local.split_once(':') else { return false };
    if port != format!("{:04X}", wanted.port()) {
        return false;
    }
    let is_every_address = ip.bytes().all(|digit| digit == b'0');
    is_every_address || wanted.ip().is_unspecified() || ip == as_in_table(wanted.ip())
}

/// Returns an address as the table writes it: words of 32 bits, in the byte order of this machine.
fn as_in_table(ip: IpAddr) -> String {
    let octets = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = octets.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    words.map(|word| format!("{word:08X}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn a_socket_at_another_address_of_the_port_is_not_in_the_way() {
        let in_the_way = |local: &str, wanted: &str| is_in_the_way(local, wanted.parse().expect("an address"));
        let (one, every) = ("0100007F:1F90", "00000000:1F90");
        assert!(in_the_way(one, "127.0.0.1:8080") && !in_the_way(one, "127.0.0.2:8080"));
        assert!(!in_the_way(one, "127.0.0.1:8081"));
        assert!(in_the_way(every, "127.0.0.2:8080") && in_the_way(one, "0.0.0.0:8080"));
        assert!(in_the_way("00000000000000000000000001000000:1F90", "[::1]:8080"));
    }
}
