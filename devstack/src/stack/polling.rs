//! A wait that looks at something again and again.

use std::thread;
use std::time::{Duration, Instant};

/// The interval and the limit of a wait.
#[derive(Clone, Copy, Debug)]
pub struct Polling {
    /// The pause between two looks.
    pub interval: Duration,
    /// The time after which the wait gives up. [`Duration::MAX`] never does.
    pub limit: Duration,
}

impl Polling {
    /// Calls `probe` until it yields a value. Returns `None` if it yields none within the limit.
    ///
    /// `probe` is called at least once.
    pub async fn until<T>(self, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
        let start = Instant::now();
        loop {
            if let Some(found) = probe() {
                return Some(found);
            }
            if start.elapsed() > self.limit {
                return None;
            }
            tokio::time::sleep(self.interval).await;
        }
    }

    /// Does the same as [`Self::until`] with an asynchronous `probe`. It must bound its own time: the limit is checked
    /// between two calls.
    ///
    /// The compiler cannot prove that the returned future is `Send`. So a spawned task cannot use it.
    pub async fn until_async<T>(self, mut probe: impl AsyncFnMut() -> Option<T>) -> Option<T> {
        let start = Instant::now();
        loop {
            // Boxed: otherwise futures of the AWS SDK in futures of a test exceed the compiler's depth limit.
            if let Some(found) = Box::pin(probe()).await {
                return Some(found);
            }
            if start.elapsed() > self.limit {
                return None;
            }
            tokio::time::sleep(self.interval).await;
        }
    }

    /// Does the same as [`Self::until`], and blocks this thread.
    #[expect(clippy::disallowed_methods, reason = "this is the one place where a thread waits")]
    pub fn until_blocking<T>(self, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
        let start = Instant::now();
        loop {
            if let Some(found) = probe() {
                return Some(found);
            }
            if start.elapsed() > self.limit {
                return None;
            }
            thread::sleep(self.interval);
        }
    }
}
