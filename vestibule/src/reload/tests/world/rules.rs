//! The rules that hold at any time, whatever happens.

use super::{LONGEST_LOAD, Publication, Which, World};
use crate::{secrets::id::VersionId, status::reload_record::Trigger};
use std::{mem, time::Duration};
use tokio::time::{Instant, sleep};

impl World {
    /// Lets the service act, and checks the rules that hold at any time.
    pub(super) async fn check(&mut self) -> Result<(), String> {
        sleep(Duration::from_millis(10)).await;
        self.note_faults();
        let publications = mem::take(&mut *self.publications.lock().unwrap());
        for publication in publications {
            self.check_publication(&publication)
                .map_err(|broken| format!("generation {}: {broken}", publication.number))?;
            self.last = publication;
        }
        if self.harness.live().generation().number != self.last.number {
            return Err("a generation was published that nobody saw".into());
        }
        self.check_log_ins()
    }

    fn check_publication(&self, publication: &Publication) -> Result<(), String> {
        if publication.number != self.last.number + 1 {
            return Err(format!("it follows {}", self.last.number));
        }
        let start = publication.at - publication.duration;
        for which in Which::ALL {
            let (secret, version) = (&self.secrets[&which], &publication.in_use[&which]);
            let is_new = *version != self.last.in_use[&which];
            let is_carried_over = publication.carried_over.contains(which.name());
            if is_new && is_carried_over {
                return Err(format!("{which:?} is new, and named as carried over"));
            }
            // A retry may look for the successor of the login alone.
            let is_left_alone = publication.trigger == Some(Trigger::Retry)
                && which != Which::Login
                && !is_new
                && self.was_login_rejected(publication);
            if !is_carried_over && !is_left_alone && !secret.had_label(version, which.stages(), start) {
                return Err(format!("{which:?} is {version}, which is neither current nor pending"));
            }
            if is_new && !secret.is_well_formed(version) {
                return Err(format!("{which:?} is {version}, which is malformed"));
            }
            if is_new && publication.revoked.contains(version) {
                return Err(format!("{which:?} is {version}, which is revoked"));
            }
            if is_new && which == Which::Login && !self.was_accepted(version, start) {
                return Err(format!("the login is {version}, which was not proven"));
            }
        }
        self.check_carried_over(publication)
    }

    /// Checks the two rules for a reload: a credential with a fault stays as held only while another one is replaced that
    /// must be.
    fn check_carried_over(&self, publication: &Publication) -> Result<(), String> {
        let was_rejected = self.was_login_rejected(publication);
        let must_be_replaced = |which: Which| {
            let is_revoked = !publication.revoked.is_disjoint(&self.last.fetched[&which]);
            is_revoked || (which == Which::Login && was_rejected)
        };
        let is_new = |which: &Which| {
            let last = &self.last;
            publication.fetched[which] != last.fetched[which] || publication.in_use[which] != last.in_use[which]
        };
        let is_any_replaced = Which::ALL.iter().any(|which| must_be_replaced(*which) && is_new(which));
        for name in &publication.carried_over {
            let is_still_rejected = *name == Which::Login.name() && was_rejected;
            if !is_still_rejected && !is_any_replaced {
                return Err(format!("{name} stays as held, and nothing was replaced that must be"));
            }
        }
        Ok(())
    }

    /// Returns true if the login that this publication replaced or kept was rejected. The load may have seen a rejection that
    /// is over by now.
    fn was_login_rejected(&self, publication: &Publication) -> bool {
        let start = publication.at - publication.duration;
        let in_service = &self.last.in_use[&Which::Login];
        [start, publication.at].iter().any(|at| self.was_rejected_at(in_service, *at))
    }

    fn was_accepted(&self, login: &VersionId, since: Instant) -> bool {
        let state = self.database.state();
        state.log_ins.iter().any(|log_in| log_in.version == *login && log_in.accepted && log_in.at >= since)
    }

    pub(super) fn was_rejected_at(&self, login: &VersionId, at: Instant) -> bool {
        let state = self.database.state();
        let last = state.log_ins.iter().rfind(|log_in| log_in.version == *login && log_in.at <= at);
        last.is_some_and(|last| !last.accepted)
    }

    /// Checks that a rejected version is tried four times a minute at most, apart from the operators' tries and from those
    /// that follow the first rejection of the version in service.
    fn check_log_ins(&self) -> Result<(), String> {
        let concurrent = if self.is_calm() { 0 } else { 2 };
        let state = self.database.state();
        let Some(last) = state.log_ins.last() else { return Ok(()) };
        let in_window = |at: Instant| last.at - at < Duration::from_secs(60) && at <= last.at;
        let is_counted =
            |version: &VersionId, accepted: bool, at: Instant| *version == last.version && !accepted && in_window(at);
        let rejected =
            state.log_ins.iter().filter(|log_in| is_counted(&log_in.version, log_in.accepted, log_in.at)).count();
        // The reload of a signal begins after the one that is under way.
        let signals = self.signals.iter().filter(|at| in_window(**at + LONGEST_LOAD) || in_window(**at)).count().min(6);
        let opened = state.opened.iter().filter(|at| in_window(**at)).count();
        let allowed = 4 + signals + opened + concurrent;
        if rejected > allowed {
            return Err(format!("{} was rejected {rejected} times in a minute, and not {allowed}", last.version));
        }
        Ok(())
    }
}
