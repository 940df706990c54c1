//! Generated sequences of events against a model of what may be in service: versions that are put and labels that move,
//! passwords that change, a manager and a database that do not answer, signals, requests, and time.
//!
//! The clock is that of tokio, and paused: it advances when nobody has anything to do. So a sequence takes milliseconds,
//! and the database is one in memory. A failure prints the seed, and the shortest sequence that fails. The same seed
//! makes the same sequences. Try others:
//!
//! ```text
//! PROPTEST_RNG_SEED=$RANDOM cargo test -p vestibule --lib sequence_of_events
//! PROPTEST_CASES=100000 cargo test -p vestibule --lib sequence_of_events      more sequences
//! ```

mod fake_database;
mod looks;
mod reads;
mod world;

use self::{
    fake_database::{FakeService, Health},
    world::{Which, World},
};
use super::ConfigReader;
use crate::{
    config::Config,
    exit::{Exit, Fault, Phase, Report},
    loader::{LoadScope, retry_class::RetryClass},
    resources::breaker::ProbeReason,
    secrets::version::Stage,
    status::reload_record::Trigger,
    testing::{Harness, MemoryManager, idle_service::IdleService},
};
use proptest::{
    collection::vec,
    prelude::{Just, Strategy, any},
    prop_oneof,
    test_runner::{Config as TestConfig, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner},
};
use std::{
    env, panic,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};
use tokio::runtime;
use tracing::{Level, Subscriber};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    util::SubscriberInitExt,
};

/// The seed of a run that names none. It is always the same, so that a change which lands has seen all of its sequences.
const DEFAULT_SEED: u64 = 1;

/// The value of a version that somebody puts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Good,
    /// A login of another user. A good value of any other credential.
    OfAnotherUser,
    Malformed,
    Empty,
}

/// A step of a sequence.
#[derive(Clone, Debug)]
enum Event {
    Rotate(Which, Value),
    PutPending(Which, Value),
    /// The pending version becomes the current one, as at the end of a rotation.
    Promote(Which),
    /// The previous version becomes the current one again.
    RollBack(Which),
    RemoveLabel(Which, Stage),
    /// The database accepts the password at this stage, or none that the manager has.
    ChangePassword(Option<Stage>),
    /// Both sides get a new password, as in a whole rotation.
    RotateBoth,
    Database(Health),
    Manager(Health),
    /// The manager denies access to this secret, or allows it again.
    Deny(Which, bool),
    /// `secrets.revoked` names the version at this stage. A signal reads it.
    Revoke(Which, Stage),
    /// A setting of the service changes. A signal reads it.
    Greet(u8),
    Signal,
    Request,
    Wait(Duration),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let which = || prop_oneof![Just(Which::Login), Just(Which::Keys)];
    let value = || {
        prop_oneof![6 => Just(Value::Good), 1 => Just(Value::OfAnotherUser), 1 => Just(Value::Malformed),
        1 => Just(Value::Empty)]
    };
    let stage = || prop_oneof![Just(Stage::Current), Just(Stage::Pending), Just(Stage::Previous)];
    let health = || {
        prop_oneof![3 => Just(Health::Up), 1 => Just(Health::Away), 1 => Just(Health::BlackHoled),
        1 => (1..4000_u64).prop_map(|ms| Health::Slow(Duration::from_millis(ms)))]
    };
    let event = prop_oneof![
        3 => (which(), value()).prop_map(|(which, value)| Event::Rotate(which, value)),
        3 => (which(), value()).prop_map(|(which, value)| Event::PutPending(which, value)),
        2 => which().prop_map(Event::Promote),
        1 => which().prop_map(Event::RollBack),
        1 => (which(), stage()).prop_map(|(which, stage)| Event::RemoveLabel(which, stage)),
        4 => proptest::option::weighted(0.9, stage()).prop_map(Event::ChangePassword),
        3 => Just(Event::RotateBoth),
        2 => health().prop_map(Event::Database),
        2 => health().prop_map(Event::Manager),
        1 => (which(), any::<bool>()).prop_map(|(which, denied)| Event::Deny(which, denied)),
        1 => (which(), stage()).prop_map(|(which, stage)| Event::Revoke(which, stage)),
        1 => any::<u8>().prop_map(Event::Greet),
        6 => Just(Event::Signal),
        8 => Just(Event::Request),
        4 => (1..3000_u64).prop_map(|ms| Event::Wait(Duration::from_millis(ms))),
        4 => (3..100_u64).prop_map(|seconds| Event::Wait(Duration::from_secs(seconds))),
    ];
    vec(event, 1..40)
}

