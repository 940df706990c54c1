//! A real OpenBao.

pub(crate) mod access;
pub(crate) mod api;
pub(crate) mod audit_log;
pub(crate) mod leased_logins;
pub(crate) mod login_rotation;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::shell::shell_quoted;
use crate::stack::Stack;
use crate::stack::authority::validity::Validity;
use crate::stack::error::Error;
use crate::stack::free_port::free_port;
use crate::stack::last_lines::last_lines;
use crate::stack::openbao::api::OpenBao;
use crate::stack::openbao_program;
use crate::stack::polling::Polling;
use crate::stack::python_environment::PythonEnvironment;
use crate::stack::supervised_process::{StopSignal, SupervisedProcess};
use crate::testing::token_issuer::TokenIssuer;

const STOP: StopSignal = StopSignal { signal: Signal::TERM, grace: Duration::from_secs(3) };

/// The path that answers with success at the active node, and at a standby.
const HEALTHY: &str = "sys/health?standbyok=true";

const START: Polling = Polling { interval: Duration::from_millis(20), limit: Duration::from_secs(30) };

/// A running OpenBao with everything in memory, which ends when this is dropped. Services log in with a JWT.
pub struct OpenBaoServer {
    api: OpenBao,
    /// The address of the listener that wants a client certificate.
    guarded_address: String,
    /// The key that unseals it.
    unseal_key: String,
    python: PythonEnvironment,
    program: PathBuf,
    folder: PathBuf,
    issuer: Arc<TokenIssuer>,
    process: Mutex<SupervisedProcess>,
}

/// The storage of a node.
enum NodeStorage<'a> {
    Memory,
    /// On disk. A node with a leader joins its cluster.
    Raft {
        leader: Option<&'a str>,
    },
}

/// A node that was started, and answers. It is sealed, or not initialised.
struct StartedNode {
    api: OpenBao,
    guarded_address: String,
    folder: PathBuf,
    process: SupervisedProcess,
}

impl Stack {
    /// Starts an OpenBao on a free port, with a certificate of the stack's authority. Installs it first if necessary.
    pub async fn openbao(&self, progress: &(dyn Fn(&str) + Sync)) -> Result<OpenBaoServer, Error> {
        let program = openbao_program::install(self.python(), progress).await?;
        progress("starting OpenBao");
        let node = self.start_node(&program, NodeStorage::Memory).await?;
        OpenBaoServer::initialise(node, self.python().clone(), program).await
    }

    /// Starts three OpenBao that are one cluster: the first is active, and the others are standbys.
    pub async fn openbao_cluster(&self, progress: &(dyn Fn(&str) + Sync)) -> Result<[OpenBaoServer; 3], Error> {
        let program = openbao_program::install(self.python(), progress).await?;
        let first = self.start_node(&program, NodeStorage::Raft { leader: None }).await?;
        let first = OpenBaoServer::initialise(first, self.python().clone(), program).await?;
        // A node may vote once it was well for this time: 10 s, if nobody says otherwise.
        let soon = json!({ "server_stabilization_time": "100ms" });
        first.api.post("sys/storage/raft/autopilot/configuration", soon).await?;
        let nodes = [self.start_standby(&first).await?, self.start_standby(&first).await?];
        first.wait_until_all_vote(nodes.len() + 1).await?;
        let [second, third] = nodes;
        Ok([first, second, third])
    }

    async fn start_standby(&self, leader: &OpenBaoServer) -> Result<OpenBaoServer, Error> {
        let storage = NodeStorage::Raft { leader: Some(leader.api.address()) };
        let node = self.start_node(&leader.program, storage).await?;
        let standby = OpenBaoServer {
            api: node.api.with_token(leader.api.token().to_owned()),
            guarded_address: node.guarded_address,
            unseal_key: leader.unseal_key.clone(),
            python: leader.python.clone(),
            program: leader.program.clone(),
            folder: node.folder,
            issuer: Arc::clone(&leader.issuer),
            process: Mutex::new(node.process),
        };
        standby.unseal_until(HEALTHY).await?;
        Ok(standby)
    }

