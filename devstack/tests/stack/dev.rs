//! `cargo dev`, with a fake cargo and a fake service: the real ones are tried by the project's own tests.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use devstack::Signal;
use serde_json::Value;

use crate::Outcome;
use crate::life::{gone, kill};

/// What the fake service can be asked for.
const METADATA: &str = r#"{"devstack": {"get": "/v1/things?all=1",
    "post": {"path": "/v1/thing", "body": "{\"is\": \"Bob's\"}"}}}"#;

/// A target folder of its own, with the environment that is installed already.
pub(crate) struct Workspace {
    pub(crate) target: PathBuf,
    public: String,
    pub(crate) admin: String,
    /// More of the environment.
    pub(crate) variables: Vec<(&'static str, String)>,
}

pub(crate) struct Dev {
    pub(crate) child: Child,
    stderr: Option<JoinHandle<String>>,
}

impl Workspace {
    pub(crate) fn new(name: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(target.join("devstack"))?;
        std::fs::create_dir_all(target.join("config"))?;
        let venv = target.join("devstack/venv");
        let _ = std::fs::remove_file(&venv);
        symlink(devstack::home()?.join("venv"), venv)?;
        let free = || Ok::<_, std::io::Error>(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string());
        Ok(Self { target, public: free()?, admin: free()?, variables: Vec::new() })
    }

    pub(crate) fn dev(&self, arguments: &[&str]) -> Command {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stack");
        let mut command = Command::new(env!("CARGO_BIN_EXE_devstack"));
        command
            .args(arguments)
            .env("CARGO", here.join("fake_cargo.sh"))
            .env("CARGO_TARGET_DIR", &self.target)
            .env("FAKE_SERVICE", here.join("fake_service.py"))
            .env("FAKE_METADATA", METADATA)
            .env("FAKE_PUBLIC", &self.public)
            .env("FAKE_ADMIN", &self.admin)
            .env("PGHOST", "elsewhere")
            .env("AWS_PROFILE", "mine")
            .env("APP_CONFIG_DIR", self.target.join("config"))
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// `cargo dev stack`, with PostgreSQL and the secrets manager at these ports.
    pub(crate) fn stack(&self, ports: [u16; 2]) -> Command {
        let service = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stack/fake_service.py");
        let [postgres, manager] = ports.map(|port| port.to_string());
        self.dev(&["stack", service, "--postgres", &postgres, "--manager", &manager])
    }

    pub(crate) fn up(&self) -> Result<Dev, std::io::Error> {
        Self::up_as(self.dev(&[]))
    }

    pub(crate) fn up_as(mut command: Command) -> Result<Dev, std::io::Error> {
        let mut child = command.spawn()?;
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let mut said = String::new();
        for line in lines.by_ref().map_while(Result::ok) {
            said += &format!("{line}\n");
            if line.starts_with("Ctrl-C") {
                break;
            }
        }
        let stderr = std::thread::spawn(move || {
            said.extend(lines.map_while(Result::ok).map(|line| format!("{line}\n")));
            said
        });
        Ok(Dev { child, stderr: Some(stderr) })
    }

    pub(crate) fn state(&self) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.target.join("devstack/state.json")).ok()?).ok()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Result<(Option<i32>, String), std::io::Error> {
        let output = self.dev(arguments).output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()))
    }

    /// Runs it, and does something once it has said this.
    pub(crate) fn run_until(
        &self,
        arguments: &[&str],
        says: &str,
        then: impl FnOnce(u32) -> Result<(), devstack::Error>,
    ) -> Result<(Option<i32>, String), Box<dyn std::error::Error>> {
        let mut child = self.dev(arguments).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
        let mut said = String::new();
        let mut then = Some(then);
        for line in &mut lines {
            if line.contains(says)
                && let Some(then) = then.take()
            {
                then(child.id())?;
            }
            said += &format!("{line}\n");
        }
        let output = child.wait_with_output()?;
        said += &String::from_utf8_lossy(&output.stderr);
        assert!(then.is_none(), "it never said `{says}`: {said}");
        Ok((output.status.code(), said))
    }
}

