//! A quota of requests.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A quota of requests, and a record of all that came: a bucket of tokens that fills at a steady rate. Each request takes a
/// token. One that finds none is throttled, and costs nothing.
///
/// AWS does not say how large its buckets are. This one holds the tokens of a second.
#[derive(Debug)]
pub struct TokenBucket {
    /// The tokens that come in a second, and the most that the bucket holds. `None`: there are always enough.
    rate: Option<f64>,
    state: Mutex<BucketState>,
}

#[derive(Debug, Default)]
struct BucketState {
    tokens: f64,
    /// The requests so far, with `true` for those that were throttled.
    requests: Vec<(Instant, bool)>,
}

impl TokenBucket {
    /// Makes a full bucket for this many requests in a second.
    pub fn per_second(rate: u32) -> Self {
        let state = BucketState { tokens: rate.into(), requests: Vec::new() };
        Self { rate: Some(rate.into()), state: Mutex::new(state) }
    }

    /// Makes a bucket that throttles no request.
    pub fn unlimited() -> Self {
        Self { rate: None, state: Mutex::default() }
    }

    /// Takes a token. Returns `false` if there is none: the request is throttled.
    pub fn take(&self) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        let has_token = match self.rate {
            None => true,
            Some(rate) => {
                let last = state.requests.last().map_or(now, |(at, _)| *at);
                state.tokens = rate.min(state.tokens + rate * (now - last).as_secs_f64());
                let has_token = state.tokens >= 1.0;
                if has_token {
                    state.tokens -= 1.0;
                }
                has_token
            }
        };
        state.requests.push((now, !has_token));
        has_token
    }

    /// Returns the number of requests so far, throttled or not.
    pub fn requests(&self) -> usize {
        self.lock().requests.len()
    }

    /// Returns the number of requests that were throttled.
    pub fn throttled(&self) -> usize {
        self.lock().requests.iter().filter(|(_, is_throttled)| *is_throttled).count()
    }

    /// Returns the most requests within a second, throttled or not.
    pub fn busiest_second(&self) -> usize {
        let state = self.lock();
        let (mut first, mut most) = (0, 0);
        for (last, (at, _)) in state.requests.iter().enumerate() {
            while *at - state.requests[first].0 > Duration::from_secs(1) {
                first += 1;
            }
            most = most.max(last + 1 - first);
        }
        most
    }

    /// Returns the time from the first request to the last one.
    pub fn span(&self) -> Duration {
        let state = self.lock();
        match (state.requests.first(), state.requests.last()) {
            (Some((first, _)), Some((last, _))) => *last - *first,
            _ => Duration::ZERO,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BucketState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_throttles_what_comes_faster_than_it_fills() {
        let bucket = TokenBucket::per_second(10);
        let taken = || (0..20).filter(|_| bucket.take()).count();
        assert_eq!(taken(), 10, "it begins full");
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(taken(), 5, "half a second brings half of them");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(taken(), 10, "it holds no more than those of a second");
        assert_eq!((bucket.requests(), bucket.throttled(), bucket.busiest_second()), (60, 35, 40));
        assert!((0..20).all(|_| TokenBucket::unlimited().take()));
    }
}