    async fn start_node(&self, program: &Path, storage: NodeStorage<'_>) -> Result<StartedNode, Error> {
        let port = free_port();
        let folder = self.folder().join(format!("openbao-{port}"));
        let data = folder.join("data");
        fs::create_dir_all(&data).map_err(Error::io(format!("create {}", folder.display())))?;
        let identity = self.authority().local(Validity::days(90));
        let write = |name: &str, text: &str| write_private(&folder.join(name), text);
        write("server.pem", &identity.certificate)?;
        write("server.key", &identity.private_key)?;
        write("ca.pem", self.authority().certificate())?;
        // The nodes of a cluster have one log, and each would have it in another folder.
        let is_alone = matches!(storage, NodeStorage::Memory);
        let storage = match storage {
            NodeStorage::Memory => json!({ "inmem": {} }),
            NodeStorage::Raft { leader } => {
                let mut raft = json!({ "path": data, "node_id": port.to_string(), "performance_multiplier": "1" });
                if let Some(address) = leader {
                    let authority = folder.join("ca.pem");
                    raft["retry_join"] = json!([{ "leader_api_addr": address, "leader_ca_cert_file": authority }]);
                }
                json!({ "raft": raft })
            }
        };
        let listener = |port: u16, cluster_port: u16| {
            json!({
                "address": format!("127.0.0.1:{port}"),
                "cluster_address": format!("127.0.0.1:{cluster_port}"),
                "tls_cert_file": folder.join("server.pem"),
                "tls_key_file": folder.join("server.key"),
            })
        };
        let (cluster_port, guarded_port) = (free_port(), free_port());
        let (for_all, mut for_certificates) = (listener(port, cluster_port), listener(guarded_port, free_port()));
        for_certificates["tls_require_and_verify_client_cert"] = true.into();
        for_certificates["tls_client_ca_file"] = json!(folder.join("ca.pem"));
        let address = format!("https://127.0.0.1:{port}");
        let mut config = json!({
            "storage": storage,
            "listener": [{ "tcp": for_all }, { "tcp": for_certificates }],
            "api_addr": address,
            "cluster_addr": format!("https://127.0.0.1:{cluster_port}"),
        });
        if is_alone {
            config["audit"] = audit_log::device(&folder);
        }
        write("config.json", &config.to_string())?;
        let mut process = spawn(self.python(), program, &folder)?;
        let api = OpenBao::new(address, String::new(), Arc::clone(self.authority()));
        wait_until_it_answers(&api, &mut process, &folder.join("log")).await?;
        let guarded_address = format!("https://127.0.0.1:{guarded_port}");
        Ok(StartedNode { api, guarded_address, folder, process })
    }
}

impl OpenBaoServer {
    /// Makes a started node a server that works.
    async fn initialise(node: StartedNode, python: PythonEnvironment, program: PathBuf) -> Result<Self, Error> {
        let StartedNode { api, guarded_address, folder, process } = node;
        let keys = api.put("sys/init", json!({ "secret_shares": 1, "secret_threshold": 1 })).await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let root_token = text(&keys["root_token"]);
        write_private(&folder.join("root-token"), &root_token)?;
        let server = Self {
            api: api.with_token(root_token),
            guarded_address,
            unseal_key: text(&keys["keys"][0]),
            python,
            program,
            folder,
            issuer: Arc::new(TokenIssuer::start()?),
            process: Mutex::new(process),
        };
        server.unseal().await?;
        server.set_up().await?;
        Ok(server)
    }