impl Dev {
    pub(crate) fn ends(mut self) -> Result<(ExitStatus, String), Box<dyn std::error::Error>> {
        let give_up = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait()?.is_none() && Instant::now() < give_up {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let status = self.child.wait()?;
        let mut stdout = String::new();
        self.child.stdout.take().expect("it is piped").read_to_string(&mut stdout)?;
        let stderr = self.stderr.take().and_then(|reader| reader.join().ok());
        Ok((status, stdout + &stderr.expect("reading does not panic")))
    }
}

/// A test that fails leaves nothing behind either.
impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pids_and_ports(state: &Value) -> (Vec<u32>, Vec<u16>) {
    let running = &state["running"];
    let pids = ["service", "postgres", "manager"].map(|part| running["pids"][part].as_u64().expect("a pid") as u32);
    let manager = running["manager"].as_str().and_then(|url| url.rsplit(':').next()?.parse().ok());
    let database = running["database"]["port"].as_u64().expect("a port") as u16;
    let admin = running["admin"].as_str().and_then(|address| address.rsplit(':').next()?.parse().ok());
    (pids.into(), vec![manager.expect("a port"), database, admin.expect("a port")])
}

// One after another, because only one can run in a target folder: that is a part of what is tested.
#[tokio::test]
async fn cargo_dev_runs_rotates_and_leaves_nothing_however_it_ends() -> Outcome {
    drop(devstack::PythonEnvironment::install(&|_| ()).await?);
    let mut workspace = Workspace::new("dev")?;
    a_second_one_is_refused_and_ctrl_c_stops_everything(&workspace)?;
    rotations_are_walked_and_watched(&workspace)?;
    a_version_taken_up_in_the_window_is_in_service_after_it(&workspace)?;
    a_load_is_steady_and_judged(&workspace)?;
    a_project_says_what_is_asked_for(&mut workspace)?;
    a_crash_is_named_and_ends_the_rest(&workspace)?;
    the_second_signal_ends_everything_at_once(&workspace)?;
    being_killed_leaves_nothing(&workspace)
}

fn a_second_one_is_refused_and_ctrl_c_stops_everything(workspace: &Workspace) -> Outcome {
    for arguments in [&["rotate", "database"][..], &["load"], &["exec", "check"]] {
        let (code, said) = workspace.run(arguments)?;
        assert!(code == Some(1) && said.contains("none runs in this workspace"), "{said}");
    }

    let dev = workspace.up()?;
    let state = workspace.state().expect("it is ready");
    let (pids, ports) = pids_and_ports(&state);

    let second = workspace.dev(&[]).output()?;
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1));
    assert!(said.contains(&format!("process {}", dev.child.id())) && said.contains(&workspace.admin), "{said}");

    devstack::send_signal(dev.child.id(), Signal::INT)?;
    let (status, said) = dev.ends()?;
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("migrated fake") && said.contains("serving pretty [] False"), "{said}");
    assert!(said.contains("profile None"), "there is no dev.toml: {said}");
    assert!(said.contains("cargo dev rotate database\n") && !said.contains("cargo dev rotate migrator"), "{said}");
    assert!(said.contains(&format!("http://{}/status", workspace.admin)), "{said}");
    let (post, get) =
        (format!("http://{}/v1/thing", workspace.public), format!("'http://{}/v1/things", workspace.public));
    let post = format!("curl -i {post} -H 'content-type: application/json' -d '{{\"is\": \"Bob'\\''s\"}}'\n");
    assert!(said.contains(&post) && said.contains(&format!("curl -s {get}?all=1'\n")), "as a shell takes it: {said}");
    assert!(gone(&pids, &ports), "{said}");
    assert!(workspace.state().is_none());
    Ok(())
}

