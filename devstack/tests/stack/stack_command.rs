//! `cargo dev stack`: the stack beside a service in a container.

use std::path::Path;
use std::process::Command;

use devstack::{Signal, eventually, free_port};

use crate::Outcome;
use crate::processes::gone;
use crate::workspace::Workspace;

#[tokio::test]
async fn the_stack_command_runs_without_cargo_and_sends_no_signal_to_a_service_elsewhere() -> Outcome {
    drop(devstack::PythonEnvironment::install(&|_| ()).await?);
    let workspace = Workspace::new("stack_command")?;
    let no_cargo = |mut command: Command| {
        command.env("CARGO", "/no/cargo").env_remove("CARGO_MANIFEST_DIR");
        // As in an image, the current folder takes the place of the workspace.
        command.current_dir(&workspace.target).env("CARGO_TARGET_DIR", ".");
        command
    };
    let installed = no_cargo(workspace.dev(&["stack", "--install"])).status()?;
    assert!(installed.success());

    let ports = [free_port(), free_port()];
    let dev = Workspace::up_as(no_cargo(workspace.stack(ports)))?;
    let running = workspace.state().ok_or("it is ready")?["running"].take();
    assert_eq!(running["database"]["port"], ports[0]);
    assert_eq!(running["manager"], format!("http://127.0.0.1:{}", ports[1]));

    let mut elsewhere = no_cargo(workspace.dev(&["exec", "serve"])).spawn()?;
    let admin = running["admin"].as_str().ok_or("a URL")?.trim_start_matches("http://");
    let listens = || std::net::TcpStream::connect(admin).is_ok();
    eventually("the listener of the service", async || listens()).await;
    let rotated = no_cargo(workspace.dev(&["rotate", "database"])).output()?;
    let (code, output) = (rotated.status.code(), String::from_utf8_lossy(&rotated.stdout));
    assert!(code == Some(0) && output.contains("4 finish") && output.contains("which runs elsewhere"), "{output}");
    assert!(!output.contains("SIGHUP"), "{output}");
    elsewhere.kill()?;
    elsewhere.wait()?;
    assert!(!listens(), "a signal to `exec` is a signal to the command");

    devstack::send_signal(dev.child.id(), Signal::TERM)?;
    let (status, output) = dev.ends()?;
    assert_eq!(status.code(), Some(0), "{output}");
    assert!(output.contains("migrated fake") && gone(&[], &ports), "{output}");
    Ok(())
}

#[test]
fn the_workspace_of_a_member_is_that_of_the_root() {
    let member = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert_eq!(Some(devstack::workspace().as_path()), member.parent());
}
