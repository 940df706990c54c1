//! `reload --fleet TARGET…`: reloads replicas over their admin listeners, in waves. Ends with an audit.
//!
//! ```text
//! signing key ─► /status of each ─► wave: POST /reload, versions ─► next wave ─► … ─► audit of all
//!                                     └── a bad outcome, or Ctrl-C ─► report
//! ```

use super::{EndedReload, ReloadStatus, fleet_signer::FleetSigner, waves::WaveSize};
use crate::{
    application::Application,
    bootstrap::{self, command_error::CommandError, manager::ManagerSetup},
    cli::{
        admin,
        admin_listeners::{AdminListeners, address::ReplicaAddress},
        audit::{self, CONCURRENCY, replica::ReplicaStatus},
    },
    config::{Config, layers::Sources},
    exit::{Exit, Fault, Phase, Report, printable},
    remote_reload::{self, longest_reload},
    secrets::regions::Regions,
    signals::Signals,
    status::{
        reload_record::ReloadOutcome,
        rotation::{RotationStatus, RotationVerdict},
    },
};
use axum::http::StatusCode;
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The pause between two requests for the status.
const STATUS_INTERVAL: Duration = Duration::from_millis(250);

/// The time that a replica may need beyond the longest reload, until its answer is here.
const ANSWER_GRACE: Duration = Duration::from_secs(5);

/// The time of a signal, for people.
const BEFORE: &str = "before it reloaded a replica";

/// The answer of a replica to `POST /reload`.
#[derive(Deserialize)]
struct FleetAnswer {
    generation: u64,
    reload: EndedReload,
}

impl FleetAnswer {
    /// Reads the answer of a replica.
    ///
    /// # Errors
    /// If the replica did not reload.
    fn read(address: &ReplicaAddress, code: StatusCode, body: &str) -> Result<Self, Fault> {
        if code != StatusCode::OK {
            return Err(not_done(address.to_string(), code, body));
        }
        parse(body).ok_or_else(|| unreachable(address, "it answers as no service of this framework does".into()))
    }

    /// Returns what the reload has done, as lines for people.
    fn lines(&self) -> impl Iterator<Item = String> {
        self.reload.lines(self.generation).into_iter().map(|line| printable(&line))
    }

    /// Checks that the reload ended well.
    ///
    /// # Errors
    /// If it failed, or left a credential that must be replaced.
    fn well_ended(&self, subject: String) -> Result<(), Fault> {
        match self.reload.fault(self.generation) {
            None => Ok(()),
            Some((exit, problem, remedy)) => Err(Fault::new(exit, subject, printable(&problem), remedy)),
        }
    }
}

/// Returns what people see of an answer.
pub(crate) fn shown(address: &ReplicaAddress, code: StatusCode, body: &str) -> Vec<String> {
    let report = |fault| Report::of(Phase::Command, fault).to_string();
    let answer = match FleetAnswer::read(address, code, body) {
        Ok(answer) => answer,
        Err(fault) => return vec![report(fault)],
    };
    let mut shown: Vec<_> = answer.lines().collect();
    shown.extend(answer.well_ended(address.to_string()).err().map(report));
    shown
}

/// The detail of a problem.
#[derive(Deserialize)]
struct ProblemDetail {
    detail: String,
}

/// A wave that has ended.
#[derive(Default)]
struct FinishedWave<'a> {
    reloaded: Vec<&'a ReplicaAddress>,
    failed: Vec<&'a ReplicaAddress>,
    /// The faults of those that failed, and the versions of the others that are not the manager's.
    faults: Vec<Fault>,
}

/// The options of a reload of a fleet.
pub(in crate::cli) struct FleetPlan {
    pub(in crate::cli) wave: WaveSize,
    /// The longest time for a comparison after a reload.
    pub(in crate::cli) settle: Duration,
    pub(in crate::cli) ends_with_audit: bool,
}

/// A fleet that is reloaded.
struct Fleet<'a, T> {
    regions: &'a Arc<Regions>,
    config: &'a Config<T>,
    replicas: &'a AdminListeners,
    signer: FleetSigner,
    /// The longest time for a comparison after a reload.
    settle: Duration,
    stopping: &'a CancellationToken,
}

