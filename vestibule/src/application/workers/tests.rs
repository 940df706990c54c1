use super::*;
use crate::{
    application::WorkerWake,
    config::Config,
    metrics::exposition_format::ExpositionFormat,
    testing::{Harness, MemoryManager, eventually::eventually, idle_service::IdleService},
};

use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::{
    sync::watch,
    time::{Instant, advance, sleep},
};

/// The series of the time at which a worker last ended a piece.
const LAST_FINISHED: &str = "vestibule_worker_last_finished_timestamp_seconds{worker=\"test\"}";

/// A service with background tasks, on a clock that stands still while they work.
struct World {
    harness: Harness<IdleService>,
    stopping: CancellationToken,
    tasks: Background<IdleService>,
}

impl World {
    async fn start() -> Self {
        let harness = Harness::start(MemoryManager::new(), Config::default()).await.unwrap();
        let stopping = CancellationToken::new();
        let tasks = harness.background(stopping.clone());
        Self { harness, stopping, tasks }
    }

    fn wake(&self) -> WorkerWake {
        self.harness.reloader.loader.worker_wakes.of("test")
    }

    /// Returns the value of a series of `/metrics`.
    #[track_caller]
    fn metric(&self, series: &str) -> f64 {
        let page = self.harness.reloader.loader.metrics.encode(ExpositionFormat::OpenMetrics);
        let mut lines = page.lines();
        let value = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {series} in {page}")).parse().unwrap()
    }

    fn pieces(&self, outcome: &str) -> f64 {
        self.metric(&format!("vestibule_worker_pieces_total{{worker=\"test\",outcome=\"{outcome}\"}}"))
    }

    /// Stops the tasks.
    async fn stop(self) {
        self.stopping.cancel();
        let begin = Instant::now();
        self.tasks.join().await;
        assert_eq!(begin.elapsed(), Duration::ZERO, "no task sleeps on");
    }
}

/// The work that is left, and how many looks for it there were.
#[derive(Default)]
struct Work {
    left: watch::Sender<usize>,
    looks: AtomicUsize,
}

