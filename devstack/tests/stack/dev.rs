//! `cargo dev` with a fake cargo and a fake service. The project's own tests use the real ones.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use devstack::{Polling, Signal};
use serde_json::Value;

use crate::Outcome;
use crate::processes::{alive, gone, kill};
use crate::workspace::{SECTIONS, Workspace};

fn pids_and_ports(state: &Value) -> (Vec<u32>, Vec<u16>) {
    let running = &state["running"];
    let pids = ["service", "postgres", "manager"].map(|part| running["pids"][part].as_u64().expect("a pid") as u32);
    let manager = running["manager"].as_str().and_then(|url| url.rsplit(':').next()?.parse().ok());
    let database = running["database"]["port"].as_u64().expect("a port") as u16;
    let admin = running["admin"].as_str().and_then(|address| address.rsplit(':').next()?.parse().ok());
    (pids.into(), vec![manager.expect("a port"), database, admin.expect("a port")])
}

// One after another: a target folder allows one `cargo dev` at a time. That is a part of the test.
#[tokio::test]
async fn cargo_dev_runs_rotates_and_leaves_nothing_however_it_ends() -> Outcome {
    drop(devstack::PythonEnvironment::install(&|_| ()).await?);
    let mut workspace = Workspace::new("dev")?;
    a_second_cargo_dev_is_an_error_and_ctrl_c_stops_everything(&workspace)?;
    rotations_print_their_steps(&workspace)?;
    an_issuer_gives_tokens_if_the_routes_need_them(&workspace)?;
    a_version_loaded_in_the_window_stays_in_service(&workspace)?;
    a_load_is_steady_and_fails_with_its_requests(&workspace)?;
    the_metadata_of_a_project_names_the_requests(&mut workspace)?;
    sections_can_share_a_database(&mut workspace)?;
    a_taken_port_is_an_error_before_anything_starts(&workspace)?;
    a_crash_is_named_and_ends_the_rest(&workspace)?;
    the_second_signal_ends_everything_at_once(&workspace)?;
    being_killed_leaves_nothing(&workspace)
}

fn a_second_cargo_dev_is_an_error_and_ctrl_c_stops_everything(workspace: &Workspace) -> Outcome {
    for arguments in [&["rotate", "database"][..], &["load"], &["exec", "check"]] {
        let (code, output) = workspace.run(arguments)?;
        assert!(code == Some(1) && output.contains("none runs in this workspace"), "{output}");
    }

    let (code, output) = workspace.run(&["--secrets", "aws", "--ttl", "20s"])?;
    assert!(code == Some(1) && output.contains("add --secrets openbao") && !output.contains("building"), "{output}");

    let dev = workspace.up()?;
    let state = workspace.state().expect("it is ready");
    let (pids, ports) = pids_and_ports(&state);

    let second = workspace.dev(&[]).output()?;
    let output = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1));
    assert!(output.contains(&format!("process {}", dev.child.id())) && output.contains(&workspace.admin), "{output}");

    // Another workspace with the same target folder.
    for (arguments, expected) in [
        (&[][..], "another one runs in this target folder: process"),
        (&["rotate", "database"], "none runs in this workspace, but another one in this target folder: process"),
    ] {
        let output = workspace.dev(arguments).env("CARGO_MANIFEST_DIR", std::env::temp_dir()).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && error.contains(expected), "{error}");
        assert!(error.contains(&devstack::workspace().display().to_string()), "{error}");
    }

    devstack::send_signal(dev.child.id(), Signal::INT)?;
    let (status, output) = dev.ends()?;
    assert_eq!(status.code(), Some(0), "{output}");
    assert!(output.contains("migrated fake") && output.contains("serving pretty [] False"), "{output}");
    assert!(output.contains("profile None"), "there is no dev.toml: {output}");
    assert!(
        output.contains("cargo dev rotate database\n") && !output.contains("cargo dev rotate migrator"),
        "{output}"
    );
    assert!(output.contains(&format!("http://{}/status", workspace.admin)), "{output}");
    let (post, get) =
        (format!("http://{}/v1/thing", workspace.public), format!("'http://{}/v1/things", workspace.public));
    let post = format!("curl -i {post} -H 'content-type: application/json' -d '{{\"is\": \"Bob'\\''s\"}}'\n");
    assert!(
        output.contains(&post) && output.contains(&format!("curl -s {get}?all=1'\n")),
        "quoted for a shell: {output}"
    );
    assert!(gone(&pids, &ports), "{output}");
    assert!(workspace.state().is_none());
    Ok(())
}

