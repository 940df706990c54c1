//! A port for a server that cannot choose one itself.

use std::fs::{self, File};
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

/// Returns a port of 127.0.0.1 on which nobody listens, and that no other call gets before this process ends.
///
/// It is below every system's range for outgoing connections and for port 0, so none of those takes it soon.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let locks = std::env::temp_dir().join("devstack-ports");
    // Without a lock, for example in a folder of another user, two calls may get one port.
    let _ = fs::create_dir_all(&locks);
    loop {
        let port = fastrand::u16(20_000..30_000);
        let lock = File::options().create(true).append(true).open(locks.join(port.to_string())).ok();
        let is_given = lock.as_ref().is_some_and(|lock| lock.try_lock().is_err());
        if !is_given && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            GIVEN.lock().unwrap_or_else(PoisonError::into_inner).extend(lock);
            return port;
        }
    }
}
