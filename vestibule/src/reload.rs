//! The reload actor: triggers in, one trip at a time, generations out.
//!
//! ```text
//! SIGHUP, poll ─► trip ─► published | unchanged | kept
//! ```

use crate::{
    config::{Config, Sources},
    exit::Report,
    generation::Generation,
    road::{Road, Trip},
    secrets::SecretSet,
    service::Service,
    status::{Board, Outcome, Reload, Trigger},
    systemd,
    telemetry::Telemetry,
};
use std::{sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// Walks the road again at each trigger. The only one who publishes.
pub(crate) struct Reloader<S: Service> {
    pub(crate) road: Road<S>,
    pub(crate) sources: Sources,
    pub(crate) telemetry: Telemetry,
    pub(crate) live: watch::Sender<Arc<Generation<S>>>,
    pub(crate) board: Board,
    /// What the process was started with: what only a restart can change is compared with this.
    pub(crate) started_with: Arc<Config<S::Settings>>,
}

impl<S: Service> Reloader<S> {
    /// Runs until `stopping`. `hups` counts the signals seen: any number during a trip costs one further trip, and one
    /// during bootstrap is not lost.
    pub(crate) async fn run(self, mut hups: watch::Receiver<u64>, stopping: CancellationToken) {
        let mut covered = 0;
        let mut poll = Poll::first(self.interval());
        loop {
            let trigger = tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                seen = hups.wait_for(|seen| *seen > covered) => {
                    let Ok(seen) = seen else { return };
                    covered = *seen;
                    Trigger::Signal
                }
                () = poll.due() => Trigger::Poll,
            };
            self.board.trip_started(covered);
            tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                () = self.trip(trigger, covered) => {}
            }
            poll = Poll::next(self.interval());
        }
    }

    fn interval(&self) -> Duration {
        self.live.borrow().config.secrets.refresh_every
    }

    async fn trip(&self, trigger: Trigger, signals_covered: u64) {
        let (started, clock) = (OffsetDateTime::now_utc(), Instant::now());
        systemd::reloading();
        let held = self.live.borrow().clone();
        let result = self.walk(trigger, &held).await;
        let (outcome, error, exit_code) = match &result {
            Ok(Trip::Built(_)) => (Outcome::Published, None, 0),
            Ok(Trip::Unchanged) => (Outcome::Unchanged, None, 0),
            Err(report) => Reload::kept_because(report),
        };
        let duration_ms = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        match result {
            Ok(Trip::Built(generation)) => self.publish(*generation, held),
            Ok(Trip::Unchanged) => self.board.verified(),
            Err(_) => {}
        }
        let generation = self.live.borrow().number;
        systemd::reloaded(generation, outcome);
        match &error {
            Some(error) => tracing::error!(
                reload.trigger = %trigger,
                reload.outcome = %outcome,
                reload.duration_ms = duration_ms,
                reload.exit_code = exit_code,
                generation,
                error,
                "the reload failed; the generation in service stays"
            ),
            None => tracing::info!(
                reload.trigger = %trigger,
                reload.outcome = %outcome,
                reload.duration_ms = duration_ms,
                generation,
                "the reload ended"
            ),
        }
        self.board.trip_ended(Reload { trigger, outcome, signals_covered, started, duration_ms, error, exit_code });
    }

    /// The same road as at the start. Only a signal reads the configuration again: a half-edited file must not keep
    /// another trigger from healing.
    async fn walk(&self, trigger: Trigger, held: &Arc<Generation<S>>) -> Result<Trip<S>, Report> {
        let config = match trigger {
            Trigger::Signal => {
                let config = Config::load(&self.sources, S::APP.name, &S::Secrets::wanted())
                    .map_err(|unusable| unusable.report)?;
                Arc::new(config)
            }
            Trigger::Poll => held.config.clone(),
        };
        let deadline = Instant::now() + config.secrets.deadline;
        self.road.walk(config, Some(held), deadline).await
    }

    fn publish(&self, generation: Generation<S>, retired: Arc<Generation<S>>) {
        let generation = Arc::new(generation);
        let needs_restart = generation.config.needs_restart(&self.started_with);
        if !needs_restart.is_empty() {
            tracing::warn!(
                config.keys = needs_restart.join(", "),
                "changed settings need a restart; everything else applies"
            );
        }
        self.telemetry.filter(&generation.config.telemetry.filter);
        // Before the new one is seen: it gets no connection that would stand beside an idle one of the old.
        retired.resources.retire(&generation.resources);
        self.live.send_replace(generation.clone());
        self.board.needs_restart(needs_restart);
        self.board.published(&generation, &retired);
    }
}

/// When the manager is asked without a signal. Replicas that started together drift apart.
struct Poll(Option<Instant>);

impl Poll {
    /// After a uniform part of the interval.
    fn first(interval: Duration) -> Self {
        Self::after(interval, fastrand::f64())
    }

    /// After the interval, give or take 10 %.
    fn next(interval: Duration) -> Self {
        Self::after(interval, 0.9 + 0.2 * fastrand::f64())
    }

    fn after(interval: Duration, part: f64) -> Self {
        Self((!interval.is_zero()).then(|| Instant::now() + interval.mul_f64(part)))
    }

    async fn due(&self) {
        match self.0 {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}
