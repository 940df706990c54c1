//! A fleet: what its starts and rotations cost the other sides. The replicas are those of the model in `benches/fleet`, which
//! `cargo bench --bench fleet` compares with processes.

#[path = "../../benches/fleet/model.rs"]
#[expect(dead_code, reason = "the benchmark uses the rest")]
mod model;

use self::model::{Outcome, Parameters, Scenario};
use std::time::Duration;

/// The calls of a load of the example: one for the login, and one for each stage of the signing keys.
const CALLS: usize = 4;

const FIFTY: Parameters =
    Parameters { replicas: 50, quota: None, spread: Duration::ZERO, refresh_every: Duration::from_secs(60), seed: 1 };

/// A quota that fifty replicas exceed as 10,000 replicas exceed that of AWS.
const THROTTLED: Parameters = Parameters { quota: Some(50), ..FIFTY };

/// Runs a scenario. Every replica must be ready, or hold the new version, at its end.
fn run(scenario: Scenario, parameters: Parameters) -> Outcome {
    let outcome = model::run(scenario, parameters);
    assert_eq!(outcome.failed, 0, "{outcome:?}");
    outcome
}

#[test]
fn a_replica_costs_one_load_and_one_log_in_per_start_and_per_rotation() {
    for (scenario, connections) in [(Scenario::Start, 50), (Scenario::Signal, 100)] {
        let outcome = run(scenario, FIFTY);
        assert_eq!((outcome.calls, outcome.throttled), (50 * CALLS, 0), "{outcome:?}");
        assert_eq!((outcome.log_ins, outcome.rejected, outcome.connections), (50, 0, connections), "{outcome:?}");
    }
}

#[test]
fn replicas_that_are_throttled_wait_and_neither_end_nor_call_without_end() {
    for scenario in [Scenario::Start, Scenario::Signal, Scenario::Crash] {
        let outcome = run(scenario, THROTTLED);
        assert!(outcome.throttled > 0, "{outcome:?}");
        assert!(outcome.calls < 8 * (outcome.calls - outcome.throttled), "{outcome:?}");
        assert!(outcome.last < Duration::from_secs(20), "{outcome:?}");
        assert_eq!(outcome.log_ins, 50, "{outcome:?}");
    }
}

#[test]
fn polls_are_spread_over_their_interval_although_all_replicas_start_together() {
    let parameters = Parameters { replicas: 200, refresh_every: Duration::from_secs(60), ..FIFTY };
    let outcome = run(Scenario::Poll, parameters);
    assert!(outcome.last < Duration::from_secs(67), "{outcome:?}");
    // 800 calls in a minute are 13 in a second.
    assert!(outcome.busiest_second < 60, "{outcome:?}");
    assert_eq!((outcome.log_ins, outcome.rejected), (200, 0), "{outcome:?}");
}

#[test]
fn a_login_that_is_rejected_everywhere_is_tried_once_per_replica_and_pause() {
    let outcome = run(Scenario::Rejected, FIFTY);
    // The window is 3 s long, and the pause is `secrets.probe_every`, 15 s: a replica has two at most until 27 s.
    assert!(outcome.last < Duration::from_secs(20), "{outcome:?}");
    assert!((50..=100).contains(&outcome.rejected), "{outcome:?}");
    assert_eq!(outcome.log_ins, 50, "{outcome:?}");
}

#[test]
fn the_model_does_the_same_again_with_the_same_seed() {
    let one = run(Scenario::Crash, THROTTLED);
    assert_eq!(one, run(Scenario::Crash, THROTTLED));
    assert_ne!(one, run(Scenario::Crash, Parameters { seed: 2, ..THROTTLED }));
}
