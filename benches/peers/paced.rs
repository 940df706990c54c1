//! Clients that send requests at a fixed rate, however slow the answers are. So a service that fails fast is not asked more
//! often than one that lets its clients wait, and a request that has to wait for a free client is not left out.

use crate::support::load;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

/// The number of clients, each with one connection and one request at a time.
pub(crate) const CLIENTS: usize = 64;

/// The requests per second of all clients.
pub(crate) const RATE: u32 = 200;

/// A client waits no longer for an answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// A service has not recovered while it takes longer for an answer.
const SLOW: Duration = Duration::from_secs(1);

/// The requests of all clients.
#[derive(Default)]
pub(crate) struct Requests {
    /// The time of each one, the shortest first. Failed ones are included.
    times: Vec<Duration>,
    /// The number of those that failed: no answer, or one that is not a 200.
    pub(crate) failed: usize,
    /// The end of the last one that failed, or took longer than [`SLOW`].
    last_bad: Option<Instant>,
}

impl Requests {
    /// Sends requests for `path` while a task runs. Returns them, and what the task returns.
    pub(crate) async fn during<T>(address: SocketAddr, path: &'static str, task: impl Future<Output = T>) -> (Self, T) {
        let schedule =
            Arc::new(Schedule { start: Instant::now(), next: AtomicU32::new(0), ended: AtomicBool::new(false) });
        let theirs = schedule.clone();
        // They have a thread of their own, so that nothing of this program makes them late.
        let clients = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(Self::send(address, path, theirs))
        });
        let output = task.await;
        schedule.ended.store(true, Ordering::Relaxed);
        let requests = tokio::task::spawn_blocking(|| clients.join().expect("the clients do not panic")).await;
        (requests.expect("it does not panic"), output)
    }

    async fn send(address: SocketAddr, path: &'static str, schedule: Arc<Schedule>) -> Self {
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            clients.spawn(Self::send_in_turn(address, path, schedule.clone()));
        }
        let mut all = Self::default();
        for requests in clients.join_all().await {
            all.times.extend(requests.times);
            all.failed += requests.failed;
            all.last_bad = all.last_bad.max(requests.last_bad);
        }
        all.times.sort_unstable();
        all
    }

    async fn send_in_turn(address: SocketAddr, path: &'static str, schedule: Arc<Schedule>) -> Self {
        let (mut requests, mut connection) = (Self::default(), None);
        while let Some(start) = schedule.turn().await {
            let answer = timeout(PATIENCE, load::get(&mut connection, address, path)).await;
            let is_failure = !matches!(answer, Ok(Ok(_)));
            let time = start.elapsed();
            requests.times.push(time);
            if is_failure {
                requests.failed += 1;
                connection = None;
            }
            if is_failure || time > SLOW {
                requests.last_bad = Some(Instant::now());
            }
        }
        requests
    }

    /// Returns the time that this share of the requests did not exceed.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        self.times[((self.times.len() - 1) as f64 * share).round() as usize]
    }

    /// Returns the time from this moment to the end of the last request that failed or was slow; zero if none ended after it.
    pub(crate) fn recovery_after(&self, moment: Instant) -> Duration {
        self.last_bad.map_or(Duration::ZERO, |last| last.saturating_duration_since(moment))
    }
}

/// The times at which requests are due.
struct Schedule {
    start: Instant,
    next: AtomicU32,
    ended: AtomicBool,
}

impl Schedule {
    /// Waits until the next request is due. Returns the time from which it counts: if all clients were busy then, that at
    /// which it was due. Returns nothing at the end.
    async fn turn(&self) -> Option<Instant> {
        let due = self.start + Duration::from_secs(1) * self.next.fetch_add(1, Ordering::Relaxed) / RATE;
        let is_late = due <= Instant::now();
        sleep_until(due).await;
        // The timer of the runtime is late by up to a millisecond, for which the service can do nothing.
        let start = if is_late { due } else { Instant::now() };
        if self.ended.load(Ordering::Relaxed) { None } else { Some(start) }
    }
}
