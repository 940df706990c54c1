//! The result of a delivery: whether the message was accepted, and whether a failure is permanent.

use super::{error::CallError, retry};
use crate::jitter;
use axum::{
    body::Bytes,
    http::{Response, StatusCode},
};
use std::time::Duration;

/// The longest pause, before its jitter.
const MAX_PAUSE: Duration = Duration::from_secs(600);

/// The error of a message that was not delivered: [`ApiClient::deliver`](crate::ApiClient::deliver) returns it.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct DeliveryError {
    reason: String,
    /// `true` if the other side will not accept this message later either: it responded with a 4xx or 5xx that is about
    /// the message. The statuses 401 and 403 are about the key, and 408, 425, 429, 502, 503 and 504 are about this
    /// moment. `false` also for any other response, and for none.
    pub permanent: bool,
    retry_after: Duration,
}

impl DeliveryError {
    /// Returns the pause after this many attempts.
    ///
    /// It is 1 s after the first attempt and doubles up to 10 min, give or take 20 %. It is no shorter than the
    /// response's `Retry-After`, but a `Retry-After` of more than 10 min is treated as 10 min.
    pub fn pause(&self, attempts: u32) -> Duration {
        let doubled = Duration::from_secs(1 << attempts.saturating_sub(1).min(20)).min(MAX_PAUSE);
        doubled.mul_f64(jitter::factor(0.2)).max(self.retry_after.min(MAX_PAUSE))
    }
}

/// Returns `Ok` if the result of a call means that the message was accepted.
pub(super) fn accepted(result: Result<Response<Bytes>, CallError>) -> Result<(), DeliveryError> {
    let (status, retry_after) = match result {
        Ok(response) => (response.status(), retry::retry_after(response.headers()).unwrap_or_default()),
        Err(CallError::BodyIncomplete { status, .. }) => (status, Duration::ZERO),
        Err(error) => {
            let reason = error.to_string();
            return Err(DeliveryError { reason, permanent: false, retry_after: Duration::ZERO });
        }
    };
    if status.is_success() {
        return Ok(());
    }
    let reason = match status {
        StatusCode::UNAUTHORIZED => "401: the key is rejected".into(),
        status => format!("the answer was {}", status.as_u16()),
    };
    Err(DeliveryError { reason, permanent: is_permanent(status), retry_after })
}

fn is_permanent(status: StatusCode) -> bool {
    const ABOUT_THE_KEY: [StatusCode; 2] = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
    let about_this_moment = retry::TRANSIENT.contains(&status) || status == StatusCode::TOO_EARLY;
    (status.is_client_error() || status.is_server_error()) && !about_this_moment && !ABOUT_THE_KEY.contains(&status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_permanent_unless_it_is_about_the_key_or_this_moment() {
        let permanent = |range: std::ops::Range<u16>| -> Vec<u16> {
            range.filter(|code| is_permanent(StatusCode::from_u16(*code).expect("a status"))).collect()
        };
        assert!(permanent(100..400).is_empty());
        let others: Vec<u16> = (400..600).filter(|code| !permanent(400..600).contains(code)).collect();
        assert_eq!(others, [401, 403, 408, 425, 429, 502, 503, 504]);
    }

    #[test]
    fn pauses_double_up_to_ten_minutes_and_are_no_shorter_than_retry_after() {
        let pause = |attempts, retry_after| {
            let retry_after = Duration::from_secs(retry_after);
            DeliveryError { reason: String::new(), permanent: false, retry_after }.pause(attempts).as_secs_f64()
        };
        for (attempts, seconds) in [(0, 1.0), (1, 1.0), (2, 2.0), (5, 16.0), (11, 600.0), (u32::MAX, 600.0)] {
            let paused = pause(attempts, 0);
            assert!((0.8 * seconds..=1.2 * seconds).contains(&paused), "{attempts}: {paused}");
        }
        assert_eq!(pause(1, 90), 90.0);
        assert!(pause(6, 1) >= 25.6);
        assert_eq!(pause(1, u64::MAX), 600.0);
    }
}
