//! A lock between processes.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use crate::stack::error::Error;
use crate::stack::polling::Polling;

/// The wait for the lock. It has no limit: the owner may compile or download for minutes, and the lock is free again when
/// the owner ends.
const WAIT: Polling = Polling { interval: Duration::from_millis(50), limit: Duration::MAX };

/// Waits for the lock on the file at `path`. Calls `waiting` once if another process holds it. The lock is free again
/// when the returned file is dropped.
pub(crate) async fn lock_file(path: &Path, waiting: impl FnOnce()) -> Result<File, Error> {
    let doing = format!("lock {}", path.display());
    let file = File::options().create(true).append(true).open(path).map_err(Error::io(&doing))?;
    let mut waiting = Some(waiting);
    let locked = WAIT.until(|| match file.try_lock() {
        Ok(()) => Some(Ok(())),
        Err(TryLockError::Error(error)) => Some(Err(error)),
        Err(TryLockError::WouldBlock) => {
            if let Some(tell) = waiting.take() {
                tell();
            }
            None
        }
    });
    match locked.await {
        Some(Err(error)) => Err(Error::io(doing)(error)),
        Some(Ok(())) | None => Ok(file),
    }
}
