//! A program under test: its environment, its output and its end.

use std::time::Duration;

use devstack::{Launch, Signal, Stack, Tenant};

use crate::Outcome;

const SOON: Duration = Duration::from_secs(10);

fn shell(tenant: &Tenant, script: &str) -> Launch {
    Launch::with_tenant("/bin/sh", tenant).args(["-c", script])
}

fn message_of(panic: Box<dyn std::any::Any + Send>) -> String {
    *panic.downcast::<String>().expect("panics of this crate are formatted")
}

#[tokio::test]
async fn a_process_runs_with_the_tenants_environment_and_no_other() -> Outcome {
    let tenant = Stack::shared().await.tenant("environment").await?;
    let launch =
        Launch::with_tenant("/usr/bin/env", &tenant).env("APP_DATABASE__NAME", "mine").env_remove("AWS_REGION");
    let printed = launch.run();
    assert_eq!(printed.code, Some(0));
    let lines: Vec<_> = printed.stdout.lines().collect();
    assert!(lines.contains(&"APP_DATABASE__NAME=mine"), "{lines:#?}");
    assert!(lines.contains(&format!("AWS_ENDPOINT_URL={}", tenant.emulator().endpoint).as_str()), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.starts_with("AWS_REGION=") || line.starts_with("CARGO")), "{lines:#?}");
    Ok(())
}

#[tokio::test]
async fn a_process_keeps_its_own_pid_code_and_signal() -> Outcome {
    let tenant = Stack::shared().await.tenant("pid").await?;
    let mut process = shell(&tenant, "echo pid $$; echo oops >&2; read nothing; exec sleep 60").start();
    let line = process.wait_for_line(|line| line.starts_with("pid"), SOON).await;
    assert_eq!(line, format!("pid {}", process.pid()));
    process.wait_for_line(|line| line == "oops", SOON).await;
    process.signal(Signal::TERM);
    let exited = process.exited(SOON).await;
    assert_eq!((exited.code, exited.signal), (None, Some(Signal::TERM.as_raw())));
    assert_eq!(shell(&tenant, "exit 66").run().code, Some(66));
    assert_eq!(Launch::with_tenant("/no/such/program", &tenant).run().code, Some(127));
    Ok(())
}

#[tokio::test]
async fn the_addresses_are_read_from_the_event_that_names_them() -> Outcome {
    let tenant = Stack::shared().await.tenant("addresses").await?;
    let event = r#"{"fields":{"message":"listening","server.address":"127.0.0.1:1","admin.address":"127.0.0.1:2"}}"#;
    let mut process = shell(&tenant, &format!("echo starting; echo '{event}'; sleep 60")).start();
    let addresses = process.listening().await;
    assert_eq!((addresses.public.as_str(), addresses.admin.as_str()), ("127.0.0.1:1", "127.0.0.1:2"));
    assert_eq!(process.events().len(), 1, "what is not JSON is no event");
    Ok(())
}

#[tokio::test]
async fn a_process_that_ends_early_fails_the_wait_with_its_output_redacted() -> Outcome {
    let tenant = Stack::shared().await.tenant("early").await?;
    let secret = tenant.secret_values().pop().expect("every tenant has secrets");
    let launch = shell(&tenant, r#"echo "key: $LEAK"; exit 3"#).env("LEAK", &secret);
    let waiting = tokio::spawn(async move { launch.start().wait_for_line(|line| line == "never", SOON).await });
    let message = message_of(waiting.await.expect_err("the line never comes").into_panic());
    assert!(message.contains("ended without the line"), "{message}");
    assert!(message.contains("key: [signing]"), "the output is shown, without the value");
    assert!(!message.contains(&secret));
    Ok(())
}

#[tokio::test]
async fn a_secret_in_the_output_fails_the_test_however_the_process_ends() -> Outcome {
    let tenant = Stack::shared().await.tenant("leak").await?;
    let secret = tenant.secret_values().swap_remove(0);
    for script in [r#"echo "$LEAK"; echo done"#, r#"echo "$LEAK" >&2; echo done; sleep 60"#] {
        let launch = shell(&tenant, script).env("LEAK", &secret);
        let process = tokio::spawn(async move { launch.start().wait_for_line(|line| line == "done", SOON).await });
        let message = message_of(process.await.expect_err("it leaks").into_panic());
        assert!(message.contains("holds the secret of `"), "{message}");
        assert!(!message.contains(&secret));
    }
    Ok(())
}

#[tokio::test]
async fn dropping_a_process_kills_it_and_what_it_started() -> Outcome {
    let tenant = Stack::shared().await.tenant("drop").await?;
    let mut process = shell(&tenant, "trap '' TERM INT HUP; sleep 60 & echo started $!; wait").start();
    let line = process.wait_for_line(|line| line.starts_with("started "), SOON).await;
    let pids = [process.pid(), line["started ".len()..].parse()?];
    assert!(pids.iter().all(|pid| crate::processes::alive(*pid)));
    drop(process);
    assert!(crate::processes::gone(&pids, &[]));
    Ok(())
}
