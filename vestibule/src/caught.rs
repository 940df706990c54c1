//! Panics of a service's own code, caught: such a panic ends no more than what was called. The panic hook logs it, without the
//! text that may quote a secret.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, ready},
};

/// Calls a function of the service. Returns `None` if it panics.
pub(crate) fn caught<T>(call: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(call)).ok()
}

/// Returns a future that runs one of the service. Its output is `None` if that panics. The caller outlives a panic also if it
/// drops the future: then, the values that the service's code holds at an `await` are dropped.
///
/// No box: that would be a copy of a part of the stack, where a key may have been.
pub(crate) fn caught_future<F: Future>(future: F) -> CaughtFuture<F> {
    CaughtFuture { future: Some(future) }
}

pin_project_lite::pin_project! {
    /// The future of [`caught_future`].
    pub(crate) struct CaughtFuture<F> {
        // `None` once it has ended.
        #[pin]
        future: Option<F>,
    }

    impl<F> PinnedDrop for CaughtFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut future = this.project().future;
            let _ = caught(|| future.set(None));
        }
    }
}

impl<F: Future> Future for CaughtFuture<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let mut future = self.project().future;
        let poll = || future.as_mut().as_pin_mut().expect("a future is not polled after it has ended").poll(cx);
        let output = match caught(poll) {
            Some(polled) => Some(ready!(polled)),
            None => None,
        };
        // What it has returned is there, whatever its drop does.
        let _ = caught(|| future.set(None));
        Poll::Ready(output)
    }
}

/// A value of the service whose drop panics.
#[cfg(test)]
pub(crate) struct PanicsWhenDropped;

#[cfg(test)]
impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("a bug of the service");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::future::{pending, ready};

    #[test]
    fn a_panic_ends_only_the_future() {
        assert_eq!(caught_future(async { 1 }).now_or_never(), Some(Some(1)));
        assert_eq!(caught_future(async { panic!("a bug of the service") }).now_or_never(), Some(None::<()>));
        let ends = caught_future(async {
            let _guard = PanicsWhenDropped;
            ready(()).await;
        });
        assert_eq!(ends.now_or_never(), Some(None));
        let given_up = caught_future(async {
            let _guard = PanicsWhenDropped;
            pending::<()>().await;
        });
        assert_eq!(given_up.now_or_never(), None);
    }

    #[test]
    fn an_output_outlives_a_panic_of_the_drop_after_it() {
        struct Ready(PanicsWhenDropped);

        impl Future for Ready {
            type Output = u8;

            fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<u8> {
                Poll::Ready(1)
            }
        }

        assert_eq!(caught_future(Ready(PanicsWhenDropped)).now_or_never(), Some(Some(1)));
    }
}
