//! The emulator of AWS Secrets Manager.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::retry::RetryConfig;
use aws_sdk_secretsmanager::config::{Config, Credentials, Region};
use rustix::process::Signal;

use crate::stack::emulator_secret::EmulatorSecret;
use crate::stack::error::Error;
use crate::stack::last_lines::last_lines;
use crate::stack::polling::Polling;
use crate::stack::python_environment::PythonEnvironment;
use crate::stack::supervised_process::{StopSignal, SupervisedProcess};

const STOP: StopSignal = StopSignal { signal: Signal::TERM, grace: Duration::from_secs(3) };

const START: Polling = Polling { interval: Duration::from_millis(20), limit: Duration::from_secs(30) };

/// The Region of the emulator, unless a client names another.
pub(crate) const REGION: &str = "eu-west-1";

/// The access key and its secret key, which the emulator accepts and AWS does not.
pub(crate) const ACCESS_KEY: (&str, &str) = ("test", "test");

/// A running emulator of AWS Secrets Manager.
#[derive(Clone, Debug)]
pub struct Emulator {
    /// `http://127.0.0.1:<port>`, for `AWS_ENDPOINT_URL`.
    pub endpoint: String,
    /// The file with the emulator's log.
    pub log: PathBuf,
}

impl Emulator {
    /// Starts an emulator. It may not answer yet.
    pub(crate) fn spawn(
        python: &PythonEnvironment,
        folder: &Path,
        port: u16,
    ) -> Result<(Self, SupervisedProcess), Error> {
        let log_path = folder.join(format!("manager-{port}.log"));
        let log = File::create(&log_path).map_err(Error::io("create the manager's log"))?;
        let mut command = SupervisedProcess::command(python, &python.interpreter(), STOP, None);
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
        command.env_clear().env("LC_ALL", "C.UTF-8").current_dir(folder);
        // Otherwise moto would look for an identity in the user's home folder.
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY.0).env("AWS_SECRET_ACCESS_KEY", ACCESS_KEY.1);
        command.stdout(Stdio::null()).stderr(log);
        let server = SupervisedProcess::spawn(command, STOP).map_err(Error::io("start the secrets manager"))?;
        Ok((Self { endpoint: format!("http://127.0.0.1:{port}"), log: log_path }, server))
    }

    /// Waits until the emulator lists its secrets.
    pub(crate) async fn ready(&self, server: &mut SupervisedProcess) -> Result<(), Error> {
        let client = self.client();
        let mut last_error = String::new();
        let ready = START.until_async(async || match client.list_secrets().send().await {
            Ok(_) => Some(Ok(())),
            Err(_) if server.exited().is_some() => Some(Err(self.failed("did not start".into()))),
            Err(error) => {
                last_error = Error::emulator("list secrets")(error).to_string();
                None
            }
        });
        match ready.await {
            Some(outcome) => outcome,
            None => Err(self.failed(last_error)),
        }
    }

    /// Returns the emulator that another process has started.
    pub fn at(endpoint: &str) -> Self {
        Self { endpoint: endpoint.into(), log: PathBuf::new() }
    }

    /// Creates a secret, or gives it a new AWSCURRENT version. Returns the version's id.
    pub async fn put(&self, id: &str, value: &str) -> Result<String, Error> {
        EmulatorSecret::new(&self.client(), id).put(value).await
    }

    /// Returns a client of the emulator, which reads nothing from the environment.
    pub fn client(&self) -> Client {
        self.client_in(REGION)
    }

    /// Returns a client for another Region. The emulator keeps other secrets there.
    pub fn client_in(&self, region: &str) -> Client {
        let identity = Credentials::new(ACCESS_KEY.0, ACCESS_KEY.1, None, None, "devstack");
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&self.endpoint)
            .region(Region::new(region.to_owned()))
            .credentials_provider(identity)
            // The emulator answers 500 now and then, when it walks its secrets while another request adds one.
            .retry_config(RetryConfig::standard().with_max_attempts(6).with_initial_backoff(Duration::from_millis(20)))
            .build();
        Client::from_conf(config)
    }

    /// Returns an error that shows the end of the log.
    pub(crate) fn failed(&self, what: String) -> Error {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        Error::Part { part: "the secrets manager", what, log: self.log.clone(), tail: last_lines(&log, 15) }
    }
}
