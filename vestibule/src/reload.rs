//! The reload actor: triggers in, one trip at a time, generations out.
//!
//! ```text
//! SIGHUP, refused login or key, unknown key, retry, poll ─► trip ─► published | unchanged | kept
//!                                             └──────────── while it may help ───────────────┘
//! ```

use crate::{
    backoff::Backoff,
    config::{Config, Sources},
    exit::{Exit, Fault, Report},
    generation::Generation,
    resources::Occasion,
    road::{Cause, End, Errand, Road, Stuck, Walked},
    secrets::{Name, SecretSet, Seen, VersionId},
    service::Service,
    status::{Board, CarriedOver, Outcome, Reload, Trigger},
    systemd,
    telemetry::Telemetry,
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Weak},
    time::Duration,
};
use time::OffsetDateTime;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// How long trips follow one that met a refused login. AWS documents about a minute between the change in the database
/// and the move of the label.
const WINDOW: Duration = Duration::from_secs(75);

/// The longest pause between trips while the manager or the database does not answer.
const AWAY: Duration = Duration::from_secs(60);

/// How long a generation may be held after it was replaced before the log says so.
const LONG_HELD: Duration = Duration::from_secs(60);

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
    pub(crate) async fn run(self, hups: watch::Receiver<u64>, stopping: CancellationToken) {
        let bell = self.road.bell.clone();
        self.act(hups, stopping).await;
        bell.silence();
    }

    async fn act(self, mut hups: watch::Receiver<u64>, stopping: CancellationToken) {
        let bell = self.road.bell.clone();
        let mut covered = 0;
        let mut poll = Poll::first(self.interval());
        let mut retries = Retries { in_service: None, wish: None };
        let mut replaced = Replaced(VecDeque::new());
        loop {
            let (trigger, occasion) = tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                seen = hups.wait_for(|seen| *seen > covered) => {
                    let Ok(seen) = seen else { return };
                    covered = *seen;
                    (Trigger::Signal, Occasion::Asked)
                }
                news = bell.hear_refused() => {
                    (Trigger::RefusedLogin, if news { Occasion::News } else { Occasion::Routine })
                }
                keys = bell.hear_refused_keys() => match keys.iter().any(|key| self.holds(key)) {
                    true => (Trigger::RefusedKey, Occasion::Routine),
                    // The trip that was under way has brought what this one would: nobody waits for more.
                    false => { bell.trip(true); bell.trip(false); continue }
                },
                () = bell.hear_unknown_key() => (Trigger::UnknownKey, Occasion::Routine),
                () = due(retries.next()) => (Trigger::Retry, Occasion::Routine),
                () = due(poll.0) => (Trigger::Poll, Occasion::Routine),
                () = due(replaced.next()) => { replaced.tell(); continue }
            };
            let held = self.live.borrow().clone();
            // It was the version of an older generation, or is accepted again.
            if trigger == Trigger::RefusedLogin && held.resources.refusals().is_empty() {
                continue;
            }
            self.board.trip_started(covered);
            bell.trip(true);
            let config = match trigger {
                Trigger::Signal => self.configuration(&held.config),
                Trigger::Retry => Ok(retries.wish().unwrap_or_else(|| held.config.clone())),
                _ => Ok(held.config.clone()),
            };
            let kept = tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                kept = self.trip(trigger, occasion, covered, &held, &config) => kept,
            };
            bell.trip(false);
            let in_service = self.live.borrow().clone();
            replaced.note(&held, &in_service);
            if let Ok(config) = config {
                if Arc::ptr_eq(&config, &in_service.config) {
                    poll = Poll::next(self.interval());
                }
                retries.note(trigger, config, kept, &in_service.config);
            }
        }
    }

    fn holds(&self, (name, version): (&Name, &VersionId)) -> bool {
        self.live.borrow().keyring.named(name).is_some_and(|held| held.in_use() == version)
    }

    fn interval(&self) -> Duration {
        self.live.borrow().config.secrets.refresh_every
    }

    /// Read again. Only for a signal: a half-edited file must not keep another trigger from healing.
    fn configuration(&self, held: &Arc<Config<S::Settings>>) -> Result<Arc<Config<S::Settings>>, Report> {
        let config = Config::load(&self.sources, S::APP.name, &S::Secrets::wanted());
        let config = config.map_err(|unusable| unusable.report)?;
        Ok(if config.tree() == held.tree() { held.clone() } else { Arc::new(config) })
    }

    /// Walks the road once, publishes what it brings, and tells what came of it. Returns why not all was published.
    async fn trip(
        &self,
        trigger: Trigger,
        occasion: Occasion,
        signals_covered: u64,
        held: &Arc<Generation<S>>,
        config: &Result<Arc<Config<S::Settings>>, Report>,
    ) -> Option<Cause> {
        let (started, clock) = (OffsetDateTime::now_utc(), Instant::now());
        systemd::reloading();
        let Walked { seen, end } = match config {
            Ok(config) => {
                let deadline = Instant::now() + config.secrets.deadline;
                self.road.walk(Errand { config: config.clone(), held: Some(held), deadline, occasion }).await
            }
            Err(report) => Walked { seen: BTreeMap::new(), end: Err(report.clone().into()) },
        };
        let mut reload = Reload::new(trigger, signals_covered, started);
        let mut kept = None;
        match end {
            Ok(End::Built { generation, carried_over }) => {
                reload.outcome = Outcome::Published;
                // What only did not answer in time is asked for again.
                let away = |(_, fault): &(Name, Fault)| matches!(fault.exit, Exit::Unavailable | Exit::Deadline);
                kept = carried_over.iter().any(away).then_some(Cause::Away);
                reload.carried_over = carried_over.into_iter().map(Into::into).collect();
                self.publish(*generation, held, &seen);
            }
            Ok(End::Unchanged) => {
                reload.outcome = Outcome::Unchanged;
                self.board.seen(&seen);
            }
            Err(Stuck { report, cause }) => {
                (reload.error, reload.exit_code) = (Some(report.to_string()), report.exit() as u8);
                self.board.seen(&seen);
                kept = Some(cause);
            }
        }
        reload.duration_ms = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.tell(reload);
        kept
    }

    fn publish(&self, generation: Generation<S>, replaced: &Arc<Generation<S>>, seen: &BTreeMap<Name, Seen>) {
        let generation = Arc::new(generation);
        let needs_restart = generation.config.needs_restart(&self.started_with);
        if !needs_restart.is_empty() {
            tracing::warn!(
                config.keys = needs_restart.join(", "),
                "changed settings need a restart; everything else applies"
            );
        }
        self.telemetry.filter(&generation.config.telemetry.filter);
        generation.succeed(replaced, &self.live);
        self.board.published(&generation, replaced, seen, needs_restart);
    }

    /// To the log, systemd and the status. What is tried again by itself and fails as before is no news for the log.
    fn tell(&self, reload: Reload) {
        let generation = self.live.borrow().number;
        systemd::reloaded(generation, reload.outcome);
        let by_itself = matches!(reload.trigger, Trigger::Retry | Trigger::RefusedLogin | Trigger::RefusedKey);
        let Reload { trigger, outcome, duration_ms, exit_code, .. } = reload;
        match &reload.error {
            Some(error) if by_itself && self.board.last_error().as_ref() == Some(error) => {
                tracing::debug!(reload.trigger = %trigger, generation, "the reload failed as the one before it");
            }
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
        for CarriedOver { credential, problem } in &reload.carried_over {
            tracing::warn!(credential, problem, "a credential could not be had, and was left at the version held");
        }
        self.board.trip_ended(reload);
    }
}

