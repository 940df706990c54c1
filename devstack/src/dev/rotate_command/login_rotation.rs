//! The rotation of a login, with a line about each of its steps: four at AWS, two at OpenBao.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::dev::dev_state::RunningStack;
use crate::dev::error::DevError;
use crate::dev::secrets_manager::StackManager;
use crate::dev::status_client::StatusClient;
use crate::stack::declared_credential::DeclaredCredential;
use crate::stack::emulator::Emulator;
use crate::stack::leak_detector::LeakDetector;
use crate::stack::openbao::api::OpenBao;
use crate::stack::openbao::login_rotation::OpenBaoRotation;
use crate::stack::rotation::Rotation;

/// Rotates a login. Stays in the window between `set` and `finish` for the given time. Returns the new version's id.
pub(super) async fn rotate_login(
    running: &RunningStack,
    credential: &DeclaredCredential,
    status_client: &StatusClient,
    window: Option<Duration>,
) -> Result<String, DevError> {
    match StackManager::at(&running.manager)? {
        StackManager::Aws(emulator) => rotate_at_aws(&emulator, running, credential, status_client, window).await,
        StackManager::OpenBao(api) => rotate_at_openbao(api, running, credential, status_client, window).await,
    }
}

async fn rotate_at_openbao(
    api: OpenBao,
    running: &RunningStack,
    credential: &DeclaredCredential,
    status_client: &StatusClient,
    window: Option<Duration>,
) -> Result<String, DevError> {
    let DeclaredCredential { name, id, .. } = credential;
    let mut rotation = OpenBaoRotation::new(api, name, id, LeakDetector::default()).await?;
    rotation.set(&running.database).await?;
    println!("1 set     PostgreSQL has the new password, and rejects that of the current version");
    if let Some(window) = window {
        println!("          open connections keep working; no version that the manager has can log in");
        stay_in_window(window, status_client, name, "").await;
    }
    let version = rotation.put().await?;
    println!("2 put     {id}: version {version} is current");
    Ok(version)
}

async fn rotate_at_aws(
    emulator: &Emulator,
    running: &RunningStack,
    credential: &DeclaredCredential,
    status_client: &StatusClient,
    window: Option<Duration>,
) -> Result<String, DevError> {
    let DeclaredCredential { name, id, .. } = credential;
    let client = emulator.client();
    let rotation = Rotation::new(client, name, id, running.database.clone(), LeakDetector::default());
    let version = rotation.version().to_owned();
    rotation.create_pending().await?;
    println!("1 create  {id}: version {version} is AWSPENDING");
    rotation.set().await?;
    println!("2 set     PostgreSQL has the new password, and rejects the one that is still AWSCURRENT");
    if let Some(window) = window {
        println!("          open connections keep working; a new login works with AWSPENDING only");
        stay_in_window(window, status_client, name, &version).await;
    }
    rotation.test().await?;
    println!("3 test    logged in with the new password");
    rotation.finish().await?;
    println!("4 finish  the new version is AWSCURRENT, the old one AWSPREVIOUS");
    Ok(version)
}

/// Waits for the time of the window, or for Ctrl-C.
async fn stay_in_window(window: Duration, status_client: &StatusClient, name: &str, pending: &str) {
    // Handles Ctrl-C before a line offers it. Otherwise a quick Ctrl-C would end the rotation halfway.
    let mut interrupts = signal(SignalKind::interrupt()).expect("it may be handled");
    println!("          staying here for {} (Ctrl-C: no longer)", humantime::format_duration(window));
    tokio::select! {
        () = print_changes(status_client, name, pending) => (),
        () = tokio::time::sleep(window) => (),
        _ = interrupts.recv() => (),
    }
}

/// Prints the version that the service uses, whenever it changes. An error in here must not end a rotation halfway.
async fn print_changes(status_client: &StatusClient, name: &str, pending: &str) {
    let mut printed = String::new();
    loop {
        if let Ok(status) = status_client.status().await
            && let (Some(version), Some(stage)) = (status.version(name), status.stage(name))
        {
            let when = if version == pending { "already" } else { "still" };
            let line = format!("generation {} {when} holds version {version} ({stage})", status.generation());
            if line != printed {
                println!("          {line}");
                printed = line;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
