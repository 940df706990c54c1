//! Reads that may hang, because a volume does not answer.

use std::{sync::Arc, time::Duration};
use tokio::{sync::Mutex, task::spawn_blocking, time::timeout};

/// The time in which a file can be read.
pub(crate) const READ: Duration = Duration::from_secs(2);

/// Reads on threads for blocking calls, one at a time. A read that hangs keeps its thread, so those after it take none.
#[derive(Default)]
pub(crate) struct BlockingReads(Arc<Mutex<()>>);

impl BlockingReads {
    /// Reads, once the read before has ended. Returns `None` if that takes longer than [`READ`], or if `read` panics.
    pub(crate) async fn run<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> Option<T> {
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
