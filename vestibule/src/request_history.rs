//! The requests of the last hour, for the page of the admin listener.

use std::{
    array, fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// The length of a period.
const PERIOD: Duration = Duration::from_secs(15);

/// The number of periods: one hour.
const PERIODS: usize = 240;

/// The number of buckets for durations. Two share an octave: the first ends at 192 µs, and the last but one at 67 s.
const BUCKETS: usize = 38;

/// The octave of the first bucket: 2^7 µs.
const FIRST_OCTAVE: usize = 7;

/// The counts of requests, errors and durations in each period of the last hour.
pub(crate) struct RequestHistory {
    start: Instant,
    periods: [PeriodCounts; PERIODS],
    /// Held by the request that clears the counts of an old period.
    clearing: Mutex<()>,
}

struct PeriodCounts {
    /// The number of the period that the counts are of, from 0 at the start. `u64::MAX` if they are of none.
    period: AtomicU64,
    errors: AtomicU32,
    /// The number of requests by their duration.
    buckets: [AtomicU32; BUCKETS],
}

/// The requests of one period.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct PeriodSummary {
    /// The length of the period, as far as it has passed.
    pub(crate) length: Duration,
    pub(crate) requests: u64,
    /// The answers with a status from 500 on.
    pub(crate) errors: u64,
    /// The duration that 99 % of the requests did not exceed, rounded up by 50 % at most.
    pub(crate) p99: Option<Duration>,
}

impl Default for RequestHistory {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            periods: array::from_fn(|_| PeriodCounts {
                period: AtomicU64::new(u64::MAX),
                errors: AtomicU32::default(),
                buckets: array::from_fn(|_| AtomicU32::default()),
            }),
            clearing: Mutex::default(),
        }
    }
}

impl RequestHistory {
    /// Counts a request that was answered at `now`. Costs one atomic addition; two for an error.
    pub(crate) fn record(&self, now: Instant, duration: Duration, is_error: bool) {
        let period = now.duration_since(self.start).as_secs() / PERIOD.as_secs();
        let counts = &self.periods[slot(period)];
        if counts.period.load(Ordering::Acquire) != period {
            self.clear(counts, period);
        }
        counts.buckets[bucket_of(duration)].fetch_add(1, Ordering::Relaxed);
        if is_error {
            counts.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Clears the counts of an hour ago.
    fn clear(&self, counts: &PeriodCounts, period: u64) {
        let _clearing = self.clearing.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.period.load(Ordering::Relaxed) == period {
            return;
        }
        counts.errors.store(0, Ordering::Relaxed);
        for bucket in &counts.buckets {
            bucket.store(0, Ordering::Relaxed);
        }
        counts.period.store(period, Ordering::Release);
    }

    /// Returns the periods of the last hour, the current one last.
    pub(crate) fn last_hour(&self) -> Vec<PeriodSummary> {
        let elapsed = self.start.elapsed();
        let current = elapsed.as_secs() / PERIOD.as_secs();
        let ages = (0..PERIODS as u64).rev();
        ages.map(|age| match current.checked_sub(age) {
            Some(period) => self.summary(period, PERIOD.min(elapsed - PERIOD * u32::try_from(period).unwrap_or(0))),
            None => PeriodSummary { length: PERIOD, ..PeriodSummary::default() },
        })
        .collect()
    }

    fn summary(&self, period: u64, length: Duration) -> PeriodSummary {
        let counts = &self.periods[slot(period)];
        if counts.period.load(Ordering::Acquire) != period {
            return PeriodSummary { length, ..PeriodSummary::default() };
        }
        let buckets = counts.buckets.each_ref().map(|bucket| u64::from(bucket.load(Ordering::Relaxed)));
        let errors = counts.errors.load(Ordering::Relaxed).into();
        PeriodSummary { length, requests: buckets.iter().sum(), errors, p99: p99(&buckets) }
    }
}

impl fmt::Debug for RequestHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestHistory")
    }
}

fn slot(period: u64) -> usize {
    (period % PERIODS as u64) as usize
}

