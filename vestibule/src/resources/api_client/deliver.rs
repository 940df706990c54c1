//! Messages that are kept until they are taken.

use super::{ApiClient, error::CallError, retry};
use axum::{
    body::Bytes,
    http::{Request, StatusCode},
};
use std::time::Duration;

/// The longest pause, before its jitter.
const LONGEST: Duration = Duration::from_secs(600);

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct DeliveryError {
    why: String,
    /// Whether the answer blames the message: any 4xx or 5xx that does not speak of the key or of the moment (401, 403,
    /// 408, 425, 429, 502, 503, 504). An answer of another kind, or none, says nothing of it.
    pub permanent: bool,
    retry_after: Duration,
}

impl DeliveryError {
    /// How long to wait after so many attempts: 1 s after the first, doubling up to 10 min, give or take a fifth; no
    /// less than the answer asks for in `Retry-After`, but for more than 10 min.
    pub fn pause(&self, attempts: u32) -> Duration {
        let doubled = Duration::from_secs(1 << attempts.saturating_sub(1).min(20)).min(LONGEST);
        doubled.mul_f64(0.8 + 0.4 * fastrand::f64()).max(self.retry_after.min(LONGEST))
    }
}

impl ApiClient {
    /// Sends what [`send`](Self::send) sends. `Ok`: the answer was a 2xx, even if its body could not be had.
    ///
    /// # Errors
    /// [`DeliveryError`], whose text quotes as little as a [`CallError`].
    pub async fn deliver(&self, message: Request<Bytes>) -> Result<(), DeliveryError> {
        let (status, retry_after) = match self.send(message).await {
            Ok(answer) => (answer.status(), retry::after(answer.headers()).unwrap_or_default()),
            Err(CallError::Unread { status, .. }) => (status, Duration::ZERO),
            Err(error) => {
                return Err(DeliveryError { why: error.to_string(), permanent: false, retry_after: Duration::ZERO });
            }
        };
        if status.is_success() {
            return Ok(());
        }
        let why = match status {
            StatusCode::UNAUTHORIZED => "401: the key is refused".into(),
            status => format!("the answer was {}", status.as_u16()),
        };
        Err(DeliveryError { why, permanent: is_permanent(status), retry_after })
    }
}

fn is_permanent(status: StatusCode) -> bool {
    const OF_THE_KEY: [StatusCode; 2] = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
    let of_the_moment = retry::MAY_PASS.contains(&status) || status == StatusCode::TOO_EARLY;
    (status.is_client_error() || status.is_server_error()) && !of_the_moment && !OF_THE_KEY.contains(&status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_that_speak_of_nothing_else_blame_the_message() {
        let blaming = |range: std::ops::Range<u16>| -> Vec<u16> {
            range.filter(|code| is_permanent(StatusCode::from_u16(*code).expect("a status"))).collect()
        };
        assert!(blaming(100..400).is_empty());
        let others: Vec<u16> = (400..600).filter(|code| !blaming(400..600).contains(code)).collect();
        assert_eq!(others, [401, 403, 408, 425, 429, 502, 503, 504]);
    }

    #[test]
    fn pauses_double_up_to_ten_minutes_and_heed_retry_after() {
        let pause = |attempts, retry_after| {
            let retry_after = Duration::from_secs(retry_after);
            DeliveryError { why: String::new(), permanent: false, retry_after }.pause(attempts).as_secs_f64()
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