fn rotations_are_walked_and_watched(workspace: &Workspace) -> Outcome {
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
        ("webhook", &["fake/webhook: version", "generation 4 -> 5"]),
        ("migrator", &["4 finish", "does not hold"]),
    ] {
        let (code, said) = workspace.run(&["rotate", credential])?;
        assert!(code == Some(0) && expected.iter().all(|text| said.contains(text)), "{credential}: {said}");
        assert!(!said.contains("sentinel-"));
    }
    for (arguments, refused, why) in [
        (&["nonsense"][..], 1, "it has database, reports, signing, webhook, migrator"),
        (&["tls"], 1, "no credential `tls`"),
        (&["signing", "--window", "1s"], 1, "`signing` is no login"),
        (&["signing", "--expires", "6d"], 1, "`signing` is no certificate"),
        (&["database", "--window", "5"], 2, "invalid value '5' for '--window <DURATION>': time unit needed"),
    ] {
        let (code, said) = workspace.run(&[&["rotate"], arguments].concat())?;
        assert!(code == Some(refused) && said.contains(why), "{said}");
    }
    let (code, said) = workspace.run(&["exec", "audit", "--of", "here"])?;
    assert!(code == Some(69) && said.contains("audited here True\n"), "{said}");
    let (code, said) = workspace.run(&["rotate", "database", "--window", "300ms", "--no-signal"])?;
    let expected = ["here for 300ms", "generation 5 still holds version", "(current)", "not telling the service"];
    assert!(code == Some(0) && expected.iter().all(|text| said.contains(text)), "{said}");
    devstack::send_signal(dev.child.id(), Signal::TERM)?;
    let (status, said) = dev.ends()?;
    assert_eq!(status.code(), Some(0), "{said}");
    Ok(())
}

fn a_version_taken_up_in_the_window_is_in_service_after_it(workspace: &Workspace) -> Outcome {
    let mut command = workspace.dev(&[]);
    command.env("FAKE_EAGER", "1");
    let dev = Workspace::up_as(command)?;
    let (code, said) = workspace.run(&["rotate", "database", "--window", "500ms"])?;
    let expected = ["generation 2 already holds version", "(pending)", "SIGHUP", "generation 1 -> 2"];
    assert!(code == Some(0) && expected.iter().all(|text| said.contains(text)), "{said}");

    let begun = Instant::now();
    let ctrl_c = |pid| devstack::send_signal(pid, Signal::INT);
    let (code, said) = workspace.run_until(&["rotate", "database", "--window", "10m"], "Ctrl-C: no longer", ctrl_c)?;
    assert!(code == Some(0) && said.contains("4 finish"), "Ctrl-C ends the window, not the rotation: {said}");
    assert!(begun.elapsed() < Duration::from_secs(300));
    devstack::send_signal(dev.child.id(), Signal::TERM)?;
    dev.ends()?;
    Ok(())
}

fn a_load_is_steady_and_judged(workspace: &Workspace) -> Outcome {
    let dev = workspace.up()?;
    let service = workspace.state().expect("it is ready")["running"]["pids"]["service"].as_u64().expect("a pid") as u32;
    const LOAD: [&str; 5] = ["load", "--rate", "50", "--clients", "1"];
    let lasting = |length| [&LOAD[..], &["--for", length]].concat();
    const A_SECOND: &str = "     1  ";

    let (code, said) = workspace.run(&lasting("2s"))?;
    let expected = ["\n     1  ", "\n     2  ", "requests     100 in 2.0 s", "failures     0", "generations  1"];
    assert!(code == Some(0) && expected.iter().all(|text| said.contains(text)), "{said}");

    let (code, said) = workspace.run_until(&LOAD, A_SECOND, |pid| devstack::send_signal(pid, Signal::INT))?;
    assert!(code == Some(0) && said.contains("failures     0"), "Ctrl-C ends it: {said}");

    let (code, said) =
        workspace.run_until(&lasting("3s"), A_SECOND, |_| devstack::send_signal(service, Signal::USR2))?;
    let p99 = said.lines().find_map(|line| line.strip_prefix("p99")?.strip_suffix("ms")?.trim().parse::<f64>().ok());
    assert!(code == Some(0) && said.contains("requests     150"), "{said}");
    assert!(p99.is_some_and(|p99| p99 > 500.0), "whoever had to wait for the stalled one counts too: {said}");

    devstack::send_signal(service, Signal::USR1)?;
    let (code, said) = workspace.run(&lasting("500ms"))?;
    assert!(code == Some(1) && said.contains("25 × status 503") && said.contains("25 of 25 requests failed"), "{said}");

    kill(service);
    dev.ends()?;
    Ok(())
}