pub(in crate::cli) async fn run<A: Application, M: ManagerSetup<A::Settings>>(
    sources: &Sources,
    manager: M,
    replicas: impl Future<Output = Result<AdminListeners, CommandError>>,
    plan: FleetPlan,
    signals: Signals,
) -> Result<(), CommandError> {
    let stopping = &signals.stopping;
    let replicas = unless_stopped(stopping, BEFORE, replicas).await?;
    let config = audit::configure::<A, M>(sources).await?;
    let deadline = Instant::now() + config.secrets.deadline;
    let set_up = async { bootstrap::regions(sources, manager, &config, deadline).await.map_err(audit::failed) };
    let regions = Arc::new(unless_stopped(stopping, BEFORE, set_up).await?);
    let work = async {
        let prepare = async {
            let signer = FleetSigner::fetch::<A>(&regions, &config).await.map_err(audit::failed)?;
            let settle = plan.settle;
            let fleet = Fleet { regions: &regions, config: &config, replicas: &replicas, signer, settle, stopping };
            let members = fleet.members().await?;
            Ok((fleet, members))
        };
        let (fleet, members) = unless_stopped(stopping, BEFORE, prepare).await?;
        fleet.reload_in_waves(&plan.wave.split(&members)).await?;
        if !plan.ends_with_audit {
            return Ok(());
        }
        let audit = async { audit::report(&audit::audit(&regions, &config, &replicas, None).await) };
        unless_stopped(stopping, "after it reloaded every replica, and before the audit ended", audit).await
    };
    regions.close_after(work).await
}

/// Does a part of the work that nobody misses if it is cut off.
async fn unless_stopped<T>(
    stopping: &CancellationToken,
    when: &str,
    work: impl Future<Output = Result<T, CommandError>>,
) -> Result<T, CommandError> {
    tokio::select! {
        biased;
        () = stopping.cancelled() => {
            let problem = format!("a signal stopped the command {when}");
            let fault = Fault::new(Exit::Unavailable, "the fleet", problem, "run the command again");
            Err(audit::failed(Report::of(Phase::Command, fault)))
        }
        result = work => result,
    }
}

