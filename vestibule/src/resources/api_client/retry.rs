//! The retry policy: which calls are tried again, after which pause, and for how many attempts.

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

/// The statuses after which another attempt may succeed.
pub(super) const TRANSIENT: [StatusCode; 5] = [
    StatusCode::REQUEST_TIMEOUT,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::BAD_GATEWAY,
    StatusCode::SERVICE_UNAVAILABLE,
    StatusCode::GATEWAY_TIMEOUT,
];

/// The retry policy of one call. Clones share the number of retries that are left.
#[derive(Clone)]
pub(super) struct RetryPolicy {
    retries_left: Arc<AtomicU32>,
    pauses: Backoff,
    deadline: Instant,
}

impl RetryPolicy {
    pub(super) fn new(attempts: NonZeroU32, deadline: Instant) -> Self {
        Self { retries_left: Arc::new((attempts.get() - 1).into()), pauses: Backoff::until(deadline), deadline }
    }
}

impl Policy<Request<Bytes>, Response<Bytes>, CallError> for RetryPolicy {
    type Future = Sleep;

    fn retry(
        &mut self,
        request: &mut Request<Bytes>,
        result: &mut Result<Response<Bytes>, CallError>,
    ) -> Option<Sleep> {
        let shortest_pause = match result {
            Err(CallError::NotConnected { .. }) => Duration::ZERO,
            Err(CallError::ConnectionBroken { .. }) if is_idempotent(request) => Duration::ZERO,
            Ok(response) if TRANSIENT.contains(&response.status()) && is_idempotent(request) => {
                retry_after(response.headers()).unwrap_or_default()
            }
            _ => return None,
        };
        self.retries_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok()?;
        let at = self.pauses.next()?.max(Instant::now() + shortest_pause);
        if at < self.deadline { Some(tokio::time::sleep_until(at)) } else { None }
    }

    fn clone_request(&mut self, request: &Request<Bytes>) -> Option<Request<Bytes>> {
        Some(request.clone())
    }
}

/// Returns `true` if a request may be sent twice: its method is idempotent (RFC 9110, section 9.2.2), or its
/// `Idempotency-Key` lets the other side recognise it.
fn is_idempotent(request: &Request<Bytes>) -> bool {
    const IDEMPOTENT: [Method; 6] =
        [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE];
    IDEMPOTENT.contains(request.method()) || request.headers().contains_key("idempotency-key")
}

/// Returns the seconds in `Retry-After` (RFC 9110, section 10.2.3). Ignores a date, because clocks differ.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    // A `u32`, because an absurd number of seconds must not overflow the clock.
    let seconds: u32 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.into()))
}
