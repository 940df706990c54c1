//! Reads that may hang, because a volume does not answer.

use crate::{credentials::pem, regular_file};
use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::{sync::Mutex, task::spawn_blocking, time::timeout};

/// The time in which a file can be read.
pub(crate) const READ: Duration = Duration::from_secs(2);

/// The bytes that are read of a file which a library reads afterwards. Most of these files have no more.
const CHECKED: usize = 64 * 1024;

/// Reads on threads for blocking calls, one at a time. A read that hangs keeps its thread, so those after it take none.
/// Clones share the turns.
#[derive(Clone, Default)]
pub(crate) struct BlockingReads(Arc<Mutex<()>>);

impl BlockingReads {
    /// Reads, once the read before has ended. Returns `None` if that takes longer than [`READ`].
    ///
    /// # Panics
    /// If `read` panics.
    pub(crate) async fn run<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let reading = async {
            let turn = self.0.clone().lock_owned().await;
            let read = move || {
                let _turn = turn;
                read()
            };
            spawn_blocking(read).await
        };
        match timeout(READ, reading).await.ok()? {
            Ok(read) => Some(read),
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            // The runtime is shutting down.
            Err(_) => None,
        }
    }

    /// Reads a file, as [`run`](Self::run) does.
    ///
    /// # Errors
    /// That of `read`, or [`ErrorKind::TimedOut`].
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let silent = || io::Error::new(ErrorKind::TimedOut, format!("it did not answer within {} s", READ.as_secs()));
        self.run(read).await.unwrap_or_else(|| Err(silent()))
    }
}

/// Reads of the files that the configuration and the platform's variables name. Each has its own turns: one that hangs holds
/// up no other. Clones share them, so a file takes one thread at most, however often it is read.
#[derive(Clone, Default)]
pub(crate) struct FileReads {
    files: Arc<std::sync::Mutex<BTreeMap<PathBuf, BlockingReads>>>,
    /// The reads of the platform's certificate authorities, whose files its library finds.
    pub(crate) authorities: BlockingReads,
}

impl FileReads {
    /// Reads a text file.
    ///
    /// # Errors
    /// As [`regular_file::read`], and [`ErrorKind::TimedOut`] if it does not answer in time.
    pub(crate) async fn read(&self, path: &Path) -> io::Result<String> {
        regular_file::text_of(self.read_bytes(path).await?)
    }

    /// Reads a PEM file without secrets.
    ///
    /// # Errors
    /// As [`read_bytes`](Self::read_bytes).
    pub(crate) async fn read_pem(&self, path: &Path) -> io::Result<String> {
        Ok(std::mem::take(&mut *pem::text_of(&self.read_bytes(path).await?)))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`regular_file::read_bytes`], and [`ErrorKind::TimedOut`] if it does not answer in time.
    pub(crate) async fn read_bytes(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = path.to_owned();
        self.of(path).read(move || regular_file::read_bytes(&file)).await
    }

    /// Checks that a library can read this file without waiting.
    ///
    /// # Errors
    /// As [`read`](Self::read), but any bytes will do.
    pub(crate) async fn check(&self, path: &Path) -> io::Result<()> {
        let file = path.to_owned();
        self.of(path).read(move || regular_file::read_secret(&file, CHECKED).map(drop)).await
    }

    /// Returns the reads of one file.
    pub(crate) fn of(&self, path: &Path) -> BlockingReads {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.entry(path.to_owned()).or_default().clone()
    }
}

#[cfg(test)]
impl BlockingReads {
    /// Makes a read that hangs until the guard is dropped.
    pub(crate) fn hang(&self) -> tokio::sync::OwnedMutexGuard<()> {
        self.0.clone().try_lock_owned().expect("no read is under way")
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

    #[tokio::test(start_paused = true)]
    async fn a_file_that_hangs_holds_up_no_other_and_is_read_once_it_answers() {
        let files = FileReads::default();
        let paths = ["/dev/null", "/proc/self/comm"].map(Path::new);
        let hanging = files.clone().of(paths[0]).hang();
        let (error, unchecked) = (files.read(paths[0]).await.unwrap_err(), files.check(paths[0]).await.unwrap_err());
        assert_eq!((error.kind(), unchecked.kind()), (ErrorKind::TimedOut, ErrorKind::TimedOut));
        assert_eq!(error.to_string(), "it did not answer within 2 s");
        assert!(!files.read(paths[1]).await.unwrap().is_empty());
        drop(hanging);
        assert_eq!(files.read(paths[0]).await.unwrap(), "");
    }

    #[tokio::test]
    #[should_panic(expected = "the read panics")]
    async fn the_panic_of_a_read_is_that_of_its_caller() {
        BlockingReads::default().run(|| panic!("the read panics")).await.unwrap();
    }
}
