//! The status writer: it updates what `/status` shows.

use super::{
    DrainingGeneration, Status, erased,
    reload_record::{ReloadRecord, Trigger},
};
use crate::{
    application::{Application, Generation},
    exit::Exit,
    secrets::{credential::Name, fetch::ManagerStage},
};
use std::{collections::BTreeMap, sync::Arc};
use time::OffsetDateTime;
use tokio::sync::watch;

/// The writer of the status. Only the reload actor and the shutdown use it.
#[derive(Clone)]
pub(crate) struct StatusWriter(Arc<watch::Sender<Status>>);

impl StatusWriter {
    pub(crate) fn new(status: Status) -> Self {
        Self(Arc::new(watch::Sender::new(status)))
    }

    /// Returns a reader of the status.
    pub(crate) fn read(&self) -> watch::Receiver<Status> {
        self.0.subscribe()
    }

    /// Records that a reload starts, which covers this number of signals.
    pub(crate) fn reload_started(&self, signals_covered: u64) {
        self.0.send_modify(|status| status.signals.covered = signals_covered);
    }

    /// Records that this generation is in service, in place of `replaced`.
    pub(crate) fn published<A: Application>(
        &self,
        generation: &Arc<Generation<A>>,
        replaced: &Arc<Generation<A>>,
        seen: &BTreeMap<Name, ManagerStage>,
        needs_restart: Vec<&'static str>,
    ) {
        let now = OffsetDateTime::now_utc();
        self.0.send_modify(|status| {
            status.note_manager_stages(seen, now);
            status.set_generation(generation, now);
            status.needs_restart = needs_restart;
            status.draining.retain(DrainingGeneration::is_in_use);
            status.draining.push(DrainingGeneration {
                generation: replaced.number,
                since: now,
                weak: erased(replaced),
            });
        });
    }

    /// Records the stages that the manager gave in a reload that published nothing.
    pub(crate) fn manager_stages_seen(&self, seen: &BTreeMap<Name, ManagerStage>) {
        self.0.send_modify(|status| status.note_manager_stages(seen, OffsetDateTime::now_utc()));
    }

    /// Returns the faults of the last reload. There are none if it did not fail.
    pub(crate) fn last_faults(&self) -> Vec<(String, Exit)> {
        match &self.0.borrow().last_reload {
            Some(last) => last.faults.clone(),
            None => Vec::new(),
        }
    }

    /// Records that a reload ended.
    pub(crate) fn reload_ended(&self, reload: ReloadRecord) {
        self.0.send_modify(|status| {
            status.reload_counts.add(&reload);
            if reload.trigger == Trigger::Signal {
                status.signals.last_reload = Some(reload.clone());
            }
            status.last_reload = Some(reload);
        });
    }

    /// Records that the process is stopping.
    pub(crate) fn stopping(&self) {
        self.0.send_modify(|status| status.stopping = true);
    }
}