/// Runs one sequence, and then mends everything and waits for the newest versions. Returns the first rule that is broken.
fn run(events: &[Event], jitter: u64, signals_at_end: bool) -> Result<(), String> {
    // The pauses between retries are random. The same seed makes the same ones.
    fastrand::seed(jitter);
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime without I/O").block_on(async {
        let mut world = World::start().await;
        for event in events {
            world.step(event).await?;
        }
        world.mend_and_wait(signals_at_end).await?;
        world.stop().await;
        Ok(())
    })
}

/// Reads a number of the run from the environment.
#[expect(clippy::disallowed_methods, reason = "a test has no configuration")]
fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().expect(variable))
}

#[test]
fn no_sequence_of_events_breaks_the_rules_of_the_model() {
    let seed = number("PROPTEST_RNG_SEED").unwrap_or(DEFAULT_SEED);
    let cases = number("PROPTEST_CASES").map_or(1000, |cases| u32::try_from(cases).expect("PROPTEST_CASES"));
    let config = TestConfig { cases, max_shrink_iters: 5000, ..TestConfig::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let sequences = (events(), any::<u64>(), any::<bool>());
    let result = runner.run(&sequences, |(events, jitter, signals_at_end)| {
        let result = panic::catch_unwind(|| run(&events, jitter, signals_at_end));
        result.unwrap_or_else(|_| Err("it panics".into())).map_err(TestCaseError::fail)
    });
    if let Err(TestError::Fail(reason, sequence)) = result {
        panic!("PROPTEST_RNG_SEED={seed}: {reason}\nthe shortest sequence that fails: {sequence:#?}");
    }
    assert!(result.is_ok(), "PROPTEST_RNG_SEED={seed}: {result:?}");
}

#[test]
fn a_malformed_key_does_not_keep_the_pending_login_from_standing_in() {
    let sequence = [
        Event::Rotate(Which::Keys, Value::Malformed),
        Event::PutPending(Which::Login, Value::Good),
        Event::ChangePassword(Some(Stage::Pending)),
        Event::Request,
    ];
    run(&sequence, 0, false).expect("the pending login replaces the rejected one");
}

#[tokio::test]
async fn a_configuration_whose_files_hang_holds_up_nobody_and_is_read_again() {
    let (volume, answers) = mpsc::sync_channel::<()>(1);
    let (answers, config) = (Mutex::new(answers), Arc::new(Config::default()));
    let read = config.clone();
    let reader = ConfigReader::<FakeService>::new(move || {
        // It ends when the sender is dropped.
        let _ = answers.lock().unwrap().recv();
        Ok(read.clone())
    });
    let error = reader.read(&config).await.expect_err("the files do not answer");
    assert_eq!((error.report.exit(), error.retry), (Exit::Config, RetryClass::Unreadable));
    drop(volume);
    assert!(reader.read(&config).await.is_ok_and(|read| Arc::ptr_eq(&read, &config)));
}

#[tokio::test(start_paused = true)]
async fn due_leases_do_not_begin_the_pauses_between_retries_anew() {
    let mut world = World::start().await;
    for event in [Event::ChangePassword(None), Event::Request, Event::Wait(Duration::from_secs(180))] {
        world.step(&event).await.expect("no rule is broken");
    }
    let retries = world.retries_beside_due_leases().await;
    assert!(retries < 60, "{retries} in a minute");
    world.stop().await;
}

/// Counts the errors in the log.
#[derive(Clone, Default)]
struct LoggedErrors(Arc<AtomicUsize>);

impl<S: Subscriber> Layer<S> for LoggedErrors {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() == Level::ERROR {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test]
async fn the_log_has_a_fault_once_while_it_is_retried() {
    let logged = LoggedErrors::default();
    // While there is one subscriber alone, a test of another thread that comes to the same line first turns it off for all.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _log = tracing_subscriber::registry().with(logged.clone()).set_default();
    let harness =
        Harness::<IdleService>::start(MemoryManager::new(), Config::default()).await.expect("it needs nothing");
    let in_service = harness.reloader.live.borrow().clone();
    let fault = Fault::new(Exit::Unavailable, "the secrets manager", "it does not answer", "wait");
    let away = Err(Report::of(Phase::Secrets, fault).into());
    for (trigger, errors) in [
        (Trigger::Lease, 1),
        (Trigger::Lease, 1),
        (Trigger::Retry, 1),
        (Trigger::RejectedLogin, 1),
        (Trigger::Signal, 2),
        (Trigger::Lease, 2),
        (Trigger::Poll, 3),
    ] {
        let scope = LoadScope::All;
        let reload = harness.reloader.reload(trigger, ProbeReason::Scheduled, scope, 0, &in_service, &away).await;
        reload.result.expect_err("the manager is away");
        assert_eq!(logged.0.load(Ordering::Relaxed), errors, "{trigger}");
    }
    harness.stop().await;
}