    /// Returns the server of this test process. The first caller starts it.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<OpenBaoServer> = OnceCell::const_new();
        SHARED
            .get_or_init(async || match Stack::shared().await.openbao(&|step| eprintln!("devstack: {step}")).await {
                Ok(server) => server,
                Err(error) => panic!("{}", error.report()),
            })
            .await
    }

    /// Returns its interface, as root.
    pub fn api(&self) -> &OpenBao {
        &self.api
    }

    /// Returns the address at which only clients with a certificate of its authority are served.
    pub fn guarded_address(&self) -> &str {
        &self.guarded_address
    }

    /// Returns the issuer whose tokens it accepts at `auth/jwt`.
    pub fn issuer(&self) -> &TokenIssuer {
        &self.issuer
    }

    /// Returns the file with the certificate of its authority.
    pub fn authority_file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Returns the file with the root token.
    pub fn root_token_file(&self) -> PathBuf {
        self.folder.join("root-token")
    }

    /// Returns its program, which is also a client of it.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Returns the variables with which the program reaches the server as root. They hold the root token.
    pub fn environment(&self) -> [(&'static str, String); 3] {
        [
            ("BAO_ADDR", self.api.address().to_owned()),
            ("BAO_CACERT", self.authority_file().display().to_string()),
            ("BAO_TOKEN", self.api.token().to_owned()),
        ]
    }

    /// Returns the program, for a shell, with the variables with which it reaches the server as root.
    pub(crate) fn command(&self) -> String {
        let quoted = |path: &Path| shell_quoted(&path.display().to_string());
        format!(
            "BAO_ADDR={} BAO_CACERT={} BAO_TOKEN=$(cat {}) \\\n  {}",
            self.api.address(),
            quoted(&self.authority_file()),
            quoted(&self.root_token_file()),
            quoted(&self.program)
        )
    }

    /// Writes a file that only this user may read, such as one with which a service logs in. Returns its path.
    pub fn write_file(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        let path = self.folder.join(name);
        write_private(&path, text)?;
        Ok(path)
    }

    /// Unseals it, and waits until it is active.
    pub async fn unseal(&self) -> Result<(), Error> {
        self.unseal_until("sys/health").await
    }

    /// Unseals it, and waits until this path answers with success.
    async fn unseal_until(&self, healthy: &str) -> Result<(), Error> {
        let ready = START.until_async(async || {
            // A node that joins a cluster needs the key again once it has joined.
            let status = self.api.put("sys/unseal", json!({ "key": self.unseal_key })).await.ok()?;
            if status["sealed"] != false {
                return None;
            }
            self.api.get(healthy).await.ok()
        });
        match ready.await {
            Some(_) => Ok(()),
            None => Err(failed("did not unseal".into(), &self.folder.join("log"))),
        }
    }

    /// Returns its exit status, or `None` if it runs.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).exited()
    }

    /// Sends its process a signal. One that is stopped answers nothing.
    pub fn signal(&self, signal: Signal) {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).signal(signal);
    }

    /// Ends it at once, as a machine that fails does.
    pub fn kill(&self) {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).signal(Signal::KILL);
    }

    /// Starts it again after [`kill`](Self::kill), and unseals it. Waits until it is active or a standby.
    pub async fn restart(&self) -> Result<(), Error> {
        let process = spawn(&self.python, &self.program, &self.folder)?;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = process;
        self.unseal_until(HEALTHY).await
    }

    /// Returns `true` if it is the active node of its cluster.
    pub async fn is_active(&self) -> bool {
        self.api.get("sys/health").await.is_ok()
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).pid()
    }

    /// Waits until its cluster has this many nodes that may elect an active one.
    async fn wait_until_all_vote(&self, count: usize) -> Result<(), Error> {
        let voting = START.until_async(async || {
            let answer = self.api.get("sys/storage/raft/configuration").await.ok()?;
            let nodes = answer["data"]["config"]["servers"].as_array()?.iter();
            if nodes.filter(|node| node["voter"] == true).count() == count { Some(()) } else { None }
        });
        voting.await.ok_or_else(|| failed("did not let each node vote".into(), &self.folder.join("log")))
    }

    /// Mounts the engines and the auth methods.
    async fn set_up(&self) -> Result<(), Error> {
        self.api.post("sys/mounts/kv", json!({ "type": "kv", "options": { "version": "2" } })).await?;
        self.api.post("sys/mounts/database", json!({ "type": "database" })).await?;
        self.api.post("sys/auth/approle", json!({ "type": "approle" })).await?;
        self.api.post("sys/auth/jwt", json!({ "type": "jwt" })).await?;
        let keys = format!("{}/jwks.json", self.issuer.url());
        self.api.post("auth/jwt/config", json!({ "jwks_url": keys })).await?;
        Ok(())
    }
}

/// Starts the program with the configuration in a folder, and appends its output to the log there.
fn spawn(python: &PythonEnvironment, program: &Path, folder: &Path) -> Result<SupervisedProcess, Error> {
    let no_log = || Error::io("open the log of OpenBao");
    let output = File::options().create(true).append(true).open(folder.join("log")).map_err(no_log())?;
    let mut command = SupervisedProcess::command(python, program, STOP, None);
    command.arg("server").arg("-config").arg(folder.join("config.json"));
    command.env_clear().env("HOME", folder).current_dir(folder);
    command.stdout(output.try_clone().map_err(no_log())?).stderr(output);
    SupervisedProcess::spawn(command, STOP).map_err(Error::io("start OpenBao"))
}

/// Waits until it answers at all. It is not initialised yet.
async fn wait_until_it_answers(api: &OpenBao, process: &mut SupervisedProcess, log: &Path) -> Result<(), Error> {
    let answered = START.until_async(async || match api.get("sys/init").await {
        Ok(_) => Some(Ok(())),
        Err(_) if process.exited().is_some() => Some(Err(failed("did not start".into(), log))),
        Err(_) => None,
    });
    answered.await.unwrap_or_else(|| Err(failed("did not answer".into(), log)))
}

fn failed(what: String, log: &Path) -> Error {
    let text = fs::read_to_string(log).unwrap_or_default();
    Error::Part { part: "OpenBao", what, log: log.into(), tail: last_lines(&text, 15) }
}

fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    // Renamed into place, as whoever mounts such files does.
    let new = path.with_extension("new");
    let written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
    written
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&new, path))
        .map_err(Error::io(format!("write {}", path.display())))
}
