//! `reload [--pid N] [--wait]`: sends SIGHUP, also in a container that has no `kill`, and waits for the outcome.

use super::admin::{AdminClient, command_error};
use crate::{
    application::Application,
    bootstrap::command_error::CommandError,
    config::layers::Sources,
    exit::Exit,
    status::rotation::{RotationStatus, RotationVerdict},
};
use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process},
};
use serde::Deserialize;
use std::time::Duration;
use tokio::time::Instant;

/// The pause between two requests for the status.
const STATUS_INTERVAL: Duration = Duration::from_millis(50);

/// The part of `/status` that this command reads.
#[derive(Deserialize)]
pub(crate) struct ReloadStatus {
    instance: String,
    pid: i32,
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
    if let Some(pid) = pid
        && wait.is_none()
    {
        return send_signal(pid);
    }
    let admin = AdminClient::of::<A>(sources)?;
    let before = status(&admin).await?;
    send_signal(pid.unwrap_or(before.pid))?;
    match wait {
        Some(settle) => wait_for_reload(&admin, &before, settle).await,
        None => Ok(()),
    }
}

/// Waits until a reload has covered a signal that came after `before`.
///
/// There is no timeout: a reload ends by its own deadline. A reload that was under way at the signal ends first.
async fn wait_for_reload(admin: &AdminClient, before: &ReloadStatus, settle: Duration) -> Result<(), CommandError> {
    loop {
        tokio::time::sleep(STATUS_INTERVAL).await;
        let now = status(admin).await?;
        if now.instance != before.instance {
            return Err(admin.error("the process ended, and another one answers".into(), "see the log of the service"));
        }
        if let Some(reload) = now.signals.last_reload
            && reload.signals_covered > before.signals.seen
        {
            let is_new = now.generation > before.generation;
            let ended = outcome(reload, now.generation);
            if is_new && let Some(rotation) = now.rotation {
                say!("{}", compared(admin, rotation, settle).await?);
            }
            return ended;
        }
    }
}

/// Waits until the new generation can be compared with the one before, or until `settle` has passed. A later generation
/// ends the wait too.
async fn compared(
    admin: &AdminClient,
    mut rotation: RotationStatus,
    settle: Duration,
) -> Result<RotationStatus, CommandError> {
    let deadline = Instant::now() + settle;
    while rotation.verdict == RotationVerdict::TooEarly && Instant::now() < deadline {
        tokio::time::sleep(STATUS_INTERVAL).await;
        match status(admin).await?.rotation {
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
async fn status(admin: &AdminClient) -> Result<ReloadStatus, CommandError> {
    let (_, body) = admin.get("/status").await?;
    serde_json::from_str(&body).map_err(|_| {
        admin.error("the program that answers there is not a service of this framework".into(), "check admin.listen")
    })
}

/// Sends SIGHUP to a process.
fn send_signal(pid: i32) -> Result<(), CommandError> {
    let subject = format!("process {pid}");
    // A negative number would name a group of processes.
    let process = if pid > 0 { Pid::from_raw(pid) } else { None };
    let Some(process) = process else {
        return Err(command_error(Exit::Usage, subject, "it is not a process id".into(), "give a number from 1 on"));
    };
    match kill_process(process, Signal::HUP) {
        Ok(()) => Ok(()),
        Err(Errno::SRCH) => {
            let remedy = "run the command where the service runs: in its container, or on its host";
            Err(command_error(Exit::Unavailable, subject, "there is no such process".into(), remedy))
        }
        Err(_) => {
            let remedy = "run the command as the user of the service";
            Err(command_error(Exit::Denied, subject, "this user may not send it a signal".into(), remedy))
        }
    }
}
