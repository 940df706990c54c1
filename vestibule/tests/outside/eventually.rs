//! The wait of these tests. The local stack has the same, but the framework does not depend on the stack.

use std::{fmt::Debug, time::Duration};
use tokio::time::{Instant, sleep};

const INTERVAL: Duration = Duration::from_millis(5);

const TIMEOUT: Duration = Duration::from_secs(60);

/// Waits until `probe` returns `Ok`, and returns the value. It calls `probe` every 5 ms.
///
/// # Panics
/// If it does not within a minute. The message shows the last error.
pub(crate) async fn eventually<T, E: Debug>(what: &str, mut probe: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(seen) => assert!(start.elapsed() < TIMEOUT, "{what} did not come; last seen: {seen:?}"),
        }
        sleep(INTERVAL).await;
    }
}
