//! The wait of the framework's own tests: of its unit tests, and of `tests/outside`. The local stack has one too, but the
//! framework does not depend on the stack.

use std::{fmt::Debug, time::Duration};
use tokio::time::{Instant, sleep};

const INTERVAL: Duration = Duration::from_millis(5);

const TIMEOUT: Duration = Duration::from_secs(30);

/// Waits until `look` returns a value that meets `condition`, and returns the value. It looks every 5 ms.
///
/// # Panics
/// If there is none within 30 s. The message shows the value that was seen last.
pub(crate) async fn eventually<T: Debug>(what: &str, mut look: impl FnMut() -> T, condition: impl Fn(&T) -> bool) -> T {
    let start = Instant::now();
    loop {
        let seen = look();
        if condition(&seen) {
            return seen;
        }
        assert!(start.elapsed() < TIMEOUT, "{what} did not come; last seen: {seen:?}");
        sleep(INTERVAL).await;
    }
}
