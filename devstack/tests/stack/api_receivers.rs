//! The receivers of `cargo dev`: the other sides of API keys.

use std::time::{Duration, Instant};

use devstack::reqwest::Client;
use devstack::{Emulator, Signal, eventually_within, free_port};
use serde_json::json;

use crate::Outcome;
use crate::workspace::Workspace;

#[tokio::test]
async fn cargo_dev_accepts_requests_with_a_key_of_the_manager_and_prints_them() -> Outcome {
    drop(devstack::PythonEnvironment::install(&|_| ()).await?);
    let mut workspace = Workspace::new("api_receivers")?;
    let address = format!("127.0.0.1:{}", free_port());
    // The service has no credential of the second name, so there is no receiver for it.
    let receivers = json!({ "webhook": address, "absent": address });
    workspace.variables = vec![("FAKE_METADATA", json!({ "devstack": { "receivers": receivers } }).to_string())];
    let dev = workspace.up()?;

    let state = workspace.state().ok_or("it is ready")?;
    let manager = Emulator::at(state["running"]["manager"].as_str().ok_or("it is a URL")?).client();
    let key = async || -> Result<String, Box<dyn std::error::Error>> {
        let answer =
            manager.get_secret_value().secret_id("fake/hooks/webhook").version_stage("AWSCURRENT").send().await?;
        Ok(answer.secret_string.ok_or("it is text")?)
    };
    let client = Client::builder().no_proxy().tls_certs_only([]).build()?;
    let deliver = async |key: &str, kind: &str| -> Result<u16, Box<dyn std::error::Error>> {
        let request = client.post(format!("http://{address}/hook")).bearer_auth(key);
        Ok(request.body(json!({ "type": kind }).to_string()).send().await?.status().as_u16())
    };
    let first = key().await?;
    assert_eq!(deliver(&first, "note.first").await?, 202);
    assert_eq!(deliver("sentinel-0123456789", "note.foreign").await?, 401);

    let (code, output) = workspace.run(&["rotate", "webhook"])?;
    assert!(code == Some(0) && output.contains("in service"), "{output}");
    let second = key().await?;
    assert_ne!(first, second);
    assert_eq!(deliver(&second, "note.second").await?, 202);
    assert_eq!(deliver(&first, "note.late").await?, 202, "the receiver accepts the previous key, too");
    workspace.run(&["rotate", "webhook"])?;
    let third = key().await?;
    assert_eq!(deliver(&first, "note.outdated").await?, 401);

    // The receiver prints at most some lines per second: this begins another second.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let storm = Instant::now();
    for _ in 0..30 {
        assert_eq!(deliver(&third, "note.storm").await?, 202);
    }
    assert_eq!(deliver(&second, "note.behind").await?, 202);
    let seconds = storm.elapsed().as_secs() as usize + 2;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(deliver(&third, "note.calm").await?, 202);

    devstack::send_signal(dev.child.id(), Signal::INT)?;
    let (status, output) = dev.ends()?;
    assert_eq!(status.code(), Some(0), "{output}");
    for (kind, answer) in [
        ("note.first", "key AWSCURRENT  202 Accepted"),
        ("note.foreign", "no key of ours  401 Unauthorized"),
        ("note.second", "key AWSCURRENT  202 Accepted"),
        ("note.late", "key AWSPREVIOUS  202 Accepted"),
        ("note.outdated", "no key of ours  401 Unauthorized"),
        ("note.behind", "key AWSPREVIOUS  202 Accepted"),
    ] {
        assert!(output.contains(&format!("webhook  POST /hook  {kind}  {answer}\n")), "{output}");
    }
    let printed = output.matches("note.storm").count();
    let more = output.lines().filter_map(|line| line.split_once("webhook  and ")?.1.strip_suffix(" more like these"));
    let more: usize = more.map(|count| count.parse::<usize>().unwrap_or(0)).sum();
    assert!(printed <= 3 * seconds && printed + more == 30, "most requests of a storm are only counted: {output}");
    for key in [&first, &second, &third, "sentinel-0123456789"] {
        assert!(!output.contains(key), "a key is in the output");
    }
    let listens = || std::net::TcpStream::connect(&address).is_ok();
    eventually_within(Duration::from_secs(5), "the end of the receiver", async || !listens()).await;
    Ok(())
}
