//! The reload actor: it takes triggers, runs one reload at a time, and publishes generations.
//!
//! ```text
//! SIGHUP, operator, rejected login or key, unknown key, due lease, retry, poll ─► reload ─► published | unchanged | kept
//!                                                        └──────────── while it may help ─────────────────┘
//! ```

mod poll;
mod replaced;
mod retries;

use self::{
    poll::Poll,
    replaced::ReplacedGenerations,
    retries::{Retries, RetryWith},
};
use crate::{
    application::{Application, Generation},
    blocking_reads::BlockingReads,
    caught::caught,
    config::Config,
    exit::{Phase, Report},
    loader::{
        FinishedLoad, LoadOutcome, LoadRequest, LoadScope, Loader, Unrefreshed, load_error::LoadError, panicked,
        retry_class::RetryClass,
    },
    moment::Moment,
    reload_requests::{ReloadRequest, WaitingOperator},
    resources::breaker::ProbeReason,
    secrets::{credential::Name, id::VersionId},
    status::{
        reload_record::{CarriedOver, ReloadOutcome, ReloadRecord, Trigger},
        writer::{Publication, StatusWriter},
    },
    systemd::SystemdNotifier,
    telemetry::Telemetry,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// The configuration of a reload, or the error of one that cannot be used.
pub(crate) type ConfigOrError<A> = Result<Arc<Config<<A as Application>::Settings>>, LoadError>;

/// Reads the configuration again, for a signal.
pub(crate) struct ConfigReader<A: Application> {
    read: Arc<dyn Fn() -> ConfigOrError<A> + Send + Sync>,
    reads: BlockingReads,
}

impl<A: Application> ConfigReader<A> {
    pub(crate) fn new(read: impl Fn() -> ConfigOrError<A> + Send + Sync + 'static) -> Self {
        Self { read: Arc::new(read), reads: BlockingReads::default() }
    }

    /// Reads the configuration. The error is transient if its files do not answer in time: no other trigger may wait for them.
    pub(crate) async fn read(&self, in_service: &Arc<Config<A::Settings>>) -> ConfigOrError<A> {
        let (read, in_service) = (self.read.clone(), in_service.clone());
        let read_and_compare = move || {
            let config = read()?;
            // The same `Arc` tells everybody that no setting changed.
            let is_same = Arc::ptr_eq(&config, &in_service) || config.tree() == in_service.tree();
            Ok(if is_same { in_service } else { config })
        };
        // The service's own code reads and writes its settings. A panic there must not end the reload actor.
        match self.reads.run(move || caught(read_and_compare)).await {
            Some(Some(config)) => config,
            Some(None) => Err(Report::of(Phase::Config, panicked()).into()),
            None => Err(LoadError::of_silent_files()),
        }
    }
}

/// The reload actor. It loads at each trigger, and nobody else publishes.
pub(crate) struct Reloader<A: Application> {
    pub(crate) loader: Loader<A>,
    pub(crate) config_reader: ConfigReader<A>,
    pub(crate) telemetry: Telemetry,
    pub(crate) live: watch::Sender<Arc<Generation<A>>>,
    pub(crate) status: StatusWriter,
    pub(crate) systemd: SystemdNotifier,
    /// The configuration that the process was started with. Settings that only a restart takes up are compared with it.
    pub(crate) started_with: Arc<Config<A::Settings>>,
}

/// The state of the actor between two reloads.
struct ActorState<A: Application> {
    /// The number of signals that were taken.
    signals_covered: u64,
    /// The operators who wait for the reload that is next, or under way.
    operators: Vec<WaitingOperator>,
    poll: Poll,
    retries: Retries<Config<A::Settings>>,
    replaced: ReplacedGenerations,
}

/// A reload that has ended.
pub(crate) struct FinishedReload {
    /// `true` if a new generation is in service, `false` if nothing changed, or the report of a reload that failed.
    pub(crate) result: Result<bool, Report>,
    /// The class of the retry, if one may help: the reload failed, or it published with a credential that could not be
    /// fetched.
    retry: Option<RetryClass>,
}

/// An event that the actor waits for.
enum ActorEvent {
    Stop,
    Reload(DueReload),
    /// Another service rejects keys, but none of them is in service any more.
    OutdatedKeys,
    /// It is time to look at a generation that was replaced.
    LookAtReplaced,
}

/// A reload that is due.
struct DueReload {
    trigger: Trigger,
    probe_reason: ProbeReason,
    novelty: Novelty,
}

/// The novelty of a reload's cause.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Novelty {
    /// Something has changed, so the pauses begin anew.
    Change,
    /// Nothing is known to be new. The reload goes on with the pauses.
    None,
    /// The cause is that of a reload before it. It goes on with the pauses, and looks for what that one lacked.
    SameCause,
}

