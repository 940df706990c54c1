//! `reload [--pid N] [--wait]`: SIGHUP from where there is no `kill`, and what came of it.

use super::admin::{AdminClient, failed};
use crate::{application::Application, bootstrap::Failed, config::layers::Sources, exit::Exit};
use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process},
};
use serde::Deserialize;
use std::time::Duration;

/// How often `--wait` looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The part of `/status` that matters here.
#[derive(Deserialize)]
struct ReloadStatus {
    instance: String,
    pid: i32,
    generation: u64,
    signals: ReloadSignals,
}

#[derive(Deserialize)]
struct ReloadSignals {
    seen: u64,
    last_reload: Option<Reload>,
}

#[derive(Deserialize)]
struct Reload {
    signals_covered: u64,
    outcome: String,
    error: Option<String>,
    exit_code: u8,
}

pub(super) async fn run<A: Application>(sources: &Sources, pid: Option<i32>, wait: bool) -> Result<(), Failed> {
    if let (Some(pid), false) = (pid, wait) {
        return signal(pid);
    }
    let admin = AdminClient::of::<A>(sources)?;
    let before = status(&admin).await?;
    signal(pid.unwrap_or(before.pid))?;
    if !wait {
        return Ok(());
    }
    // A trip has a deadline of its own, and one that was under way comes first. It ends by itself.
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        let now = status(&admin).await?;
        if now.instance != before.instance {
            return Err(admin.failed("the process ended, and another one answers".into(), "see the log of the service"));
        }
        if let Some(reload) = now.signals.last_reload.filter(|reload| reload.signals_covered > before.signals.seen) {
            return told(reload, now.generation);
        }
    }
}

fn told(reload: Reload, generation: u64) -> Result<(), Failed> {
    match reload.error {
        None => {
            say!("{}: generation {generation} is in service", reload.outcome);
            Ok(())
        }
        Some(error) => Err(failed(
            Exit::from_code(reload.exit_code).unwrap_or(Exit::Bug),
            "the reload".into(),
            format!("it failed, and generation {generation} stays in service: {error}"),
            "mend what is named, and reload again",
        )),
    }
}

async fn status(admin: &AdminClient) -> Result<ReloadStatus, Failed> {
    let (_, body) = admin.get("/status").await?;
    serde_json::from_str(&body)
        .map_err(|_| admin.failed("what answers there is no service of this framework".into(), "check admin.listen"))
}

fn signal(pid: i32) -> Result<(), Failed> {
    let subject = || format!("process {pid}");
    let Some(process) = Pid::from_raw(pid).filter(|_| pid > 0) else {
        return Err(failed(Exit::Usage, subject(), "this is no process id".into(), "give a number from 1 on"));
    };
    kill_process(process, Signal::HUP).map_err(|error| match error {
        Errno::SRCH => {
            let remedy = "run the command where the service runs: in its container, or on its host";
            failed(Exit::Unavailable, subject(), "there is no such process".into(), remedy)
        }
        _ => failed(
            Exit::Denied,
            subject(),
            "this user may not send it a signal".into(),
            "run the command as the user of the service",
        ),
    })
}
