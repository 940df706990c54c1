//! The status writer: it updates what `/status` shows.

use super::{
    ReloadAnswer, Status,
    draining::DrainingGeneration,
    metrics::StatusCollector,
    reload_metrics::ReloadMetrics,
    reload_record::{ReloadRecord, Trigger},
    rotation::LastRotation,
};
use crate::{
    application::{Application, Generation},
    exit::Exit,
    metrics::{Counter, MetricsRegistry},
    moment::Moment,
    secrets::{credential::Name, fetch::ManagerStage},
    telemetry::{Telemetry, live_secrets},
};
use prometheus_client::metrics::info::Info;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::watch;

/// The writer of the status. Only the reload actor, the readiness checks and the shutdown use it.
#[derive(Clone)]
pub(crate) struct StatusWriter {
    status: Arc<watch::Sender<Status>>,
    reloads: ReloadMetrics,
    /// The number of texts that were withheld, those of the log included.
    withheld: Counter,
}

/// A generation that is in service now, in place of `replaced`.
pub(crate) struct Publication<'a, A: Application> {
    pub(crate) generation: Arc<Generation<A>>,
    pub(crate) replaced: &'a Arc<Generation<A>>,
    /// The settings that changed, and that only a restart takes up.
    pub(crate) needs_restart: Vec<String>,
}

impl StatusWriter {
    /// Makes the writer of this status. Registers the metrics of the status and of reloads.
    pub(crate) fn new(status: Status, metrics: &MetricsRegistry, telemetry: &Telemetry) -> Self {
        let build = [
            ("service_name", status.service.to_owned()),
            ("service_version", status.version.to_owned()),
            ("service_instance_id", status.instance.to_string()),
        ];
        let help = "The service, and the id of the process as in /status";
        metrics.register("vestibule_build", help, Info::new(build));
        let status = watch::Sender::new(status);
        metrics.register_collector(StatusCollector(status.subscribe()));
        Self { status: Arc::new(status), reloads: ReloadMetrics::register(metrics), withheld: telemetry.withheld() }
    }

    /// Returns a reader of the status.
    pub(crate) fn read(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Records that a reload starts, which covers this number of signals.
    pub(crate) fn reload_started(&self, signals_covered: u64) {
        self.status.send_modify(|status| status.signals.covered = signals_covered);
    }

    /// Returns the generation that was replaced last.
    pub(crate) fn last_replaced(&self) -> Option<DrainingGeneration> {
        self.status.borrow().draining.last().cloned()
    }

    /// Returns the faults of the last reload. There are none if it did not fail.
    pub(crate) fn last_faults(&self) -> Vec<(String, Exit)> {
        match &self.status.borrow().last_reload {
            Some(last) => last.faults.clone(),
            None => Vec::new(),
        }
    }

    /// Returns what an operator who waits for the end of the last reload gets to know. `None` if there was none.
    pub(crate) fn reload_answer(&self) -> Option<ReloadAnswer> {
        let status = self.status.borrow().snapshot();
        let Status { instance, generation, last_reload, credentials, .. } = status;
        Some(ReloadAnswer { instance, generation, reload: last_reload?, credentials })
    }

    /// Withholds what a reload that ended says, if it contains a secret.
    pub(crate) fn withhold_secrets(&self, reload: &mut ReloadRecord) {
        let problems = reload.carried_over.iter_mut().map(|carried_over| &mut carried_over.problem);
        reload.error.iter_mut().chain(problems).for_each(|error| self.withhold_secret(error));
    }

    /// Withholds an error that contains a secret, and counts it as a line of the log. Its text may be of the service's own
    /// code, and the pages of the admin listener show it.
    fn withhold_secret(&self, error: &mut String) {
        if live_secrets::withhold(error) {
            self.withheld.inc();
        }
    }

    /// Records that a reload ended, which has seen these stages at the manager, and what it has published. All of it is one
    /// change: nobody sees a generation without the reload that has published it.
    pub(crate) fn reload_ended<A: Application>(
        &self,
        reload: ReloadRecord,
        seen: &BTreeMap<Name, ManagerStage>,
        publication: Option<Publication<'_, A>>,
    ) {
        self.reloads.add(&reload);
        let now = Moment::now();
        self.status.send_modify(|status| {
            status.note_manager_stages(seen, now);
            if let Some(Publication { generation, replaced, needs_restart }) = publication {
                status.set_generation(&generation, now);
                status.needs_restart = needs_restart;
                status.draining.retain(DrainingGeneration::is_in_use);
                status.draining.push(DrainingGeneration::new(replaced, &generation, now));
                status.rotation = Some(LastRotation {
                    generation: generation.number,
                    usage: generation.usage.clone(),
                    replaced: replaced.number,
                    before: replaced.usage.answers(),
                });
            }
            status.add_past_reload(&reload);
            if reload.trigger == Trigger::Signal {
                status.signals.last_reload = Some(reload.clone());
            }
            status.last_reload = Some(reload);
        });
    }

    /// Waits until the status shows this generation, or a later one.
    pub(crate) async fn until_shown(&self, generation: u64) {
        let mut status = self.read();
        status.wait_for(|status| status.generation >= generation).await.expect("this is a writer of it");
    }

    /// Records that a readiness check ended. Does nothing if the generation in service has no check of this name.
    pub(crate) fn check_ended(&self, name: &'static str, mut result: Result<(), String>) {
        if let Err(error) = &mut result {
            self.withhold_secret(error);
        }
        self.status.send_modify(|status| {
            if let Some(check) = status.readiness_checks.iter_mut().find(|check| check.name == name) {
                check.take(result, Moment::now());
            }
        });
    }

    /// Records that the process is stopping.
    pub(crate) fn stopping(&self) {
        self.status.send_modify(|status| status.stopping = true);
    }
}
