//! What is tried again, when and how often.

use super::error::CallError;
use crate::backoff::Backoff;
use axum::{
    body::Bytes,
    http::{HeaderMap, Method, Request, Response, StatusCode, header},
};
use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, Sleep};
use tower::retry::Policy;

/// What other moments may answer.
pub(super) const MAY_PASS: [StatusCode; 5] = [
    StatusCode::REQUEST_TIMEOUT,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::BAD_GATEWAY,
    StatusCode::SERVICE_UNAVAILABLE,
    StatusCode::GATEWAY_TIMEOUT,
];

/// The attempts at one call. Clones share what is left of them.
#[derive(Clone)]
pub(super) struct RetryPolicy {
    left: Arc<AtomicU32>,
    pauses: Backoff,
    deadline: Instant,
}

impl RetryPolicy {
    pub(super) fn new(attempts: NonZeroU32, deadline: Instant) -> Self {
        Self { left: Arc::new((attempts.get() - 1).into()), pauses: Backoff::until(deadline), deadline }
    }
}

impl Policy<Request<Bytes>, Response<Bytes>, CallError> for RetryPolicy {
    type Future = Sleep;

    fn retry(
        &mut self,
        request: &mut Request<Bytes>,
        result: &mut Result<Response<Bytes>, CallError>,
    ) -> Option<Sleep> {
        let asked = match result {
            Err(CallError::Unconnected { .. }) => None,
            Err(CallError::Broken { .. }) if harmless_twice(request) => None,
            Ok(answer) if MAY_PASS.contains(&answer.status()) && harmless_twice(request) => after(answer.headers()),
            _ => return None,
        };
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok()?;
        let at = self.pauses.next()?.max(Instant::now() + asked.unwrap_or_default());
        (at < self.deadline).then(|| tokio::time::sleep_until(at))
    }

    fn clone_request(&mut self, request: &Request<Bytes>) -> Option<Request<Bytes>> {
        Some(request.clone())
    }
}

/// RFC 9110, section 9.2.2; or the other side knows by the key that it is the same request.
fn harmless_twice(request: &Request<Bytes>) -> bool {
    const IDEMPOTENT: [Method; 6] =
        [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE];
    IDEMPOTENT.contains(request.method()) || request.headers().contains_key("idempotency-key")
}

/// `Retry-After`, RFC 9110, section 10.2.3, in seconds. A date is not heeded: clocks differ.
pub(super) fn after(headers: &HeaderMap) -> Option<Duration> {
    // No longer than any deadline, so that an absurd one cannot overflow the clock.
    let seconds: u32 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.into()))
}