fn a_project_says_what_is_asked_for(workspace: &mut Workspace) -> Outcome {
    let wants = |wanted: &str| vec![("FAKE_METADATA", format!("{{\"devstack\": {wanted}}}"))];
    let load = ["load", "--rate", "50", "--for", "1s"];
    workspace.variables = wants(r#"{"receivers": {}}"#);
    let dev = workspace.up()?;
    let (code, said) = workspace.run(&load)?;
    let expected = "[package.metadata.devstack] in Cargo.toml wants `get = \"/v1/hello\"`";
    assert!(code == Some(1) && said.contains(expected), "{said}");
    workspace.variables = Vec::new();
    let (code, said) = workspace.run(&load)?;
    assert!(code == Some(0) && said.contains("/v1/things?all=1\none of 10 is POST "), "{said}");
    workspace.variables = wants(r#"{"get": "/v1/things?all=1"}"#);
    let (code, said) = workspace.run(&load)?;
    assert!(code == Some(0) && !said.contains("POST"), "{said}");
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
        workspace.variables = wants(wrong);
        let (code, said) = workspace.run(&load)?;
        assert!(code == Some(1) && said.contains(expected), "{wrong}: {said}");
    }
    workspace.variables = Vec::new();

    devstack::send_signal(dev.child.id(), Signal::TERM)?;
    let (_, said) = dev.ends()?;
    assert_eq!(said.matches("written to\n").count(), 5, "of the second load's: {said}");
    let requests = said.lines().filter(|line| line.contains("curl") && !line.contains("/status"));
    assert_eq!(requests.count(), 0, "nothing to try without `get` and `post`: {said}");
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
        let (status, said) = dev.ends()?;
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains(named), "{said}");
        if let Some((_, log)) = said.split_once("its log is ") {
            let log = log.split(',').next().unwrap_or_default();
            assert!(Path::new(log).exists(), "{log} is gone");
        }
        assert!(gone(&pids, &ports), "{said}");
    }
    Ok(())
}

fn the_second_signal_ends_everything_at_once(workspace: &Workspace) -> Outcome {
    let mut command = workspace.dev(&[]);
    command.env("FAKE_STUBBORN", "1");
    let dev = Workspace::up_as(command)?;
    let (pids, ports) = pids_and_ports(&workspace.state().expect("it is ready"));
    devstack::send_signal(dev.child.id(), Signal::HUP)?;
    std::thread::sleep(Duration::from_secs(1));
    assert!(crate::life::alive(pids[0]), "the service ignores SIGTERM, and has time for that");
    devstack::send_signal(dev.child.id(), Signal::INT)?;
    let (status, said) = dev.ends()?;
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(gone(&pids, &ports), "{said}");
    assert!(workspace.state().is_none());
    Ok(())
}

fn being_killed_leaves_nothing(workspace: &Workspace) -> Outcome {
    let dev = workspace.up()?;
    let (pids, ports) = pids_and_ports(&workspace.state().expect("it is ready"));
    kill(dev.child.id());
    dev.ends()?;
    assert!(gone(&pids, &ports));
    let (code, said) = workspace.run(&["rotate", "database"])?;
    assert!(code == Some(1) && said.contains("none runs in this workspace"), "{said}");
    Ok(())
}