fn ctrl_c(pid: u32) -> Result<(), devstack::Error> {
    devstack::send_signal(pid, Signal::INT)
}

fn rotations_print_their_steps(workspace: &Workspace) -> Outcome {
    let dev = workspace.up()?;
    let state = workspace.state().expect("it is ready").to_string();
    assert!(!state.contains("sentinel-"), "a secret is in the state file");
    for (credential, expected) in [
        (
            "database",
            &["1 create  elsewhere/database", "2 set", "3 test", "4 finish", "SIGHUP", "generation 1 -> 2"][..],
        ),
        ("reports", &["4 finish", "generation 2 -> 3"]),
        ("signing", &["fake/signing: version", "generation 3 -> 4"]),
        ("webhook", &["fake/hooks/webhook: version", "generation 4 -> 5"]),
        ("migrator", &["4 finish", "does not hold"]),
    ] {
        let (code, output) = workspace.run(&["rotate", credential])?;
        assert!(code == Some(0) && expected.iter().all(|text| output.contains(text)), "{credential}: {output}");
        assert!(!output.contains("sentinel-"));
    }
    for (arguments, expected_code, reason) in [
        (&["nonsense"][..], 1, "it has database, reports, signing, webhook, migrator"),
        (&["tls"], 1, "no credential `tls`"),
        (&["signing", "--window", "1s"], 1, "`signing` is no login"),
        (&["signing", "--expires", "6d"], 1, "`signing` is no certificate"),
        (&["database", "--window", "5"], 2, "invalid value '5' for '--window <DURATION>': time unit needed"),
    ] {
        let (code, output) = workspace.run(&[&["rotate"], arguments].concat())?;
        assert!(code == Some(expected_code) && output.contains(reason), "{output}");
    }
    let (code, output) = workspace.run(&["token"])?;
    assert!(code == Some(1) && output.contains("started without `--auth`"), "{output}");
    let (code, output) = workspace.run(&["exec", "audit", "--of", "here"])?;
    assert!(code == Some(69) && output.contains("audited here True\n"), "{output}");
    let rotate = ["rotate", "database", "--window", "10m", "--no-signal"];
    let (code, output) = workspace.run_until(&rotate, "still holds version", ctrl_c)?;
    let expected = ["here for 10m", "generation 5 still holds version", "(current)", "not telling the service"];
    assert!(code == Some(0) && expected.iter().all(|text| output.contains(text)), "{output}");
    devstack::send_signal(dev.child.id(), Signal::TERM)?;
    let (status, output) = dev.ends()?;
    assert_eq!(status.code(), Some(0), "{output}");
    Ok(())
}

fn an_issuer_gives_tokens_if_the_routes_need_them(workspace: &Workspace) -> Outcome {
    let dev = Workspace::up_as(workspace.dev(&["--auth"]))?;
    let (code, token) = workspace.run(&["token", "--subject", "ada", "--scope", "a b"])?;
    assert!(code == Some(0) && token.trim().split('.').count() == 3, "{token}");
    assert!(
        !workspace.state().expect("it is ready").to_string().contains(token.trim()),
        "a token is in the state file"
    );
    let (code, output) = workspace.run(&["rotate", "auth"])?;
    assert!(code == Some(0) && output.contains("signs with a new key"), "{output}");
    devstack::send_signal(dev.child.id(), Signal::INT)?;
    let (status, output) = dev.ends()?;
    assert_eq!(status.code(), Some(0), "{output}");
    for part in ["audience local", "cargo dev rotate auth\n", "$(cargo dev token)", "A token for an hour: ey"] {
        assert!(output.contains(part), "{part} is missing in {output}");
    }
    Ok(())
}

fn a_version_loaded_in_the_window_stays_in_service(workspace: &Workspace) -> Outcome {
    let mut command = workspace.dev(&[]);
    command.env("FAKE_EAGER", "1");
    let dev = Workspace::up_as(command)?;
    let rotate = ["rotate", "database", "--window", "10m"];
    let (code, output) = workspace.run_until(&rotate, "already holds version", ctrl_c)?;
    let expected = ["generation 2 already holds version", "(pending)", "SIGHUP", "generation 1 -> 2"];
    assert!(code == Some(0) && expected.iter().all(|text| output.contains(text)), "{output}");

    let begun = Instant::now();
    let (code, output) = workspace.run_until(&rotate, "Ctrl-C: no longer", ctrl_c)?;
    assert!(code == Some(0) && output.contains("4 finish"), "Ctrl-C ends the window, not the rotation: {output}");
    assert!(begun.elapsed() < Duration::from_secs(300));
    devstack::send_signal(dev.child.id(), Signal::TERM)?;
    dev.ends()?;
    Ok(())
}

