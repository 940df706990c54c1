//! The request that the running code belongs to. The log reads it, so that each line of a request has its ids without a
//! span.

use std::{cell::Cell, num::NonZeroU64};

thread_local! {
    static CURRENT: Cell<Option<RequestContext>> = const { Cell::new(None) };
}

/// The ids of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestContext {
    /// The trace id (W3C Trace Context), which is the request's id too.
    pub(crate) trace_id: u128,
    /// The number of the generation that answers it.
    pub(crate) generation: u64,
    /// `true` if it bears a debug token: it is logged at debug, and sampled.
    pub(crate) debug: bool,
    /// The span of the request. `None` if traces are off.
    pub(crate) span: Option<CurrentSpan>,
}

/// A span that others can have as their parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CurrentSpan {
    pub(crate) id: NonZeroU64,
    /// `true` if it is recorded, and what it causes too.
    pub(crate) is_sampled: bool,
}

impl RequestContext {
    /// Returns the context of the code that runs on this thread now. `None` if it belongs to no request.
    pub(crate) fn current() -> Option<Self> {
        CURRENT.get()
    }

    /// Calls `f`, for this request. Call it around each poll of the request's future.
    pub(crate) fn within<T>(self, f: impl FnOnce() -> T) -> T {
        let _restored = Restored(CURRENT.replace(Some(self)));
        f()
    }
}

/// Puts the context of before back, also if the code panics.
struct Restored(Option<RequestContext>);

impl Drop for Restored {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(trace_id: u128) -> RequestContext {
        RequestContext { trace_id, generation: 1, debug: false, span: None }
    }

    #[test]
    fn the_context_is_there_within_and_gone_after_it_also_after_a_panic() {
        let (outer, inner) = (context(1), context(2));
        assert_eq!(RequestContext::current(), None);
        outer.within(|| {
            let panicked = std::panic::catch_unwind(|| inner.within(|| panic!("as a handler may")));
            assert!(panicked.is_err());
            assert_eq!(RequestContext::current(), Some(outer));
        });
        assert_eq!(RequestContext::current(), None);
    }
}
