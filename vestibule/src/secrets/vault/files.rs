//! The files of `[secrets.vault]`. They are read again at each login, because others replace them.

use crate::{cause::RootCause, regular_file, secrets::source::SourceError};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Mutex, task::spawn_blocking, time::timeout};
use zeroize::Zeroizing;

/// The time in which a file can be read. It may be on a volume that does not answer.
const READ: Duration = Duration::from_secs(2);

/// The largest file, in bytes.
const MAX_BYTES: usize = 256 * 1024;

/// A file of `[secrets.vault]`.
pub(super) struct VaultFile {
    /// The key of the setting with its path.
    pub(super) setting: &'static str,
    path: PathBuf,
    reads: BlockingReads,
}

/// Reads on threads for blocking calls, one at a time. A read that hangs keeps its thread, so those after it take none.
#[derive(Default)]
pub(super) struct BlockingReads(Arc<Mutex<()>>);

impl BlockingReads {
    /// Reads, once the read before has ended. Returns `None` if that takes longer than [`READ`], or if `read` panics.
    pub(super) async fn run<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let reading = async {
            let turn = self.0.clone().lock_owned().await;
            let read = move || {
                let _turn = turn;
                read()
            };
            spawn_blocking(read).await
        };
        timeout(READ, reading).await.ok()?.ok()
    }
}

impl VaultFile {
    pub(super) fn new(setting: &'static str, path: &Path) -> Self {
        Self { setting, path: path.into(), reads: BlockingReads::default() }
    }

    /// Returns the text of the file, without the blanks around it.
    ///
    /// # Errors
    /// A transient error if it cannot be read: it may be mounted soon.
    pub(super) async fn read(&self) -> Result<Zeroizing<String>, SourceError> {
        let path = self.path.clone();
        let bytes = match self.reads.run(move || regular_file::read_secret(&path, MAX_BYTES)).await {
            Some(Ok(bytes)) => bytes,
            Some(Err(error)) => return Err(self.unreadable(&RootCause::of(&error).to_string())),
            None => return Err(self.unreadable("it was not there in time")),
        };
        match str::from_utf8(&bytes) {
            Ok(text) if text.trim().is_empty() => Err(self.unreadable("it is empty")),
            Ok(text) if bytes.len() <= MAX_BYTES => Ok(Zeroizing::new(text.trim().to_owned())),
            _ => Err(self.unreadable("it is not a text of 256 KiB at most")),
        }
    }

    fn unreadable(&self, problem: &str) -> SourceError {
        let Self { setting, path, .. } = self;
        SourceError::NotConnected {
            problem: format!("the file {} of secrets.vault.{setting} cannot be read: {problem}", path.display()),
            remedy: Some("put the file there, and let the service read it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    #[tokio::test]
    async fn one_read_at_a_time_takes_a_thread_and_those_after_it_read_anew() {
        let (reads, begun) = (BlockingReads::default(), Arc::new(AtomicUsize::new(0)));
        let (answer, volume) = mpsc::sync_channel::<()>(1);
        let count = begun.clone();
        let hanging = reads.run(move || {
            count.fetch_add(1, Ordering::SeqCst);
            volume.recv()
        });
        let read = || {
            let count = begun.clone();
            reads.run(move || count.fetch_add(1, Ordering::SeqCst))
        };
        let (hung, second, third) = tokio::join!(hanging, read(), read());
        assert_eq!((hung, second, third), (None, None, None));
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        answer.send(()).unwrap();
        assert_eq!(read().await, Some(1));
    }
}