fn a_load_is_steady_and_fails_with_its_requests(workspace: &Workspace) -> Outcome {
    let dev = workspace.up()?;
    let service = workspace.state().expect("it is ready")["running"]["pids"]["service"].as_u64().expect("a pid") as u32;
    const LOAD: [&str; 5] = ["load", "--rate", "50", "--clients", "1"];
    let lasting = |length| [&LOAD[..], &["--for", length]].concat();
    const A_SECOND: &str = "     1  ";

    let (code, output) = workspace.run(&lasting("2s"))?;
    let expected = ["\n     1  ", "\n     2  ", "requests     100 in 2.0 s", "failures     0", "generations  1"];
    assert!(code == Some(0) && expected.iter().all(|text| output.contains(text)), "{output}");

    let (code, output) = workspace.run_until(&LOAD, A_SECOND, ctrl_c)?;
    assert!(code == Some(0) && output.contains("failures     0"), "Ctrl-C ends it: {output}");

    let (code, output) =
        workspace.run_until(&lasting("5s"), A_SECOND, |_| devstack::send_signal(service, Signal::USR2))?;
    let p99 = output.lines().find_map(|line| line.strip_prefix("p99")?.strip_suffix("ms")?.trim().parse::<f64>().ok());
    assert!(code == Some(0) && output.contains("requests     250"), "{output}");
    assert!(p99.is_some_and(|p99| p99 > 500.0), "the wait for a stalled request counts: {output}");

    devstack::send_signal(service, Signal::USR1)?;
    let (code, output) = workspace.run(&lasting("500ms"))?;
    assert!(
        code == Some(1) && output.contains("25 × status 503") && output.contains("25 of 25 requests failed"),
        "{output}"
    );

    kill(service);
    dev.ends()?;
    Ok(())
}

