use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use aws_config::BehaviorVersion;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::retry::RetryConfig;
use aws_sdk_secretsmanager::config::{Config, Credentials, Region};
use rustix::process::Signal;

use crate::Error;
use crate::python::Python;
use crate::secret::Secret;
use crate::supervised::{Stop, Supervised, last_lines};

const STOP: Stop = Stop { signal: Signal::TERM, grace: Duration::from_secs(3) };

/// The Region of the local manager, unless a client names another.
pub(crate) const REGION: &str = "eu-west-1";

/// An identity that opens the local manager and no other.
pub(crate) const ACCESS_KEY: (&str, &str) = ("test", "test");

/// Where the emulator of AWS Secrets Manager listens.
#[derive(Clone, Debug)]
pub struct Manager {
    /// `http://127.0.0.1:<port>`, for `AWS_ENDPOINT_URL`.
    pub endpoint: String,
    /// The emulator's log.
    pub log: PathBuf,
}

impl Manager {
    /// Starts the emulator; it may not answer yet.
    pub(crate) fn spawn(python: &Python, folder: &Path, port: u16) -> Result<(Self, Supervised), Error> {
        let log = folder.join(format!("manager-{port}.log"));
        let manager = Self { endpoint: format!("http://127.0.0.1:{port}"), log };
        let log = File::create(&manager.log).map_err(Error::io("create the manager's log"))?;
        let mut command = Supervised::command(python, &python.interpreter(), STOP, None);
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
        command.env_clear().env("LC_ALL", "C.UTF-8").current_dir(folder);
        // Identities that moto would look for at home, if it looked for one.
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY.0).env("AWS_SECRET_ACCESS_KEY", ACCESS_KEY.1);
        command.stdout(Stdio::null()).stderr(log);
        let server = Supervised::spawn(command, STOP).map_err(Error::io("start the secrets manager"))?;
        Ok((manager, server))
    }

    /// Waits until it lists its secrets.
    pub(crate) async fn ready(&self, server: &mut Supervised) -> Result<(), Error> {
        let give_up = Instant::now() + Duration::from_secs(30);
        let client = self.client();
        loop {
            match client.list_secrets().send().await {
                Ok(_) => return Ok(()),
                Err(_) if server.exited().is_some() => return Err(self.failed("did not start".into())),
                Err(error) if Instant::now() > give_up => {
                    return Err(self.failed(Error::manager("list secrets")(error).to_string()));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// The emulator that another process has started.
    pub fn at(endpoint: &str) -> Self {
        Self { endpoint: endpoint.into(), log: PathBuf::new() }
    }

    /// Creates a secret, or gives it a new AWSCURRENT version; returns the version's id.
    pub async fn put(&self, id: &str, value: &str) -> Result<String, Error> {
        Secret::new(&self.client(), id).put(value).await
    }

    /// A client of the emulator, which reads nothing from the environment.
    pub fn client(&self) -> Client {
        self.client_in(REGION)
    }

    /// The same for another Region, where the emulator keeps other secrets.
    pub fn client_in(&self, region: &str) -> Client {
        let identity = Credentials::new(ACCESS_KEY.0, ACCESS_KEY.1, None, None, "devstack");
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&self.endpoint)
            .region(Region::new(region.to_owned()))
            .credentials_provider(identity)
            .retry_config(RetryConfig::disabled())
            .build();
        Client::from_conf(config)
    }

    pub(crate) fn failed(&self, what: String) -> Error {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        Error::Part { part: "the secrets manager", what, log: self.log.clone(), tail: last_lines(&log, 15) }
    }
}
