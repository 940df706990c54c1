//! `cargo dev` is the other side of an API key, too.

use std::time::{Duration, Instant};

use devstack::reqwest::Client;
use devstack::{Emulator, Signal, free_port};
use serde_json::json;

use crate::Outcome;
use crate::dev::Workspace;

#[tokio::test]
async fn a_receiver_takes_what_comes_with_a_key_that_the_manager_has_and_says_what_it_was() -> Outcome {
    drop(devstack::PythonEnvironment::install(&|_| ()).await?);
    let mut workspace = Workspace::new("deliveries")?;
    let address = format!("127.0.0.1:{}", free_port());
    // The service has no credential of the second name: nobody listens for it.
    let receivers = json!({ "webhook": address, "absent": address });
    workspace.variables = vec![("FAKE_METADATA", json!({ "devstack": { "receivers": receivers } }).to_string())];
    let dev = workspace.up()?;

    let state = workspace.state().ok_or("it is ready")?;
    let manager = Emulator::at(state["running"]["manager"].as_str().ok_or("it is a URL")?).client();
    let key = async || -> Result<String, Box<dyn std::error::Error>> {
        let answer = manager.get_secret_value().secret_id("fake/webhook").version_stage("AWSCURRENT").send().await?;
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

    let (code, said) = workspace.run(&["rotate", "webhook"])?;
    assert!(code == Some(0) && said.contains("in service"), "{said}");
    let second = key().await?;
    assert_ne!(first, second);
    assert_eq!(deliver(&second, "note.second").await?, 202);
    assert_eq!(deliver(&first, "note.late").await?, 202, "the other side takes the one before, too");
    workspace.run(&["rotate", "webhook"])?;
    let third = key().await?;
    assert_eq!(deliver(&first, "note.outdated").await?, 401);

    std::thread::sleep(Duration::from_secs(1));
    let storm = Instant::now();
    for _ in 0..30 {
        assert_eq!(deliver(&third, "note.storm").await?, 202);
    }
    assert_eq!(deliver(&second, "note.behind").await?, 202);
    let seconds = storm.elapsed().as_secs() as usize + 2;
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(deliver(&third, "note.calm").await?, 202);

    devstack::send_signal(dev.child.id(), Signal::INT)?;
    let (status, said) = dev.ends()?;
    assert_eq!(status.code(), Some(0), "{said}");
    for (kind, answer) in [
        ("note.first", "key AWSCURRENT  202 Accepted"),
        ("note.foreign", "no key of ours  401 Unauthorized"),
        ("note.second", "key AWSCURRENT  202 Accepted"),
        ("note.late", "key AWSPREVIOUS  202 Accepted"),
        ("note.outdated", "no key of ours  401 Unauthorized"),
        ("note.behind", "key AWSPREVIOUS  202 Accepted"),
    ] {
        assert!(said.contains(&format!("webhook  POST /hook  {kind}  {answer}\n")), "{said}");
    }
    let told = said.matches("note.storm").count();
    let more = said.lines().filter_map(|line| line.split_once("webhook  and ")?.1.strip_suffix(" more like these"));
    let more: usize = more.map(|count| count.parse::<usize>().unwrap_or(0)).sum();
    assert!(told <= 3 * seconds && told + more == 30, "a storm is told in short: {said}");
    for key in [&first, &second, &third, "sentinel-0123456789"] {
        assert!(!said.contains(key), "a key is in the output");
    }
    nobody_listens(&address);
    Ok(())
}

fn nobody_listens(address: &str) {
    let give_up = Instant::now() + Duration::from_secs(5);
    while std::net::TcpStream::connect(address).is_ok() {
        assert!(Instant::now() < give_up, "the receiver outlives cargo dev");
        std::thread::sleep(Duration::from_millis(50));
    }
}
