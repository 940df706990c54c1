//! The wait of tests. The tests of the framework itself have one of their own, because the framework must not depend on
//! this crate.

use std::fmt::Display;
use std::panic::Location;
use std::time::Duration;

use crate::stack::polling::Polling;

/// A limit that is longer than anything a test waits for, also on a busy machine.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

const INTERVAL: Duration = Duration::from_millis(10);

/// One look at a thing that a test waits for: the value, or a text that says what is there instead.
///
/// | a closure returns | the wait ends at | its value |
/// |---|---|---|
/// | `bool` | `true` | `()` |
/// | `Option<T>` | `Some` | `T` |
/// | `Result<T, E>` | `Ok` | `T`; the message of a panic shows the last `E` |
pub trait Observation {
    /// The value that the wait returns.
    type Value;

    /// Returns the value, or a description of what was seen instead.
    fn value(self) -> Result<Self::Value, Option<String>>;
}

impl Observation for bool {
    type Value = ();

    fn value(self) -> Result<(), Option<String>> {
        if self { Ok(()) } else { Err(None) }
    }
}

impl<T> Observation for Option<T> {
    type Value = T;

    fn value(self) -> Result<T, Option<String>> {
        self.ok_or(None)
    }
}

impl<T, E: Display> Observation for Result<T, E> {
    type Value = T;

    fn value(self) -> Result<T, Option<String>> {
        self.map_err(|seen| Some(format!("{seen:#}")))
    }
}

/// Waits until `probe` yields a value, and returns that value. It calls `probe` every 10 ms.
///
/// ```
/// # use devstack::eventually;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let mut count = 0;
/// let found = eventually("a count of 3", async || {
///     count += 1;
///     if count == 3 { Ok("three") } else { Err(format!("the count is {count}")) }
/// });
/// assert_eq!(found.await, "three");
/// # }
/// ```
///
/// # Panics
/// If there is no value within [`DEFAULT_TIMEOUT`]. The message says what the test waited for, and what it saw last.
#[track_caller]
pub fn eventually<O: Observation>(what: &str, probe: impl AsyncFnMut() -> O) -> impl Future<Output = O::Value> {
    wait(DEFAULT_TIMEOUT, what, probe, Location::caller())
}

/// Does the same as [`eventually`], within `timeout`.
///
/// # Panics
/// If there is no value within `timeout`.
#[track_caller]
pub fn eventually_within<O: Observation>(
    timeout: Duration,
    what: &str,
    probe: impl AsyncFnMut() -> O,
) -> impl Future<Output = O::Value> {
    wait(timeout, what, probe, Location::caller())
}

async fn wait<O: Observation>(
    timeout: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> O,
    caller: &Location<'_>,
) -> O::Value {
    let mut last_seen = None;
    let found = Polling { interval: INTERVAL, limit: timeout }.until_async(async || {
        let Ok(observation) = tokio::time::timeout(timeout, probe()).await else {
            panic!("{what}: one look did not end within {timeout:?}, at {caller}");
        };
        match observation.value() {
            Ok(value) => Some(value),
            Err(seen) => {
                last_seen = seen;
                None
            }
        }
    });
    if let Some(value) = found.await {
        return value;
    }
    let seen = last_seen.map_or_else(String::new, |seen| format!("; last seen: {seen}"));
    panic!("{what} did not come within {timeout:?}, at {caller}{seen}");
}

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;

    use futures_util::FutureExt;

    use super::*;

    const SHORT: Duration = Duration::from_millis(30);

    async fn message_of(wait: impl Future<Output = ()>) -> String {
        let panic = AssertUnwindSafe(wait).catch_unwind().await.expect_err("it never comes");
        *panic.downcast::<String>().expect("the message is formatted")
    }

    #[tokio::test]
    async fn a_wait_ends_with_the_first_value() {
        let mut looks = 0;
        let found = eventually("the third look", async || {
            looks += 1;
            if looks == 3 { Some(looks) } else { None }
        });
        assert_eq!(found.await, 3);
        eventually("a condition", async || true).await;
    }

    #[tokio::test]
    async fn a_wait_that_fails_says_what_it_waited_for_where_and_what_it_saw_last() {
        let message = message_of(eventually_within(SHORT, "the moon", async || Err("clouds"))).await;
        assert!(message.starts_with("the moon did not come within 30ms, at "), "{message}");
        assert!(message.contains("eventually.rs:") && message.ends_with("; last seen: clouds"), "{message}");
    }

    #[tokio::test]
    async fn a_look_that_does_not_end_fails_the_wait() {
        let message = message_of(eventually_within(SHORT, "an answer", std::future::pending::<bool>)).await;
        assert!(message.starts_with("an answer: one look did not end within 30ms"), "{message}");
    }
}