fn the_metadata_of_a_project_names_the_requests(workspace: &mut Workspace) -> Outcome {
    let with_metadata = |section: &str| vec![("FAKE_METADATA", format!("{{\"devstack\": {section}}}"))];
    let load = ["load", "--rate", "50", "--for", "1s"];
    workspace.variables = with_metadata(r#"{"receivers": {}}"#);
    let dev = workspace.up()?;
    let (code, output) = workspace.run(&load)?;
    let expected = "[package.metadata.devstack] in Cargo.toml wants `get = \"/v1/hello\"`";
    assert!(code == Some(1) && output.contains(expected), "{output}");
    workspace.variables = Vec::new();
    let (code, output) = workspace.run(&load)?;
    assert!(code == Some(0) && output.contains("/v1/things?all=1\none of 10 is POST "), "{output}");
    workspace.variables = with_metadata(r#"{"get": "/v1/things?all=1"}"#);
    let (code, output) = workspace.run(&load)?;
    assert!(code == Some(0) && !output.contains("POST"), "{output}");
    for (wrong, expected) in [
        (r#"{"get": 1}"#, "wants `get = \"/v1/hello\"`"),
        (r#"{"get": "v1/hello"}"#, "wants `get = \"/v1/hello\"`"),
        (r#"{"get": "/v1/a b"}"#, "wants `get = \"/v1/hello\"`"),
        (r#"{"post": "/v1/hello"}"#, "wants `post = { path = \"/v1/hello\", body = '"),
        (r#"{"post": {"path": "/v1/hello"}}"#, "wants `post = {"),
        (r#"{"post": {"path": "/v1/hello", "body": "hello"}}"#, "wants `post = {"),
        (r#"{"post": {"path": "/v1/hello", "body": "{}", "get": 1}}"#, "wants `post = {"),
        (r#"{"receivers": {"webhook": 8081}}"#, "wants lines like `webhook = \"127.0.0.1:8081\"` under"),
        (r#"{"gett": "/"}"#, "nothing but `get`, `post` and `receivers`, and not `gett`"),
        ("1", "wants a section"),
    ] {
        workspace.variables = with_metadata(wrong);
        let (code, output) = workspace.run(&load)?;
        assert!(code == Some(1) && output.contains(expected), "{wrong}: {output}");
    }
    workspace.variables = Vec::new();

    devstack::send_signal(dev.child.id(), Signal::TERM)?;
    let (_, output) = dev.ends()?;
    assert_eq!(output.matches("written to\n").count(), 5, "those of the second load: {output}");
    let requests = output.lines().filter(|line| line.contains("curl") && !line.contains("/status"));
    assert_eq!(requests.count(), 0, "nothing to try without `get` and `post`: {output}");
    Ok(())
}

fn sections_can_share_a_database(workspace: &mut Workspace) -> Outcome {
    workspace.variables =
        vec![("FAKE_DATABASES", SECTIONS.into()), ("FAKE_MIGRATORS", "migrator_writer migrator_elsewhere".into())];
    let dev = workspace.up()?;
    devstack::send_signal(dev.child.id(), Signal::TERM)?;
    let (status, output) = dev.ends()?;
    assert_eq!(status.code(), Some(0), "{output}");
    assert!(
        output.contains(
            "migrated fake fake fake fake fake_elsewhere reports
"
        ),
        "{output}"
    );
    assert!(!output.contains("rotate migrator"), "the service holds none: {output}");
    workspace.variables = Vec::new();
    Ok(())
}

fn a_taken_port_is_an_error_before_anything_starts(workspace: &Workspace) -> Outcome {
    let _taken = TcpListener::bind(&workspace.admin)?;
    let (code, output) = workspace.run(&[])?;
    let expected = [&format!("the service needs {}", workspace.admin), "APP_ADMIN__LISTEN=127.0.0.1:"];
    assert!(code == Some(1) && expected.iter().all(|text| output.contains(*text)), "{output}");
    assert!(!output.contains("creating the database"), "{output}");
    if cfg!(target_os = "linux") {
        assert!(output.contains(&format!("process {} (", std::process::id())), "{output}");
    }
    Ok(())
}

fn a_crash_is_named_and_ends_the_rest(workspace: &Workspace) -> Outcome {
    for (part, named) in
        [("service", "the service ended by itself (signal: 9"), ("postgres", "PostgreSQL stopped by itself (signal: 9")]
    {
        let dev = workspace.up()?;
        let state = workspace.state().expect("it is ready");
        let (pids, ports) = pids_and_ports(&state);
        kill(state["running"]["pids"][part].as_u64().expect("a pid") as u32);
        let (status, output) = dev.ends()?;
        assert_eq!(status.code(), Some(1), "{output}");
        assert!(output.contains(named), "{output}");
        if let Some((_, log)) = output.split_once("its log is ") {
            let log = log.split(',').next().unwrap_or_default();
            assert!(Path::new(log).exists(), "{log} is gone");
        }
        assert!(gone(&pids, &ports), "{output}");
    }
    Ok(())
}

fn the_second_signal_ends_everything_at_once(workspace: &Workspace) -> Outcome {
    let mut command = workspace.dev(&[]);
    command.env("FAKE_STUBBORN", "1");
    let dev = Workspace::up_as(command)?;
    let (pids, ports) = pids_and_ports(&workspace.state().expect("it is ready"));
    devstack::send_signal(dev.child.id(), Signal::HUP)?;
    let ended = Polling { interval: Duration::from_millis(50), limit: Duration::from_secs(1) }
        .until_blocking(|| if alive(pids[0]) { None } else { Some(()) });
    assert!(ended.is_none(), "the service ignores SIGTERM, and has time for that");
    devstack::send_signal(dev.child.id(), Signal::INT)?;
    let (status, output) = dev.ends()?;
    assert_eq!(status.code(), Some(130), "{output}");
    assert!(gone(&pids, &ports), "{output}");
    assert!(workspace.state().is_none());
    Ok(())
}

fn being_killed_leaves_nothing(workspace: &Workspace) -> Outcome {
    let dev = workspace.up()?;
    let (pids, ports) = pids_and_ports(&workspace.state().expect("it is ready"));
    kill(dev.child.id());
    dev.ends()?;
    assert!(gone(&pids, &ports));
    let (code, output) = workspace.run(&["rotate", "database"])?;
    assert!(code == Some(1) && output.contains("none runs in this workspace"), "{output}");
    Ok(())
}
