//! The scenarios with processes. They are those of the model, with SIGHUP, SIGKILL, PostgreSQL and the emulator.

use crate::{
    model::{Outcome, Scenario, WINDOW},
    processes::{Counting, Fleet},
};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The time before each scenario in which nothing happens: connections that were replaced close.
const CALM: Duration = Duration::from_secs(3);

/// The result of a scenario with processes.
pub(crate) struct Measured {
    pub(crate) scenario: &'static str,
    pub(crate) quota: Option<u32>,
    pub(crate) outcome: Outcome,
    /// The time from the first call of the manager to the last one.
    pub(crate) span: Duration,
    /// The requests that failed, if there were any clients.
    pub(crate) failed_requests: Option<usize>,
}

/// Starts a fleet that does not poll, or polls at this interval.
pub(crate) async fn start(replicas: usize, quota: Option<u32>, refresh_every: Duration) -> (Fleet, Measured) {
    let refresh_every = format!("{}s", refresh_every.as_secs());
    let settings = [("APP_SECRETS__REFRESH_EVERY", &*refresh_every), ("APP_ADMIN__RELOAD", "signed")];
    let mut fleet = Fleet::prepare(settings).await;
    let counting = fleet.begin(quota).await;
    let times = fleet.start(replicas).await;
    let (outcome, span) = fleet.end(counting, &times).await;
    (fleet, Measured { scenario: Scenario::Start.name(), quota, outcome, span, failed_requests: None })
}

/// Rotates the password in one of the ways.
pub(crate) async fn rotate(fleet: &Fleet, scenario: Scenario, quota: Option<u32>) -> Measured {
    let replicas = fleet.replicas();
    let killed = if scenario == Scenario::Crash { 0..replicas / 2 } else { 0..0 };
    let living = killed.end..replicas;
    let counting = calm_down(fleet, quota).await;
    let holding = async {
        let password = fleet.set_password().await;
        if scenario == Scenario::Rejected {
            fleet.kill_connections().await;
        }
        fleet.replace(killed);
        if scenario.has_window() {
            sleep(WINDOW).await;
        }
        let (version, known) = (fleet.put_password(&password).await, Instant::now());
        if matches!(scenario, Scenario::Signal | Scenario::Crash) {
            fleet.signal(living.clone());
        }
        fleet.hold(&version, known).await
    };
    let (failed, times) = fleet.with_requests(living.clone(), holding).await;
    let (outcome, span) = fleet.end(counting, &times).await;
    Measured { scenario: scenario.name(), quota, outcome, span, failed_requests: Some(failed) }
}

/// Rotates the password, and runs `reload --fleet`.
pub(crate) async fn reload_in_waves(fleet: &Fleet, quota: Option<u32>) -> Measured {
    let counting = calm_down(fleet, quota).await;
    let holding = async {
        let password = fleet.set_password().await;
        let (version, known) = (fleet.put_password(&password).await, Instant::now());
        let reloading = async {
            let (code, last_line) = fleet.reload_all().await;
            println!("reload --fleet ended with {code:?} after {:?}: {last_line}", known.elapsed());
        };
        tokio::join!(fleet.hold(&version, known), reloading).0
    };
    let (failed, times) = fleet.with_requests(0..fleet.replicas(), holding).await;
    let (outcome, span) = fleet.end(counting, &times).await;
    Measured { scenario: "rotated, `reload --fleet`", quota, outcome, span, failed_requests: Some(failed) }
}

/// Waits until nothing is left of the scenario before, and each replica has a connection in use. Begins to count then.
async fn calm_down(fleet: &Fleet, quota: Option<u32>) -> Counting {
    sleep(CALM).await;
    fleet.with_requests(0..fleet.replicas(), sleep(Duration::from_secs(1))).await;
    fleet.begin(quota).await
}