impl<T> Fleet<'_, T> {
    /// Asks each address who is there. Returns an address of each replica.
    ///
    /// # Errors
    /// If one does not answer, or there are fewer or more replicas than expected. Nothing is reloaded then.
    async fn members(&self) -> Result<Vec<ReplicaAddress>, CommandError> {
        let asked = self.replicas.addresses.iter().map(async |address| (address, self.status(address).await));
        let answers: Vec<_> = stream::iter(asked).buffered(CONCURRENCY).collect().await;
        let mut members: Vec<ReplicaAddress> = Vec::new();
        let (mut instances, mut faults) = (BTreeMap::new(), Vec::new());
        for (address, status) in answers {
            match status {
                Err(fault) => faults.push(fault),
                Ok(status) => {
                    if let Some(first) = instances.get(&status.instance) {
                        say!("{address} is the same replica as {first}");
                        continue;
                    }
                    instances.insert(status.instance, address);
                    members.push(address.clone());
                }
            }
        }
        if faults.is_empty()
            && let Some(expected) = self.replicas.expected
            && expected != members.len()
        {
            faults.push(Fault::new(
                Exit::Unavailable,
                "different replicas",
                format!("{} answer, but {expected} are expected", members.len()),
                "name the admin listener of each replica, or correct --expect",
            ));
        }
        if !faults.is_empty() {
            let remedy = "mend what is named above, or leave that replica out; then run the command again";
            faults.push(Fault::new(Exit::Unavailable, "the fleet", "no replica was reloaded", remedy));
        }
        Report::unless_clean(Phase::Command, faults).map_err(audit::failed)?;
        Ok(members)
    }

    async fn status(&self, address: &ReplicaAddress) -> Result<ReplicaStatus, Fault> {
        let status = address.status(self.replicas.tls.connector(address)).await;
        status.map_err(|problem| unreachable(address, problem))
    }

    /// Reloads one wave after the other.
    ///
    /// # Errors
    /// The faults of the first wave that does not end well, and what was reloaded until then.
    async fn reload_in_waves(&self, waves: &[&[ReplicaAddress]]) -> Result<(), CommandError> {
        let mut reloaded = Vec::new();
        for (position, wave) in waves.iter().enumerate() {
            let place = format!("wave {} of {}", position + 1, waves.len());
            if self.stopping.is_cancelled() {
                let why = format!("a signal stopped the command before {place}");
                return Err(stopped(&why, waves, &reloaded, FinishedWave::default()));
            }
            say!("{place}: {}", list(wave.iter()));
            let mut finished = self.reload_wave(wave).await;
            reloaded.append(&mut finished.reloaded);
            if !finished.faults.is_empty() {
                return Err(stopped(&format!("it stopped in {place}"), waves, &reloaded, finished));
            }
        }
        Ok(())
    }

    /// Reloads the replicas of one wave, and looks at the versions that they hold then.
    async fn reload_wave<'w>(&self, wave: &'w [ReplicaAddress]) -> FinishedWave<'w> {
        let reloads = wave.iter().map(async |address| (address, self.reload(address).await));
        let outcomes: Vec<_> = stream::iter(reloads).buffer_unordered(CONCURRENCY).collect().await;
        let mut finished = FinishedWave::default();
        for (address, outcome) in outcomes {
            match outcome {
                Ok(()) => finished.reloaded.push(address),
                Err(fault) => {
                    finished.failed.push(address);
                    finished.faults.push(fault);
                }
            }
        }
        finished.faults.extend(self.other_versions(&finished.reloaded).await);
        finished
    }

    /// Reloads one replica. Prints the outcome.
    ///
    /// # Errors
    /// The fault of a reload that did not end well.
    async fn reload(&self, address: &ReplicaAddress) -> Result<(), Fault> {
        let subject = address.to_string();
        // Its process may be another one by now.
        let before = self.status(address).await?;
        let authorization = self.signer.authorization(&before, &subject)?;
        let limit = longest_reload(self.config.secrets.deadline) + ANSWER_GRACE;
        let connector = self.replicas.tls.connector(address);
        let response = admin::post(address.url(remote_reload::ROUTE), authorization, connector, limit).await;
        let response = response.map_err(|error| unreachable(address, error.to_string()))?;
        let answer = FleetAnswer::read(address, response.status(), response.body())?;
        for line in answer.lines() {
            say!("{address}: {line}");
        }
        answer.well_ended(subject)?;
        // Without a new generation there is nothing to compare.
        if self.settle.is_zero() || answer.reload.outcome != ReloadOutcome::Published.to_string() {
            return Ok(());
        }
        self.compare(address, answer.generation).await
    }

    /// Prints how the new generation of a replica answers, compared with the one before.
    ///
    /// # Errors
    /// If it has more errors, or if the replica does not say.
    async fn compare(&self, address: &ReplicaAddress, generation: u64) -> Result<(), Fault> {
        let Some(rotation) = self.rotation(address, generation).await? else { return Ok(()) };
        say!("{address}: {rotation}");
        if rotation.verdict != RotationVerdict::MoreErrors {
            return Ok(());
        }
        Err(Fault::new(
            Exit::Unavailable,
            address.to_string(),
            "the new generation answers more requests with errors than the one before",
            "see its log; roll the rotation back if that is the cause",
        ))
    }

    /// Returns the comparison of this generation, or of one that has replaced it meanwhile. `None` if there is none: another
    /// process answers.
    ///
    /// # Errors
    /// If the replica gives no status.
    async fn rotation(&self, address: &ReplicaAddress, generation: u64) -> Result<Option<RotationStatus>, Fault> {
        let deadline = Instant::now() + self.settle;
        loop {
            let answer = admin::get(address.status_url(), self.replicas.tls.connector(address)).await;
            let answer = answer.map_err(|error| unreachable(address, error.to_string()))?;
            let Some(status) = parse::<ReloadStatus>(answer.body()) else {
                return Err(unreachable(
                    address,
                    format!("it answers {} to a request for its status", answer.status()),
                ));
            };
            let rotation = status.rotation.filter(|rotation| rotation.generation >= generation);
            let Some(rotation) = rotation else { return Ok(None) };
            let is_over = Instant::now() >= deadline || self.stopping.is_cancelled();
            if rotation.verdict != RotationVerdict::TooEarly || is_over {
                return Ok(Some(rotation));
            }
            let _ = tokio::time::timeout(STATUS_INTERVAL, self.stopping.cancelled()).await;
        }
    }

    /// Returns a fault for each version that one of these replicas holds after its reload, and that is not the manager's.
    async fn other_versions(&self, reloaded: &[&ReplicaAddress]) -> Vec<Fault> {
        let asked = reloaded.iter().map(async |address| ((*address).clone(), self.status(address).await));
        let answers: Vec<_> = stream::iter(asked).buffered(CONCURRENCY).collect().await;
        let (mut statuses, mut faults) = (Vec::new(), Vec::new());
        for (address, status) in answers {
            match status {
                Ok(status) => statuses.push((address, Ok(status))),
                Err(fault) => faults.push(fault),
            }
        }
        faults.extend(audit::compare(self.regions, self.config, statuses, None).await.version_faults());
        faults
    }
}

