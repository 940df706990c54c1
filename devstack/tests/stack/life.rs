//! The end of a stack: nothing is left behind.

use devstack::{Stack, eventually, free_port};

use crate::Outcome;
use crate::processes::{alive, gone, kill, listens};
use crate::workspace::Workspace;

fn ports(stack: &Stack) -> [u16; 2] {
    let port = stack.emulator().endpoint.rsplit(':').next().and_then(|port| port.parse().ok());
    [stack.postgres().port, port.expect("the endpoint ends with its port")]
}

#[tokio::test]
async fn a_stack_that_stops_leaves_no_process_no_port_and_no_folder() -> Outcome {
    let stack = Stack::start(&|_| ()).await?;
    let (pids, ports, log) = (stack.pids(), ports(&stack), stack.postgres().log.clone());
    assert!(pids.iter().all(|pid| alive(*pid)) && ports.iter().all(|port| listens(*port)) && log.exists());
    assert!(stack.exited().is_none());
    let runs = log.ancestors().nth(2).ok_or("it is in the folder of its run")?;
    let half_removed = runs.join("half-removed");
    std::fs::create_dir_all(half_removed.join("postgres"))?;
    Stack::start(&|_| ()).await?.stop().await;
    assert!(!half_removed.exists() && log.exists(), "the next run removes dead folders, and nothing else");

    stack.stop().await;
    assert!(!pids.iter().any(|pid| alive(*pid)) && !ports.iter().any(|port| listens(*port)));
    assert!(!log.exists());
    Ok(())
}

#[tokio::test]
async fn a_part_that_crashes_is_named() -> Outcome {
    for (part, name) in ["PostgreSQL", "the secrets manager"].into_iter().enumerate() {
        let stack = Stack::start(&|_| ()).await?;
        kill(stack.pids()[part]);
        let exited = eventually("the end of the killed part", async || stack.exited());
        let error = exited.await.to_string();
        assert!(error.starts_with(&format!("{name} stopped by itself (signal: 9")), "{error}");
        stack.stop().await;
    }
    Ok(())
}

#[tokio::test]
async fn nothing_outlives_an_owner_that_is_killed() -> Outcome {
    drop(devstack::PythonEnvironment::install(&|_| ()).await?);
    let workspace = Workspace::new("killed")?;
    let ports = [free_port(), free_port()];
    let owner = Workspace::up_as(workspace.stack(ports))?;
    let pids = workspace.state().ok_or("it is ready")?["running"]["pids"].take();
    let pids = ["postgres", "manager"].map(|part| pids[part].as_u64().expect("a pid") as u32);
    assert!(pids.iter().all(|pid| alive(*pid)) && ports.iter().all(|port| listens(*port)));
    kill(owner.child.id());
    owner.ends()?;
    assert!(gone(&pids, &ports));
    Ok(())
}
