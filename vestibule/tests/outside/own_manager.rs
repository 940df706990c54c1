//! A service with a secrets manager of its own: the example `own_manager`, as a process.

use crate::eventually::eventually;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::SystemTime,
};

const BUILD: &str = "run `cargo build --package vestibule --examples` first";

/// Returns the program of the example. `cargo test` builds it, but not if it is told to run this test alone.
///
/// # Panics
/// If the program is missing, or older than a source. Cargo lists the sources beside the program, as for `make`.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let program = test.ancestors().nth(2).expect("target/<profile>/deps/<test>").join("examples/own_manager");
    let built = modified(&program).expect(BUILD);
    let rule = fs::read_to_string(program.with_extension("d")).expect(BUILD);
    for source in rule.split_whitespace().skip(1) {
        let is_old = modified(Path::new(source)).is_ok_and(|changed| changed > built);
        assert!(!is_old, "{source} is newer than the example: {BUILD}");
    }
    program
}

fn modified(file: &Path) -> io::Result<SystemTime> {
    fs::metadata(file)?.modified()
}

/// The folders of one test: that of the secrets, and that of the configuration.
struct Folders(PathBuf);

impl Folders {
    fn create(test: &str) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("config")).expect("a folder");
        fs::create_dir_all(root.join("secrets")).expect("a folder");
        let folders = Self(root);
        folders.configure(&format!("folder = {:?}", folders.0.join("secrets")));
        folders
    }

    /// Writes the configuration, with these settings of the service.
    fn configure(&self, service: &str) {
        // Without a Region, nothing can ask AWS.
        let config = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nlinger = \"0s\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [secrets.aws]\nregions = []\n[service]\n{service}\n"
        );
        fs::write(self.0.join("config/default.toml"), config).expect("the folder is ours");
    }

    /// Makes a new version of the key the current one.
    fn rotate(&self, version: &str) {
        let secret = self.0.join("secrets/payments/payment");
        fs::create_dir_all(&secret).expect("the folder is ours");
        fs::write(secret.join(version), format!("sentinel-{version}")).expect("the folder is ours");
        let new = secret.join("new");
        symlink(version, &new).expect("there is no such link");
        fs::rename(new, secret.join("current")).expect("a link can be replaced");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.env_clear().arg("--config-dir").arg(self.0.join("config")).args(arguments);
        command
    }

    /// Runs a command to its end. Returns its exit code and its output.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let Output { status, stdout, stderr } = self.command(arguments).output().expect("it starts");
        let text = [stdout, stderr].concat();
        let text = String::from_utf8(text).expect("UTF-8");
        assert!(!text.contains("sentinel"), "a secret is in the output of {arguments:?}");
        (status.code(), text)
    }
}

/// A process that serves. It is killed when this is dropped.
struct ServingExample {
    child: Child,
    /// The lines of the log so far.
    log: Arc<Mutex<Vec<String>>>,
}

impl ServingExample {
    fn start(folders: &Folders) -> Self {
        let mut child = folders.command(&["serve"]).stdout(Stdio::piped()).spawn().expect("it starts");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let log = Arc::<Mutex<Vec<String>>>::default();
        let written = log.clone();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                written.lock().expect("nobody panics with it").push(line);
            }
        });
        Self { child, log }
    }

    /// Waits until the service listens. Returns its public address and that of the admin listener.
    async fn addresses(&self) -> [String; 2] {
        let look = || {
            let log = self.log.lock().expect("nobody panics with it");
            let events = log.iter().map(|line| line.parse::<Value>().expect("JSON"));
            let mut listening = events.filter(|event| event["fields"]["message"] == "listening");
            listening.next().ok_or_else(|| log.clone())
        };
        let event = eventually("the addresses", look, Result::is_ok).await.expect("they came");
        ["server.address", "admin.address"].map(|key| event["fields"][key].as_str().expect("an address").to_owned())
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it runs");
    }
}

impl Drop for ServingExample {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the body of the service's answer.
fn get(address: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.split_once("\r\n\r\n").expect("a head and a body").1.to_owned()
}

#[tokio::test]
async fn a_service_serves_reloads_and_is_audited_with_a_manager_of_its_own() {
    let folders = Folders::create("own_manager_serves");
    folders.rotate("v1");
    let mut serving = ServingExample::start(&folders);
    let [public, admin] = serving.addresses().await;
    assert_eq!(get(&public), "v1");
    let audit = || folders.run(&["audit", &admin]);
    let (code, table) = audit();
    assert_eq!(code, Some(0), "{table}");

    folders.rotate("v2");
    let (code, table) = audit();
    assert!(code == Some(69) && table.contains("behind"), "{table}");
    serving.signal(Signal::HUP);
    eventually("the new version", || get(&public), |version| version == "v2").await;
    // The status names the version a moment after the first answer with it.
    eventually("a clean audit", audit, |(exit, _)| *exit == Some(0)).await;
    serving.signal(Signal::TERM);
    assert!(serving.child.wait().expect("it is our child").success());
}

#[test]
fn each_command_asks_the_manager_of_the_service() {
    let folders = Folders::create("own_manager_commands");
    folders.rotate("v7");
    let (code, text) = folders.run(&["check", "--live"]);
    assert!(code == Some(0) && text.contains("version v7"), "{text}");
    let (code, text) = folders.run(&["migrate"]);
    assert!(code == Some(66) && text.contains("payments/migrator"), "{text}");
}

#[test]
fn a_manager_that_cannot_be_set_up_ends_the_commands_that_need_it_with_its_fault() {
    let folders = Folders::create("own_manager_fails");
    folders.configure("folder = \"/no/such/folder\"");
    for command in [["check", "--live"].as_slice(), &["migrate"], &["serve"], &["audit", "127.0.0.1:1"]] {
        let (code, text) = folders.run(command);
        assert!(code == Some(78) && text.contains("setting service.folder"), "{command:?}: {text}");
    }
    let (code, text) = folders.run(&["check"]);
    assert_eq!(code, Some(0), "it does not need the manager: {text}");

    folders.configure("folder = 7");
    let (code, text) = folders.run(&["audit", "127.0.0.1:1"]);
    assert!(code == Some(78) && text.contains("while reading the configuration"), "it needs all settings: {text}");
}
