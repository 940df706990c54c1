//! `cargo dev` with a service that speaks TLS.

use std::path::PathBuf;
use std::time::Duration;

use devstack::Signal;
use devstack::reqwest::{Certificate, Client, Identity};

use crate::Outcome;
use crate::workspace::Workspace;

/// Returns a client that uses the files that `cargo dev` prints for curl.
fn curl_client(workspace: &Workspace, identity: bool) -> Result<Client, Box<dyn std::error::Error>> {
    let file = |name| std::fs::read(workspace.target.join("devstack").join(name));
    let client = Client::builder().no_proxy().tls_certs_only([Certificate::from_pem(&file("ca.pem")?)?]);
    Ok(if identity { client.identity(Identity::from_pem(&file("client.pem")?)?) } else { client }.build()?)
}

fn file(workspace: &Workspace, name: &str) -> PathBuf {
    workspace.target.join("devstack").join(name)
}

#[tokio::test]
async fn every_command_of_cargo_dev_works_with_tls() -> Outcome {
    drop(devstack::PythonEnvironment::install(&|_| ()).await?);
    let mut workspace = Workspace::new("https")?;
    std::fs::write(workspace.target.join("config/dev.toml"), "")?;
    workspace.variables = vec![("FAKE_TLS", "fresh".into())];
    let _ = std::fs::remove_file(file(&workspace, "client.pem"));

    let mut command = workspace.dev(&[]);
    command.env("APP_SERVER__DRAIN", "7s");
    let dev = Workspace::up_as(command)?;
    let admin = format!("https://{}", workspace.admin);
    let certificate = file(&workspace, "ca.pem");
    curl_client(&workspace, false)?.get(format!("{admin}/status")).send().await?.error_for_status()?;
    assert!(!file(&workspace, "client.pem").exists(), "the service asks for no client certificate");

    a_certificate_is_rotated_and_new_connections_show_it(&workspace)?;
    let (code, output) = workspace.run(&["load", "--rate", "50", "--for", "1s"])?;
    assert!(code == Some(0) && output.contains("failures     0") && output.contains("certificates 1"), "{output}");

    let service = workspace.state().ok_or("it is ready")?["running"]["pids"]["service"].as_u64().ok_or("a pid")?;
    let load = ["load", "--rate", "50", "--clients", "2", "--for", "5s"];
    let (code, output) =
        workspace.run_until(&load, "     1  ", |_| devstack::send_signal(service as u32, Signal::USR1))?;
    let kinds = ["× status 503", "× handshake failed"];
    assert!(
        code == Some(1) && kinds.iter().all(|kind| output.contains(kind)),
        "old connections and new ones: {output}"
    );

    let (_, output) = workspace.run(&["exec", "audit", "--of", "here"])?;
    assert!(
        output.contains("profile dev 7s"),
        "a command of the service has the configuration of the running one: {output}"
    );
    let mut command = workspace.dev(&["exec", "audit", "--of", "here"]);
    let output = command.env("APP_SERVER__DRAIN", "8s").output()?.stdout;
    assert!(String::from_utf8_lossy(&output).contains("profile dev 8s"), "the user's own variables come first");

    devstack::send_signal(dev.child.id(), Signal::INT)?;
    let (status, output) = dev.ends()?;
    assert_eq!(status.code(), Some(0), "{output}");
    let cacert = format!("curl --cacert {} -s", certificate.display());
    let expected = [&format!("{cacert} {admin}/status\n"), "cargo dev rotate tls\n", "profile dev audience None\n"];
    assert!(expected.iter().all(|text| output.contains(*text)), "{output}");
    let audit = format!("cargo dev exec audit --ca {} {admin}\n", certificate.display());
    assert!(output.contains(&audit) && !output.contains("PRIVATE KEY"), "{output}");

    an_authority_stays_as_long_as_the_target_folder(&workspace)?;
    a_service_that_does_not_change_its_certificate_is_an_error(&mut workspace)?;
    a_client_shows_a_certificate_if_the_service_asks_for_one(&mut workspace).await
}

fn a_certificate_is_rotated_and_new_connections_show_it(workspace: &Workspace) -> Outcome {
    let before = std::time::SystemTime::now();
    for (name, arguments, days) in [("tls", &["--expires", "6d"][..], 6), ("server_tls", &[], 90)] {
        let (code, output) = workspace.run(&[&["rotate", name], arguments].concat())?;
        let expected =
            ["fake/server_tls: version", "SIGHUP", "in service", "shows the new certificate in new connections"];
        assert!(code == Some(0) && expected.iter().all(|text| output.contains(text)), "{output}");
        assert_eq!(output.matches("shows the new certificate").count(), 2, "each listener is asked: {output}");
        let until = output.lines().find_map(|line| line.split_once("until ")).ok_or("it names the end")?.1;
        let end = humantime::parse_rfc3339(until)?.duration_since(before)?;
        // The text has whole seconds.
        assert_eq!(end.as_secs_f64().ceil() as u64 / (24 * 60 * 60), days, "{output}");
    }
    let (code, output) = workspace.run(&["rotate", "tls", "--no-signal"])?;
    assert!(code == Some(0) && output.contains("not telling the service"), "{output}");
    Ok(())
}

fn an_authority_stays_as_long_as_the_target_folder(workspace: &Workspace) -> Outcome {
    let before = std::fs::read(file(workspace, "ca.pem"))?;
    let dev = workspace.up()?;
    assert_eq!(std::fs::read(file(workspace, "ca.pem"))?, before, "a client that trusts it need not start again");
    devstack::send_signal(dev.child.id(), Signal::INT)?;
    dev.ends()?;
    Ok(())
}

fn a_service_that_does_not_change_its_certificate_is_an_error(workspace: &mut Workspace) -> Outcome {
    workspace.variables = vec![("FAKE_TLS", "stale".into())];
    let dev = workspace.up()?;
    let (code, output) = workspace.run(&["rotate", "tls"])?;
    assert!(code == Some(1) && output.contains("in service"), "/status says so all the same: {output}");
    assert!(output.contains("does not serve the new certificate: it still shows another"), "{output}");

    devstack::send_signal(dev.child.id(), Signal::INT)?;
    dev.ends()?;
    Ok(())
}

async fn a_client_shows_a_certificate_if_the_service_asks_for_one(workspace: &mut Workspace) -> Outcome {
    workspace.variables = vec![("FAKE_TLS", "fresh".into()), ("FAKE_CLIENTS", "1".into())];
    let dev = workspace.up()?;
    let status = format!("https://{}/status", workspace.admin);
    curl_client(workspace, false)?.get(&status).send().await.expect_err("it shows no certificate");
    curl_client(workspace, true)?.get(&status).timeout(Duration::from_secs(5)).send().await?.error_for_status()?;
    for name in ["tls", "client_ca"] {
        let (code, output) = workspace.run(&["rotate", name])?;
        assert!(code == Some(0) && output.contains("in service"), "{output}");
    }
    let (code, output) = workspace.run(&["load", "--rate", "50", "--for", "1s"])?;
    assert!(code == Some(0) && output.contains("failures     0"), "{output}");
    devstack::send_signal(dev.child.id(), Signal::INT)?;
    let (_, output) = dev.ends()?;
    let cert = format!("--cert {}", file(workspace, "client.pem").display());
    let lines: Vec<_> = output.lines().filter(|line| line.contains("curl")).collect();
    assert!(lines.iter().all(|line| line.contains(&cert) == line.contains("/v1/")), "{output}");
    assert!(!output.contains("PRIVATE KEY"));
    Ok(())
}
