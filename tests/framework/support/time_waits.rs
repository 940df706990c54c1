//! Waits whose subject is time itself. All other waits are `devstack::eventually`.

use std::{
    panic::Location,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// The pause between two looks of [`stays`].
const INTERVAL: Duration = Duration::from_millis(5);

/// Checks that a condition holds for the whole of `duration`. It looks every 5 ms, at the start and at the end too.
///
/// # Panics
/// At the first look at which the condition does not hold.
#[track_caller]
pub(crate) fn stays(
    what: &str,
    duration: Duration,
    mut condition: impl AsyncFnMut() -> bool,
) -> impl Future<Output = ()> {
    let caller = Location::caller();
    async move {
        let start = Instant::now();
        loop {
            let is_last_look = start.elapsed() >= duration;
            assert!(condition().await, "{what} lasted {:?} and not {duration:?}, at {caller}", start.elapsed());
            if is_last_look {
                return;
            }
            sleep(INTERVAL).await;
        }
    }
}

/// Waits for a fixed time. `reason` says why: no condition that a test can see shows the end of this wait.
pub(crate) async fn let_time_pass(reason: &str, duration: Duration) {
    println!("waiting for {duration:?}: {reason}");
    sleep(duration).await;
}
