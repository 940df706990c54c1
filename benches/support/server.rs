//! A server in a process of its own, and its CPU time.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The longest time of a start. Under valgrind it takes many seconds.
const START: Duration = Duration::from_secs(120);

/// The interval at which a client tries to connect to a server that starts.
const POLL: Duration = Duration::from_micros(200);

/// A server in a process of its own. It ends when this is dropped.
pub(crate) struct Server {
    /// The process.
    pub(crate) child: Child,
    /// The address that it serves.
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts a server, and waits until it accepts connections at this address. Returns the time that this took, too.
    ///
    /// # Panics
    /// If it ends before that.
    pub(crate) async fn start(mut command: Command, address: SocketAddr) -> (Self, Duration) {
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let start = Instant::now();
        let child = command.spawn().expect("the program is there");
        let mut server = Self { child, address };
        while TcpStream::connect(address).is_err() {
            let exited = server.child.try_wait().expect("it is our child");
            assert!(exited.is_none(), "the server ended before it listened: {exited:?}");
            assert!(start.elapsed() < START, "the server does not listen");
            tokio::time::sleep(POLL).await;
        }
        (server, start.elapsed())
    }

    /// Returns the CPU time of all threads of the process.
    pub(crate) fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        let mut nanoseconds = 0;
        for task in tasks.flatten() {
            // The first number is the time on a CPU. A thread can end before it is read.
            let Ok(statistics) = fs::read_to_string(task.path().join("schedstat")) else { continue };
            nanoseconds += statistics.split(' ').next().and_then(|time| time.parse().ok()).unwrap_or(0);
        }
        Duration::from_nanos(nanoseconds)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