impl DueReload {
    fn by(trigger: Trigger, probe_reason: ProbeReason) -> ActorEvent {
        ActorEvent::Reload(Self { trigger, probe_reason, novelty: Novelty::Change })
    }

    fn without_news(trigger: Trigger) -> ActorEvent {
        ActorEvent::Reload(Self { trigger, probe_reason: ProbeReason::Scheduled, novelty: Novelty::None })
    }

    fn repeated(trigger: Trigger) -> ActorEvent {
        ActorEvent::Reload(Self { trigger, probe_reason: ProbeReason::Scheduled, novelty: Novelty::SameCause })
    }
}

impl<A: Application> Reloader<A> {
    /// Runs until `stopping` is cancelled. `hups` counts the signals. Any number of signals during a reload costs one
    /// further reload, and a signal during the start is not lost.
    pub(crate) async fn run(&self, hups: watch::Receiver<u64>, stopping: CancellationToken) {
        self.act(hups, &stopping).await;
        self.loader.reload_requests.close();
    }

    async fn act(&self, mut hups: watch::Receiver<u64>, stopping: &CancellationToken) {
        let requests = &self.loader.reload_requests;
        let mut state = ActorState {
            signals_covered: 0,
            operators: Vec::new(),
            poll: Poll::first(self.interval()),
            retries: Retries::new(),
            replaced: ReplacedGenerations::default(),
        };
        loop {
            let DueReload { trigger, probe_reason, novelty } =
                match self.next_event(&mut state, &mut hups, stopping).await {
                    ActorEvent::Stop => return,
                    ActorEvent::LookAtReplaced => {
                        state.replaced.warn_if_held();
                        continue;
                    }
                    ActorEvent::OutdatedKeys => {
                        // A reload has already brought the successors, so end the waits of those who reported the keys.
                        requests.reload_started();
                        requests.reload_ended();
                        continue;
                    }
                    ActorEvent::Reload(due) => due,
                };
            let is_repeated = novelty != Novelty::Change;
            let in_service = self.live.borrow().clone();
            // The login was of an older generation, or is accepted again.
            if trigger == Trigger::RejectedLogin && in_service.resources.rejections().is_empty() {
                continue;
            }
            self.status.reload_started(state.signals_covered);
            requests.reload_started();
            let (was_read, config) = tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                read = self.config_for(trigger, &state.retries, &in_service) => read,
            };
            let scope = match &config {
                Ok(config) if novelty == Novelty::SameCause && !was_read && Arc::ptr_eq(config, &in_service.config) => {
                    state.retries.scope_of_repeated()
                }
                _ => LoadScope::All,
            };
            let retry = tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                reload = self.reload(trigger, probe_reason, scope, state.signals_covered, &in_service, &config) => {
                    reload.retry
                }
            };
            requests.reload_ended();
            self.answer(&mut state.operators);
            match config {
                Ok(config) => {
                    // A look for a successor does not verify the other credentials, so the poll must.
                    if scope == LoadScope::All && Arc::ptr_eq(&config, &self.live.borrow().config) {
                        state.poll = Poll::next(self.interval());
                    }
                    self.schedule(&mut state, is_repeated, was_read, config, retry, &in_service);
                }
                // A signal takes back what an earlier one brought, also if the configuration cannot be read now.
                Err(error) => state.retries.schedule_unread(is_repeated, error.retry),
            }
        }
    }

    /// Waits for the next event.
    async fn next_event(
        &self,
        state: &mut ActorState<A>,
        hups: &mut watch::Receiver<u64>,
        stopping: &CancellationToken,
    ) -> ActorEvent {
        tokio::select! {
            biased;
            () = stopping.cancelled() => ActorEvent::Stop,
            signals = hups.wait_for(|count| *count > state.signals_covered) => match signals {
                Ok(count) => {
                    state.signals_covered = *count;
                    DueReload::by(Trigger::Signal, ProbeReason::Operator)
                }
                Err(_) => ActorEvent::Stop,
            },
            request = self.loader.reload_requests.next() => self.event_for(request, &mut state.operators),
            () = sleep_until(state.retries.next()) => DueReload::repeated(Trigger::Retry),
            () = sleep_until(state.poll.0) => DueReload::without_news(Trigger::Poll),
            () = sleep_until(state.replaced.next()) => ActorEvent::LookAtReplaced,
        }
    }

    fn event_for(&self, request: ReloadRequest, waiting: &mut Vec<WaitingOperator>) -> ActorEvent {
        match request {
            ReloadRequest::ByOperators(operators) => {
                *waiting = operators;
                DueReload::by(Trigger::Fleet, ProbeReason::Operator)
            }
            ReloadRequest::RejectedLogin { newly: true } => {
                DueReload::by(Trigger::RejectedLogin, ProbeReason::CurrentRejected)
            }
            ReloadRequest::RejectedLogin { newly: false } => DueReload::repeated(Trigger::RejectedLogin),
            ReloadRequest::RejectedKeys(keys) if !self.holds_any(&keys.versions) => ActorEvent::OutdatedKeys,
            ReloadRequest::RejectedKeys(keys) if keys.newly => {
                DueReload::by(Trigger::RejectedKey, ProbeReason::Scheduled)
            }
            ReloadRequest::RejectedKeys(_) => DueReload::repeated(Trigger::RejectedKey),
            ReloadRequest::DueLease => DueReload::without_news(Trigger::Lease),
            ReloadRequest::UnknownKey => DueReload::without_news(Trigger::UnknownKey),
        }
    }

    /// Tells the operators who have waited for it how the last reload ended.
    fn answer(&self, operators: &mut Vec<WaitingOperator>) {
        for operator in operators.drain(..) {
            if let Some(answer) = self.status.reload_answer() {
                // The operator may have gone away.
                let _ = operator.send(answer);
            }
        }
    }

    fn holds_any(&self, keys: &BTreeMap<Name, VersionId>) -> bool {
        let in_service = self.live.borrow();
        keys.iter()
            .any(|(name, version)| in_service.credentials.named(name).is_some_and(|held| held.in_use() == version))
    }

    fn interval(&self) -> Duration {
        self.live.borrow().config.secrets.refresh_every
    }

    /// Returns the configuration for a reload, and `true` if it was read. Only a signal or an operator has it read, and the
    /// retry of one of these whose files could not be read: a half-edited file must not keep another trigger from mending
    /// the service.
    async fn config_for(
        &self,
        trigger: Trigger,
        retries: &Retries<Config<A::Settings>>,
        in_service: &Generation<A>,
    ) -> (bool, ConfigOrError<A>) {
        let retry_with = match trigger {
            Trigger::Signal | Trigger::Fleet => RetryWith::ReadAgain,
            Trigger::Retry => retries.next_config(),
            _ => RetryWith::InService,
        };
        match retry_with {
            RetryWith::ReadAgain => (true, self.config_reader.read(&in_service.config).await),
            RetryWith::Unpublished(config) => (false, Ok(config)),
            RetryWith::InService => (false, Ok(in_service.config.clone())),
        }
    }

    /// Reloads once: loads, publishes if there is something new, and reports the outcome.
    pub(crate) async fn reload(
        &self,
        trigger: Trigger,
        probe_reason: ProbeReason,
        scope: LoadScope,
        signals_covered: u64,
        in_service: &Arc<Generation<A>>,
        config: &ConfigOrError<A>,
    ) -> FinishedReload {
        let started = Moment::now();
        self.systemd.reloading();
        // Those that were tried are held until the record is written: an error may quote one.
        let FinishedLoad { tried: _tried, seen, result } = match config {
            Ok(config) => {
                let deadline = Instant::now() + config.secrets.deadline;
                let request =
                    LoadRequest { config: config.clone(), in_service: Some(in_service), deadline, probe_reason, scope };
                self.loader.load(request).await
            }
            Err(error) => FinishedLoad { tried: Vec::new(), seen: BTreeMap::new(), result: Err(error.clone()) },
        };
        let mut record = ReloadRecord::new(trigger, signals_covered, started);
        let mut publication = None;
        let reload = match result {
            Ok(LoadOutcome::Built { generation, carried_over }) => {
                let retry = Unrefreshed::retry_of(&carried_over);
                record.outcome = ReloadOutcome::Published;
                record.exit_code = exit_code_of(&carried_over);
                record.carried_over = carried_over.into_iter().map(Into::into).collect();
                publication = Some(self.publish(*generation, in_service));
                FinishedReload { result: Ok(true), retry }
            }
            Ok(LoadOutcome::Unchanged) => {
                record.outcome = ReloadOutcome::Unchanged;
                FinishedReload { result: Ok(false), retry: None }
            }
            Err(LoadError { report, retry, .. }) => {
                (record.error, record.exit_code) = (Some(report.to_string()), report.exit() as u8);
                record.faults = report.faults().iter().map(|fault| (fault.subject.clone(), fault.exit)).collect();
                FinishedReload { result: Err(report), retry: Some(retry) }
            }
        };
        record.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.status.withhold_secrets(&mut record);
        self.report(&record);
        self.status.reload_ended(record, &seen, publication);
        reload
    }

    fn publish<'a>(&self, generation: Generation<A>, replaced: &'a Arc<Generation<A>>) -> Publication<'a, A> {
        let generation = Arc::new(generation);
        // The service's own code writes its settings.
        let needs_restart = caught(|| generation.config.needs_restart(&self.started_with)).unwrap_or_default();
        if !needs_restart.is_empty() {
            tracing::warn!(
                config.keys = needs_restart.join(", "),
                "changed settings need a restart; everything else applies"
            );
        }
        let filter = &generation.config.telemetry.filter;
        if *filter != replaced.config.telemetry.filter {
            self.telemetry.set_filter(filter);
        }
        generation.replace(replaced, &self.live, &self.loader.tracer);
        Publication { generation, replaced, needs_restart }
    }

    /// Reports a reload to systemd and the log. Retries, rejections and due leases may trigger reloads that fail in the
    /// same way again and again, so the log has only the first one as an error, and the repeats at the level debug.
    fn report(&self, record: &ReloadRecord) {
        let generation = self.live.borrow().number;
        self.systemd.reloaded(generation, record.outcome);
        let may_repeat = match record.trigger {
            Trigger::Retry | Trigger::RejectedLogin | Trigger::RejectedKey | Trigger::Lease => true,
            Trigger::Signal | Trigger::Fleet | Trigger::Poll | Trigger::UnknownKey => false,
        };
        let &ReloadRecord { trigger, outcome, duration_ms, exit_code, .. } = record;
        match &record.error {
            Some(_) if may_repeat && self.status.last_faults() == record.faults => {
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
        for CarriedOver { credential, problem } in &record.carried_over {
            tracing::warn!(credential, problem, "could not refresh a credential; keeping the version held");
        }
    }

    /// Schedules the retries, and a look at what was replaced.
    fn schedule(
        &self,
        state: &mut ActorState<A>,
        is_repeated: bool,
        was_read: bool,
        config: Arc<Config<A::Settings>>,
        retry: Option<RetryClass>,
        before: &Arc<Generation<A>>,
    ) {
        let in_service = self.live.borrow().clone();
        if !Arc::ptr_eq(before, &in_service)
            && let Some(replaced) = self.status.last_replaced()
        {
            state.replaced.add(replaced);
        }
        state.retries.schedule(is_repeated, was_read, config, retry, &in_service.config);
        if !state.retries.has_unpublished() {
            self.loader.forget_candidates_beside(&in_service.config);
        }
    }
}

/// Returns the exit code of a reload that published: 0, unless a credential that must be replaced stays as held.
fn exit_code_of(carried_over: &[Unrefreshed]) -> u8 {
    let mut faults = Vec::new();
    for stays in carried_over {
        if stays.must_be_replaced {
            faults.push(stays.fault.clone());
        }
    }
    match Report::unless_clean(Phase::Build, faults) {
        Ok(()) => 0,
        Err(report) => report.exit() as u8,
    }
}

/// Sleeps until then, or for ever.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