/// Trips that follow others that were kept, while that may help.
struct Retries<C> {
    /// With the configuration in service.
    in_service: Option<Retry>,
    /// With one that a signal brought, and that could not be put in service yet.
    wish: Option<(Retry, Arc<C>)>,
}

impl<C> Retries<C> {
    fn next(&self) -> Option<Instant> {
        let wish = self.wish.as_ref().map(|(retry, _)| retry.at);
        self.in_service.iter().map(|retry| retry.at).chain(wish).min()
    }

    /// The configuration of the next one, if it is not the one in service.
    fn wish(&self) -> Option<Arc<C>> {
        self.wish.as_ref().filter(|(retry, _)| Some(retry.at) == self.next()).map(|(_, config)| config.clone())
    }

    /// What follows a trip with this configuration.
    fn note(&mut self, trigger: Trigger, config: Arc<C>, kept: Option<Cause>, in_service: &Arc<C>) {
        let next = |before: Option<Retry>| Retry::after(kept?, before.filter(|_| trigger == Trigger::Retry));
        if Arc::ptr_eq(&config, in_service) {
            self.in_service = next(self.in_service.take());
            self.wish.take_if(|(_, wish)| trigger == Trigger::Signal || Arc::ptr_eq(wish, in_service));
        } else {
            self.wish = next(self.wish.take().map(|(retry, _)| retry)).map(|retry| (retry, config));
        }
    }
}

struct Retry {
    cause: Cause,
    at: Instant,
    pauses: Backoff,
}

impl Retry {
    fn after(cause: Cause, before: Option<Self>) -> Option<Self> {
        let mut pauses = match (before, cause) {
            (Some(before), _) if before.cause == cause => before.pauses,
            (_, Cause::Refused) => Backoff::until(Instant::now() + WINDOW),
            (_, Cause::Away) => Backoff::capped_at(AWAY),
            (_, Cause::Fault) => return None,
        };
        Some(Self { cause, at: pauses.next()?, pauses })
    }
}

/// Generations that were replaced, each until the log has said that it is held for long, or it is not.
struct Replaced<S: Service>(VecDeque<(Instant, Weak<Generation<S>>)>);

impl<S: Service> Replaced<S> {
    fn note(&mut self, held: &Arc<Generation<S>>, in_service: &Arc<Generation<S>>) {
        if !Arc::ptr_eq(held, in_service) {
            self.0.push_back((Instant::now() + LONG_HELD, Arc::downgrade(held)));
        }
    }

    fn next(&self) -> Option<Instant> {
        self.0.front().map(|(at, _)| *at)
    }

    fn tell(&mut self) {
        if let Some(generation) = self.0.pop_front().and_then(|(_, generation)| generation.upgrade()) {
            tracing::warn!(
                generation = generation.number,
                generation.holders = Arc::strong_count(&generation) - 1,
                "a generation is still held a minute after it was replaced: by requests in flight, or by tasks that \
                 have not turned to the successor"
            );
        }
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
}

/// Waits until then, or for ever.
async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
