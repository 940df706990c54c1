//! `reload [--pid N] [--wait]`: sends SIGHUP to the process that listens at the command socket, also in a container that
//! has no `kill`, and waits for the outcome. `reload --fleet TARGET…` reloads many: [`fleet`].

pub(crate) mod fleet;
pub(super) mod fleet_signer;
mod service_process;
pub(super) mod waves;

use self::service_process::ServiceProcess;
use super::{admin::command_error, command_connection::CommandConnection};
use crate::{
    application::Application,
    bootstrap::command_error::CommandError,
    config::layers::Sources,
    exit::Exit,
    remote_reload::longest_reload,
    status::rotation::{RotationStatus, RotationVerdict},
};
use serde::Deserialize;
use std::time::Duration;
use tokio::time::Instant;

/// The pause between two requests for the status.
const STATUS_INTERVAL: Duration = Duration::from_millis(50);

/// The part of `/status` that this command reads.
#[derive(Deserialize)]
pub(crate) struct ReloadStatus {
    generation: u64,
    signals: ReloadSignals,
    rotation: Option<RotationStatus>,
}

#[derive(Deserialize)]
struct ReloadSignals {
    seen: u64,
    last_reload: Option<EndedReload>,
}

/// A reload that an operator asked for.
#[derive(Deserialize)]
struct EndedReload {
    signals_covered: u64,
    outcome: String,
    error: Option<String>,
    exit_code: u8,
    carried_over: Vec<CarriedOverCredential>,
}

/// A credential that stays at the version held.
#[derive(Deserialize)]
struct CarriedOverCredential {
    credential: String,
    problem: String,
}

/// Sends the signal. `wait` is the longest time for a comparison after the reload, if the command waits at all.
pub(super) async fn run<A: Application>(
    sources: &Sources,
    pid: Option<i32>,
    wait: Option<Duration>,
) -> Result<(), CommandError> {
    let mut service = CommandConnection::open::<A>(sources).await?;
    let process = ServiceProcess::of(&service, pid)?;
    // The process answers, so it lives: `process` is no later one with the same number.
    let before = status(&mut service).await?;
    process.send_hup()?;
    match wait {
        Some(settle) => wait_for_reload(&mut service, &before, settle).await,
        None => Ok(()),
    }
}

/// Waits until a reload has covered a signal that came after `before`, or until the process ends. A reload takes
/// `secrets.deadline` at most, and one that was under way at the signal ends first.
async fn wait_for_reload(
    service: &mut CommandConnection,
    before: &ReloadStatus,
    settle: Duration,
) -> Result<(), CommandError> {
    let limit = longest_reload(service.deadline);
    let deadline = Instant::now() + limit;
    loop {
        tokio::time::sleep(STATUS_INTERVAL).await;
        let now = status(service).await?;
        if Instant::now() >= deadline {
            return Err(command_error(
                Exit::Deadline,
                "the reload".into(),
                format!("it did not end within {} s, which is twice secrets.deadline and some more", limit.as_secs()),
                "see `last_reload` in /status, and the log of the service",
            ));
        }
        if let Some(reload) = now.signals.last_reload
            && reload.signals_covered > before.signals.seen
        {
            let is_new = now.generation > before.generation;
            let ended = outcome(reload, now.generation);
            if is_new && let Some(rotation) = now.rotation {
                let compared = compared(service, rotation, settle).await;
                return ended.and(compared.map(|rotation| say!("{rotation}")));
            }
            return ended;
        }
    }
}

/// Waits until the new generation can be compared with the one before, or until `settle` has passed. A later generation
/// ends the wait too.
async fn compared(
    service: &mut CommandConnection,
    mut rotation: RotationStatus,
    settle: Duration,
) -> Result<RotationStatus, CommandError> {
    let deadline = Instant::now() + settle;
    while rotation.verdict == RotationVerdict::TooEarly && Instant::now() < deadline {
        tokio::time::sleep(STATUS_INTERVAL).await;
        match status(service).await?.rotation {
            Some(now) if now.generation == rotation.generation => rotation = now,
            _ => break,
        }
    }
    Ok(rotation)
}

/// Prints the outcome of a reload. Returns an error if it failed, or if a credential that must be replaced stays.
fn outcome(reload: EndedReload, generation: u64) -> Result<(), CommandError> {
    for line in reload.lines(generation) {
        say!("{line}");
    }
    match reload.fault(generation) {
        None => Ok(()),
        Some((exit, problem, remedy)) => Err(command_error(exit, "the reload".into(), problem, remedy)),
    }
}

impl EndedReload {
    /// Returns what a reload that did not fail has done, as lines for people.
    fn lines(&self, generation: u64) -> Vec<String> {
        if self.error.is_some() {
            return Vec::new();
        }
        let mut lines = vec![format!("{}: generation {generation} is in service", self.outcome)];
        for CarriedOverCredential { credential, problem } in &self.carried_over {
            lines.push(format!("`{credential}` stays at the version held: {problem}"));
        }
        lines
    }

    /// Returns the exit code, the problem and the remedy of a reload that failed, or that left a credential which must be
    /// replaced.
    fn fault(&self, generation: u64) -> Option<(Exit, String, &'static str)> {
        let exit = Exit::from_code(self.exit_code).unwrap_or(Exit::Bug);
        if let Some(error) = &self.error {
            let problem = format!("it failed, and generation {generation} stays in service: {error}");
            return Some((exit, problem, "mend what the report names, and reload again"));
        }
        if self.exit_code == 0 {
            return None;
        }
        let problem = "it published, but a credential that must be replaced stays at the version held";
        Some((exit, problem.into(), "mend the credential that is named above, and reload again"))
    }
}

#[expect(clippy::disallowed_methods, reason = "a status has no secret, and serde's message is dropped")]
async fn status(service: &mut CommandConnection) -> Result<ReloadStatus, CommandError> {
    let (_, body) = service.get("/status").await?;
    serde_json::from_str(&body).map_err(|_| {
        let remedy = "run the command of the version that runs";
        service.error("the service answers with a status of another version".into(), remedy)
    })
}
