//! A port for a server that cannot choose one itself.

use std::net::TcpListener;

/// Returns a port of 127.0.0.1 on which nobody listens.
///
/// It is below every system's range for outgoing connections and for port 0, so none of those takes it soon.
pub fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(20_000..30_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