impl Work {
    /// Does one piece, which takes this long. Returns `false` if there was none.
    async fn take(&self, duration: Duration) -> Result<bool, &'static str> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        let is_taken = self.left.send_if_modified(|left| match left.checked_sub(1) {
            Some(rest) => {
                *left = rest;
                true
            }
            None => false,
        });
        if is_taken {
            sleep(duration).await;
        }
        Ok(is_taken)
    }

    /// Starts four workers, each of whose pieces takes this long.
    fn start(self: &Arc<Self>, tasks: &Background<IdleService>, duration: Duration) {
        let work = self.clone();
        let piece = move |_| {
            let work = work.clone();
            async move { work.take(duration).await }
        };
        tasks.work("test", 4, |_| Duration::from_secs(60), piece);
    }

    fn looks(&self) -> usize {
        self.looks.load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_goes_on_after_failures_and_panics_and_ends_when_the_process_stops() {
    let world = World::start().await;
    let pieces = Arc::new(AtomicUsize::new(0));
    let begun = pieces.clone();
    let piece = move |_: Arc<IdleService>| {
        let piece = begun.fetch_add(1, Ordering::SeqCst);
        assert_ne!(piece, 2, "as a bug before the first await would");
        async move {
            match piece {
                0 => panic!("as a bug in a service would"),
                1 => Err("as a database that is away would"),
                3 => std::future::pending().await,
                4..10 => Ok(true),
                _ => Ok(false),
            }
        }
    };
    world.tasks.work("test", 1, |_| Duration::from_millis(50), piece);
    eventually("the end of the work", || world.pieces("nothing"), |pieces| *pieces >= 1.0).await;
    let outcomes = ["panicked", "failed", "timeout", "done"].map(|outcome| world.pieces(outcome));
    assert_eq!(outcomes, [2.0, 1.0, 1.0, 6.0]);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn idle_workers_of_one_name_look_once_a_second_together() {
    let world = World::start().await;
    let work = Arc::new(Work::default());
    work.start(&world.tasks, Duration::ZERO);
    sleep(Duration::from_secs(100)).await;
    assert!((80..=125).contains(&work.looks()), "{} looks in 100 s", work.looks());
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_finds_work_wakes_the_next_one() {
    let world = World::start().await;
    let work = Arc::new(Work::default());
    work.start(&world.tasks, Duration::from_millis(10));
    sleep(Duration::from_secs(10)).await;
    let mut left = work.left.subscribe();
    work.left.send_replace(100);
    left.wait_for(|left| *left < 100).await.unwrap();
    let begin = Instant::now();
    left.wait_for(|left| *left == 0).await.unwrap();
    // One worker alone would need a second. Others come by themselves only after half a second.
    assert!(begin.elapsed() < Duration::from_millis(400), "{:?}", begin.elapsed());
    // The last pieces end.
    sleep(Duration::from_millis(20)).await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_wake_up_is_never_late_and_costs_one_look() {
    let world = World::start().await;
    let work = Arc::new(Work::default());
    work.start(&world.tasks, Duration::ZERO);
    sleep(Duration::from_secs(10)).await;
    for _ in 0..100 {
        let looks = work.looks();
        work.left.send_replace(1);
        world.wake().wake();
        // Lets the workers run: the clock moves only if none of them can.
        sleep(Duration::from_millis(1)).await;
        assert_eq!(*work.left.borrow(), 0, "it was taken at once");
        let looks = work.looks() - looks;
        assert!(looks <= 4, "the piece, two looks for another one, and perhaps the timer: {looks}");
    }
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_wake_up_while_all_workers_are_busy_is_kept() {
    let world = World::start().await;
    let looks = Arc::new(AtomicUsize::new(0));
    let begun = looks.clone();
    let piece = move |_: Arc<IdleService>| {
        begun.fetch_add(1, Ordering::SeqCst);
        async {
            // It has looked, and found nothing. Work that comes now is not seen.
            sleep(Duration::from_millis(100)).await;
            Ok::<_, &str>(false)
        }
    };
    world.tasks.work("test", 1, |_| Duration::from_secs(60), piece);
    sleep(Duration::from_millis(50)).await;
    assert_eq!(looks.load(Ordering::SeqCst), 1, "the first look, which goes on");
    world.wake().wake();
    sleep(Duration::from_millis(60)).await;
    assert_eq!(looks.load(Ordering::SeqCst), 2, "the next one follows at once");
    sleep(Duration::from_millis(200)).await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_others_look_while_one_is_in_a_long_piece_and_after_one_panicked() {
    let world = World::start().await;
    let looks = Arc::new(AtomicUsize::new(0));
    let begun = looks.clone();
    let piece = move |_: Arc<IdleService>| {
        let look = begun.fetch_add(1, Ordering::SeqCst);
        async move {
            match look {
                0 | 1 => std::future::pending().await,
                2 => panic!("as a bug in a service would"),
                _ => Ok::<_, &str>(false),
            }
        }
    };
    world.tasks.work("test", 4, |_| Duration::from_secs(1000), piece);
    sleep(Duration::from_secs(100)).await;
    let looks = looks.load(Ordering::SeqCst);
    assert!((80..=125).contains(&looks), "{looks} looks in 100 s");
    assert_eq!(world.pieces("panicked"), 1.0);
    // The two long pieces would go on: this test does not wait for them.
    world.stopping.cancel();
}

#[tokio::test(start_paused = true)]
async fn metrics_say_when_the_last_piece_ended_and_how_many_workers_fail() {
    let world = World::start().await;
    let fails = Arc::new(AtomicUsize::new(1));
    let failing = fails.clone();
    let piece = move |_: Arc<IdleService>| {
        let fails = failing.load(Ordering::SeqCst) == 1;
        async move { if fails { Err("as a database that is away would") } else { Ok(false) } }
    };
    world.tasks.work("test", 2, |_| Duration::from_secs(60), piece);
    let begun = world.metric(LAST_FINISHED);
    assert!(begun > 1.7e9, "an alert does not fire before the first piece: {begun}");
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.metric("vestibule_worker_failing{worker=\"test\"}"), 2.0);
    assert!(world.metric(LAST_FINISHED) > begun, "a piece that failed has ended too");
    fails.store(0, Ordering::SeqCst);
    sleep(Duration::from_secs(61)).await;
    assert_eq!(world.metric("vestibule_worker_failing{worker=\"test\"}"), 0.0);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_hangs_shows_although_others_of_its_name_go_on() {
    let world = World::start().await;
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = looks.clone();
    let piece = move |_: Arc<IdleService>| {
        let look = counted.fetch_add(1, Ordering::SeqCst);
        async move { if look == 0 { std::future::pending().await } else { Ok::<_, &str>(false) } }
    };
    world.tasks.work("test", 2, |_| Duration::from_secs(1000), piece);
    sleep(Duration::from_secs(100)).await;
    let (seen, looked) = (world.metric(LAST_FINISHED), looks.load(Ordering::SeqCst));
    sleep(Duration::from_secs(100)).await;
    assert!(looks.load(Ordering::SeqCst) > looked, "the other one goes on");
    assert_eq!(world.metric(LAST_FINISHED), seen);
    sleep(Duration::from_secs(900)).await;
    assert!(world.metric(LAST_FINISHED) > seen, "its deadline has ended the piece");
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_or_ends_is_started_again_and_counted() {
    let world = World::start().await;
    let starts = Arc::new(AtomicUsize::new(0));
    let started = starts.clone();
    world.tasks.spawn("test", move |_, stopping| {
        let start = started.fetch_add(1, Ordering::SeqCst);
        assert_ne!(start, 1, "as a bug before the first await would");
        async move {
            match start {
                0 => panic!("as a bug in a service would"),
                2 => (),
                _ => stopping.cancelled().await,
            }
        }
    });
    sleep(Duration::from_secs(30)).await;
    assert_eq!(starts.load(Ordering::SeqCst), 4);
    assert_eq!(world.metric("vestibule_background_panics_total{task=\"test\"}"), 2.0);
    assert_eq!(world.metric("vestibule_background_restarts_total{task=\"test\"}"), 3.0);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_always_ends_is_started_ever_more_seldom_and_stops_at_once() {
    let world = World::start().await;
    world.tasks.spawn("test", |_, _| async {});
    advance(Duration::from_secs(1)).await;
    sleep(Duration::from_secs(3600)).await;
    let restarts = world.metric("vestibule_background_restarts_total{task=\"test\"}");
    // The pause is 15 s on average.
    assert!((150.0..400.0).contains(&restarts), "{restarts} in an hour");
    assert_eq!(world.metric("vestibule_background_panics_total{task=\"test\"}"), 0.0);
    world.stop().await;
}