fn bucket_of(duration: Duration) -> usize {
    let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(2);
    let octave = microseconds.ilog2() as usize;
    let is_second_half = microseconds >> (octave - 1) & 1 == 1;
    (2 * octave + usize::from(is_second_half)).saturating_sub(2 * FIRST_OCTAVE).min(BUCKETS - 1)
}

/// Returns the time at which a bucket ends.
fn end_of(bucket: usize) -> Duration {
    let half_octaves = 2 * FIRST_OCTAVE + bucket;
    let half = 1 << (half_octaves / 2 - 1);
    Duration::from_micros(if half_octaves.is_multiple_of(2) { 3 * half } else { 4 * half })
}

fn p99(buckets: &[u64; BUCKETS]) -> Option<Duration> {
    let requests: u64 = buckets.iter().sum();
    let mut left = requests - requests / 100;
    for (bucket, count) in buckets.iter().enumerate() {
        left = left.saturating_sub(*count);
        if requests > 0 && left == 0 {
            return Some(end_of(bucket));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use tokio::time::advance;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn a_bucket_ends_where_the_next_one_begins() {
        assert_eq!(bucket_of(Duration::ZERO), 0);
        assert_eq!(bucket_of(Duration::MAX), BUCKETS - 1);
        for bucket in 0..BUCKETS - 1 {
            let end = end_of(bucket);
            assert_eq!(bucket_of(end), bucket + 1, "{end:?}");
            assert_eq!(bucket_of(end - Duration::from_micros(1)), bucket, "{end:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_period_has_its_requests_errors_and_p99() {
        let history = RequestHistory::default();
        assert_eq!(history.last_hour().len(), PERIODS);
        for request in 0..200 {
            history.record(
                Instant::now(),
                if request < 198 { MILLISECOND } else { 500 * MILLISECOND },
                request % 100 == 0,
            );
        }
        advance(PERIOD).await;
        history.record(Instant::now(), 40 * MILLISECOND, false);
        advance(PERIOD / 3).await;
        let [.., before, now] = history.last_hour()[..] else { panic!("there are more") };
        assert_eq!((before.requests, before.errors, before.length), (200, 2, PERIOD));
        let p99 = before.p99.unwrap();
        assert!(p99 >= MILLISECOND && p99 < 2 * MILLISECOND, "{p99:?}");
        assert_eq!((now.requests, now.errors, now.length), (1, 0, PERIOD / 3));
        assert!(now.p99.unwrap() >= 40 * MILLISECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_older_than_an_hour_is_forgotten() {
        let history = RequestHistory::default();
        let count = |history: &RequestHistory| history.last_hour().iter().map(|period| period.requests).sum::<u64>();
        history.record(Instant::now(), MILLISECOND, true);
        advance(PERIOD * 239).await;
        assert_eq!(count(&history), 1);
        advance(PERIOD).await;
        assert_eq!(count(&history), 0);
        history.record(Instant::now(), MILLISECOND, false);
        let now = *history.last_hour().last().unwrap();
        assert_eq!((now.requests, now.errors), (1, 0), "the error was an hour ago");
        advance(PERIOD * 1000).await;
        assert_eq!(count(&history), 0);
    }

    /// Records ten requests in each of four threads, which begin at the same time.
    fn record_in_threads(history: &RequestHistory) {
        let barrier = Barrier::new(4);
        let record = || {
            barrier.wait();
            (0..10).for_each(|_| history.record(Instant::now(), MILLISECOND, true));
        };
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(record))));
    }

    #[test]
    fn no_request_of_several_threads_is_lost() {
        // The first requests of a period meet its old counts together, so this begins often.
        for _ in 0..200 {
            let history = RequestHistory::default();
            record_in_threads(&history);
            let requests: u64 = history.last_hour().iter().map(|period| period.requests).sum();
            let errors: u64 = history.last_hour().iter().map(|period| period.errors).sum();
            assert_eq!((requests, errors), (40, 40));
        }
    }
}
