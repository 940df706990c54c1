//! Addresses that must be free before anything starts.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;

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
    let port = address.rsplit(':').next().unwrap_or_default();
    let holder = match port.parse().ok().and_then(listening_process) {
        Some(process) => process,
        None => format!("another process (`lsof -nP -iTCP:{port} -sTCP:LISTEN` may name it)"),
    };
    Err(DevError::new(format!("{what} needs {address}, but {holder} listens there: stop it, or {remedy}")))
}

/// Describes the process that listens on a port. Only Linux says which one it is, and only of the user's own processes.
fn listening_process(port: u16) -> Option<String> {
    let socket = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| listening_socket(table, port))?;
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

/// Returns the socket that listens on a port, as the files of its process name it.
fn listening_socket(table: &str, port: u16) -> Option<String> {
    let table = fs::read_to_string(table).ok()?;
    for line in table.lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        if let [_, local, _, LISTENS, _, _, _, _, _, inode, ..] = fields[..]
            && local.ends_with(&format!(":{port:04X}"))
        {
            return Some(format!("socket:[{inode}]"));
        }
    }
    None
}
