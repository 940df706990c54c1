//! `reload [--pid N] [--wait]`: sends SIGHUP to the process that listens at the command socket, also in a container that
//! has no `kill`, and waits for the outcome.

mod service_process;

use self::service_process::ServiceProcess;
use super::{admin::command_error, command_connection::CommandConnection};
use crate::{
    application::Application,
    bootstrap::command_error::CommandError,
    config::layers::Sources,
    exit::Exit,
    status::rotation::{RotationStatus, RotationVerdict},
};
use serde::Deserialize;
use std::time::Duration;
use tokio::time::Instant;

/// The pause between two requests for the status.
const STATUS_INTERVAL: Duration = Duration::from_millis(50);

/// The time beyond `secrets.deadline` that two reloads may take. It covers their last steps and a busy machine.
const WAIT_GRACE: Duration = Duration::from_secs(5);

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
    last_reload: Option<SignalledReload>,
}

/// The last reload that a signal triggered.
#[derive(Deserialize)]
struct SignalledReload {
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
    let limit = service.deadline * 2 + WAIT_GRACE;
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
                say!("{}", compared(service, rotation, settle).await?);
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
fn outcome(reload: SignalledReload, generation: u64) -> Result<(), CommandError> {
    let exit = Exit::from_code(reload.exit_code).unwrap_or(Exit::Bug);
    match reload.error {
        None => {
            say!("{}: generation {generation} is in service", reload.outcome);
            for CarriedOverCredential { credential, problem } in &reload.carried_over {
                say!("`{credential}` stays at the version held: {problem}");
            }
            if reload.exit_code == 0 {
                return Ok(());
            }
            Err(command_error(
                exit,
                "the reload".into(),
                "it published, but a credential that must be replaced stays at the version held".into(),
                "mend the credential that is named above, and reload again",
            ))
        }
        Some(error) => Err(command_error(
            exit,
            "the reload".into(),
            format!("it failed, and generation {generation} stays in service: {error}"),
            "mend what the report names, and reload again",
        )),
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
