//! Processes and ports of other programs.

use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use devstack::Polling;

const END: Polling = Polling { interval: Duration::from_millis(50), limit: Duration::from_secs(15) };

pub(crate) fn alive(pid: u32) -> bool {
    let status = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output();
    let status = status.expect("every system has ps").stdout;
    // In a container without an init process, dead orphans stay as zombies.
    !status.is_empty() && !status.starts_with(b"Z")
}

pub(crate) fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

pub(crate) fn kill(pid: u32) {
    let killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(killed.is_ok_and(|status| status.success()));
}

/// Waits until no process runs and no port listens. Returns false if that does not happen within 15 s.
pub(crate) fn gone(pids: &[u32], ports: &[u16]) -> bool {
    let gone = END.until_blocking(|| {
        let left = pids.iter().any(|pid| alive(*pid)) || ports.iter().any(|port| listens(*port));
        if left { None } else { Some(()) }
    });
    gone.is_some()
}
