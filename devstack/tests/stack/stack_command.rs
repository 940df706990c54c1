//! `cargo dev stack`: what stands beside a service in a container.

use std::process::Command;

use devstack::{Signal, free_port};

use crate::Outcome;
use crate::dev::Workspace;
use crate::life::gone;

#[tokio::test]
async fn without_cargo_a_stack_alone_is_where_it_was_wanted_and_leaves_a_service_elsewhere_in_peace() -> Outcome {
    drop(devstack::PythonEnvironment::install(&|_| ()).await?);
    let workspace = Workspace::new("alone")?;
    let no_cargo = |mut command: Command| {
        command.env("CARGO", "/no/cargo");
        command
    };
    let installed = no_cargo(workspace.dev(&["stack", "--install"])).status()?;
    assert!(installed.success());

    let ports = [free_port(), free_port()];
    let dev = Workspace::up_as(no_cargo(workspace.stack(ports)))?;
    let running = workspace.state().ok_or("it is ready")?["running"].take();
    assert_eq!(running["database"]["port"], ports[0]);
    assert_eq!(running["manager"], format!("http://127.0.0.1:{}", ports[1]));

    let mut elsewhere = workspace.dev(&["exec", "serve"]).spawn()?;
    let admin = running["admin"].as_str().ok_or("a URL")?.trim_start_matches("http://");
    let listens = || std::net::TcpStream::connect(admin).is_ok();
    while !listens() {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let (code, said) = workspace.run(&["rotate", "database"])?;
    assert!(code == Some(0) && said.contains("4 finish") && said.contains("which runs elsewhere"), "{said}");
    assert!(!said.contains("SIGHUP"), "{said}");
    elsewhere.kill()?;
    elsewhere.wait()?;
    assert!(!listens(), "a signal to `exec` is one to the command");

    devstack::send_signal(dev.child.id(), Signal::TERM)?;
    let (status, said) = dev.ends()?;
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("migrated fake") && gone(&[], &ports), "{said}");
    Ok(())
}
