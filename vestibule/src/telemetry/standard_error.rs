//! Standard error, for reports. Nobody may be reading it, and no process may wait for that.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use std::{
    io,
    time::{Duration, Instant},
};

/// The longest time for one text.
const LIMIT: Duration = Duration::from_secs(1);

/// Writes a text and a newline on standard error, for a second at most. Ignores errors: the exit code and the log say the
/// same.
pub(crate) fn write_line(text: &str) {
    let stderr = io::stderr();
    let deadline = Instant::now() + LIMIT;
    // A pipe that is ready takes this many bytes at once, and a longer text may block (PIPE_BUF in pipe(7)).
    for part in format!("{text}\n").as_bytes().chunks(libc::PIPE_BUF) {
        let mut rest = part;
        while !rest.is_empty() {
            let time_left = deadline.saturating_duration_since(Instant::now());
            let Ok(timeout) = Timespec::try_from(time_left) else { return };
            let is_ready = poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], Some(&timeout));
            let written = match is_ready {
                Ok(0) => return,
                Ok(_) => rustix::io::write(&stderr, rest),
                Err(error) => Err(error),
            };
            match written {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => (),
                Err(_) => return,
            }
        }
    }
}