/// Returns the error of a fleet of which only these replicas were reloaded. The faults decide its exit code.
fn stopped(
    why: &str,
    waves: &[&[ReplicaAddress]],
    reloaded: &[&ReplicaAddress],
    FinishedWave { failed, faults, .. }: FinishedWave<'_>,
) -> CommandError {
    let not_asked =
        waves.iter().copied().flatten().filter(|address| !reloaded.contains(address) && !failed.contains(address));
    let problem = format!(
        "{why}; reloaded: {}; failed: {}; not asked: {}",
        list(reloaded.iter()),
        list(failed.iter()),
        list(not_asked),
    );
    let remedy = "mend what is named above, and run the command again: a replica with nothing new to load says `unchanged`; \
                  `audit` says who holds which version";
    let mut report = Report { phase: Phase::Command, faults };
    // Without a fault, a signal stopped the command.
    let exit = if report.faults.is_empty() { Exit::Unavailable } else { report.exit() };
    report.faults.push(Fault::new(exit, "the fleet", problem, remedy));
    audit::failed(report)
}

/// Returns the fault of a replica that did not do the reload.
fn not_done(subject: String, code: StatusCode, body: &str) -> Fault {
    let problem = match parse::<ProblemDetail>(body) {
        Some(ProblemDetail { detail }) => format!("it answers {code}: {}", printable(&detail)),
        None => format!("it answers {code}"),
    };
    let (exit, remedy) = match code {
        StatusCode::UNAUTHORIZED => (
            Exit::Denied,
            "give the configuration of the service that runs (its signing key), and compare the clocks; then run the command \
             again",
        ),
        StatusCode::FORBIDDEN => (
            Exit::Denied,
            "name the replica itself, not a load balancer in front of several; if it has restarted meanwhile, run the command \
             again",
        ),
        StatusCode::NOT_FOUND => (
            Exit::Config,
            "set admin.reload = \"signed\" there and reload it, or reload it with `reload --wait` beside it",
        ),
        StatusCode::GATEWAY_TIMEOUT => (Exit::Deadline, "see `last_reload` in its /status, and its log"),
        _ => (Exit::Unavailable, "see its log, and run the command again"),
    };
    Fault::new(exit, subject, problem, remedy)
}

fn unreachable(address: &ReplicaAddress, problem: String) -> Fault {
    Fault::new(Exit::Unavailable, address.to_string(), problem, "check the address, the network and the replica")
}

/// Parses what a replica has sent.
#[expect(clippy::disallowed_methods, reason = "an answer has no secret, and serde's message is dropped")]
fn parse<T: for<'de> Deserialize<'de>>(body: &str) -> Option<T> {
    serde_json::from_str(body).ok()
}

/// Returns these as one text.
fn list(all: impl Iterator<Item = impl ToString>) -> String {
    let all: Vec<_> = all.map(|one| one.to_string()).collect();
    if all.is_empty() { "none".into() } else { all.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the exit of a fleet that was stopped by faults with these exits.
    fn exit_after(exits: &[Exit]) -> Exit {
        let faults = exits.iter().map(|exit| Fault::new(*exit, "http://10.0.0.7:9090", "p", "r")).collect();
        let finished = FinishedWave { faults, ..FinishedWave::default() };
        stopped("it stopped in wave 1 of 1", &[], &[], finished).report.exit()
    }

    #[test]
    fn the_replicas_that_could_not_be_reloaded_decide_the_exit_code() {
        assert_eq!(exit_after(&[Exit::Deadline]), Exit::Deadline);
        assert_eq!(exit_after(&[Exit::Deadline, Exit::Unavailable]), Exit::Unavailable);
        assert_eq!(exit_after(&[Exit::Unavailable, Exit::Config]), Exit::Config);
        assert_eq!(exit_after(&[]), Exit::Unavailable, "a signal stopped the command");
    }
}
