//! `cargo dev` with a service that speaks TLS.

use std::path::PathBuf;
use std::time::Duration;

use devstack::Signal;
use devstack::reqwest::{Certificate, Client, Identity};

use crate::Outcome;
use crate::dev::Workspace;

/// What curl does with the files that are printed for it.
fn curl(workspace: &Workspace, identity: bool) -> Result<Client, Box<dyn std::error::Error>> {
    let file = |name| std::fs::read(workspace.target.join("devstack").join(name));
    let client = Client::builder().no_proxy().tls_certs_only([Certificate::from_pem(&file("ca.pem")?)?]);
    Ok(if identity { client.identity(Identity::from_pem(&file("client.pem")?)?) } else { client }.build()?)
}

fn file(workspace: &Workspace, name: &str) -> PathBuf {
    workspace.target.join("devstack").join(name)
}

#[tokio::test]
async fn cargo_dev_with_tls_trusts_its_own_authority_in_all_it_does() -> Outcome {
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
    curl(&workspace, false)?.get(format!("{admin}/status")).send().await?.error_for_status()?;
    assert!(!file(&workspace, "client.pem").exists(), "nobody asks for a certificate");

    a_certificate_is_rotated_until_who_connects_sees_it(&workspace)?;
    let (code, said) = workspace.run(&["load", "--rate", "50", "--for", "1s"])?;
    assert!(code == Some(0) && said.contains("failures     0") && said.contains("certificates 1"), "{said}");

    let service = workspace.state().ok_or("it is ready")?["running"]["pids"]["service"].as_u64().ok_or("a pid")?;
    let load = ["load", "--rate", "50", "--clients", "2", "--for", "2s"];
    let (code, said) =
        workspace.run_until(&load, "     1  ", |_| devstack::send_signal(service as u32, Signal::USR1))?;
    let kinds = ["× status 503", "× handshake failed"];
    assert!(code == Some(1) && kinds.iter().all(|kind| said.contains(kind)), "old connections and new ones: {said}");

    let (_, said) = workspace.run(&["exec", "audit", "--of", "here"])?;
    assert!(said.contains("profile dev 7s"), "a command of the service is configured as the running one: {said}");
    let mut command = workspace.dev(&["exec", "audit", "--of", "here"]);
    let said = command.env("APP_SERVER__DRAIN", "8s").output()?.stdout;
    assert!(String::from_utf8_lossy(&said).contains("profile dev 8s"), "unless its user says otherwise");

    devstack::send_signal(dev.child.id(), Signal::INT)?;
    let (status, said) = dev.ends()?;
    assert_eq!(status.code(), Some(0), "{said}");
    let cacert = format!("curl --cacert {} -s", certificate.display());
    let expected = [&format!("{cacert} {admin}/status\n"), "cargo dev rotate tls\n", "profile dev\n"];
    assert!(expected.iter().all(|text| said.contains(*text)), "{said}");
    let audit = format!("cargo dev exec audit --ca {} {admin}\n", certificate.display());
    assert!(said.contains(&audit) && !said.contains("PRIVATE KEY"), "{said}");

    an_authority_lives_as_long_as_the_target_folder(&workspace)?;
    a_service_that_keeps_its_certificate_is_found_out(&mut workspace)?;
    a_client_shows_the_certificate_that_it_is_asked_for(&mut workspace).await
}

fn a_certificate_is_rotated_until_who_connects_sees_it(workspace: &Workspace) -> Outcome {
    let before = std::time::SystemTime::now();
    for (name, arguments, days) in [("tls", &["--expires", "6d"][..], 6), ("server_tls", &[], 90)] {
        let (code, said) = workspace.run(&[&["rotate", name], arguments].concat())?;
        let expected = ["fake/tls: version", "SIGHUP", "in service", "shows the new certificate to who connects now"];
        assert!(code == Some(0) && expected.iter().all(|text| said.contains(text)), "{said}");
        assert_eq!(said.matches("shows the new certificate").count(), 2, "each listener is asked: {said}");
        let until = said.lines().find_map(|line| line.split_once("until ")).ok_or("it names the end")?.1;
        let end = humantime::parse_rfc3339(until)?.duration_since(before)?;
        // The text has whole seconds.
        assert_eq!(end.as_secs_f64().ceil() as u64 / (24 * 60 * 60), days, "{said}");
    }
    let (code, said) = workspace.run(&["rotate", "tls", "--no-signal"])?;
    assert!(code == Some(0) && said.contains("not telling the service"), "{said}");
    Ok(())
}

fn an_authority_lives_as_long_as_the_target_folder(workspace: &Workspace) -> Outcome {
    let before = std::fs::read(file(workspace, "ca.pem"))?;
    let dev = workspace.up()?;
    assert_eq!(std::fs::read(file(workspace, "ca.pem"))?, before, "whoever trusts it need not start again");
    devstack::send_signal(dev.child.id(), Signal::INT)?;
    dev.ends()?;
    Ok(())
}

fn a_service_that_keeps_its_certificate_is_found_out(workspace: &mut Workspace) -> Outcome {
    workspace.variables = vec![("FAKE_TLS", "stale".into())];
    let dev = workspace.up()?;
    let (code, said) = workspace.run(&["rotate", "tls"])?;
    assert!(code == Some(1) && said.contains("in service"), "/status says so all the same: {said}");
    assert!(said.contains("does not serve the new certificate: it still shows another"), "{said}");

    devstack::send_signal(dev.child.id(), Signal::INT)?;
    dev.ends()?;
    Ok(())
}

async fn a_client_shows_the_certificate_that_it_is_asked_for(workspace: &mut Workspace) -> Outcome {
    workspace.variables = vec![("FAKE_TLS", "fresh".into()), ("FAKE_CLIENTS", "1".into())];
    let dev = workspace.up()?;
    let status = format!("https://{}/status", workspace.admin);
    curl(workspace, false)?.get(&status).send().await.expect_err("it shows no certificate");
    curl(workspace, true)?.get(&status).timeout(Duration::from_secs(5)).send().await?.error_for_status()?;
    for name in ["tls", "client_ca"] {
        let (code, said) = workspace.run(&["rotate", name])?;
        assert!(code == Some(0) && said.contains("in service"), "{said}");
    }
    let (code, said) = workspace.run(&["load", "--rate", "50", "--for", "1s"])?;
    assert!(code == Some(0) && said.contains("failures     0"), "{said}");
    devstack::send_signal(dev.child.id(), Signal::INT)?;
    let (_, said) = dev.ends()?;
    let cert = format!("--cert {}", file(workspace, "client.pem").display());
    let lines: Vec<_> = said.lines().filter(|line| line.contains("curl")).collect();
    assert!(lines.iter().all(|line| line.contains(&cert) == line.contains("/v1/")), "{said}");
    assert!(!said.contains("PRIVATE KEY"));
    Ok(())
}
