//! A connection of a command to the running service, over its command socket.
//!
//! Nobody has to be trusted: the kernel says which process listens there, and whose it is.

use super::admin::{self, AdminUnreachable, command_error};
use crate::{
    application::Application,
    bootstrap::{self, command_error::CommandError},
    config::{AdminConfig, Config, ConfigError, SecretsConfig, layers::Sources},
    exit::Exit,
    http::command_socket::CommandSocket,
};
use axum::{
    body::Body,
    http::{Request, StatusCode, request},
};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, geteuid};
use std::{io, time::Duration};
use tokio::{
    net::{UnixStream, unix::UCred},
    time::timeout,
};

/// The remedy if nobody listens at the command socket.
const NOT_THERE: &str = "start the service. If it runs: run the command beside it, in its container or its network \
                         namespace; check that [admin] in this configuration is what it was started with; and send SIGHUP \
                         yourself to a service of a version without a command socket";

/// A connection to the running service of this configuration.
pub(super) struct CommandConnection {
    socket: CommandSocket,
    sender: SendRequest<Body>,
    peer: UCred,
    /// `secrets.deadline` of this configuration, which bounds a reload.
    pub(super) deadline: Duration,
}

impl CommandConnection {
    /// Reads the configuration, and connects. Ignores mistakes outside of `[admin]`, because the service goes on serving
    /// while its files are half edited.
    ///
    /// # Errors
    /// If a file cannot be read, `[admin]` is wrong, nobody listens, or the process that listens belongs to another user.
    pub(super) async fn open<A: Application>(sources: &Sources) -> Result<Self, CommandError> {
        Self::of::<A>(bootstrap::read_for_a_command::<A>(sources).await).await
    }

    /// Connects to the service of a configuration.
    async fn of<A: Application>(read: Result<Config<A::Settings>, ConfigError>) -> Result<Self, CommandError> {
        match read {
            Ok(config) => Self::connect_to(&config.admin, &config.secrets, A::PACKAGE.name).await,
            Err(ConfigError { admin: Some(admin), all_read: true, secrets, .. }) => {
                Self::connect_to(&admin, &secrets.unwrap_or_default(), A::PACKAGE.name).await
            }
            Err(ConfigError { report, telemetry, .. }) => Err(CommandError { report, format: telemetry.format }),
        }
    }

    /// Does the same for a command that only asks. If a file cannot be read, or does not answer, it asks at the address that
    /// the rest gives: variables, or the defaults.
    ///
    /// # Errors
    /// As [`open`](Self::open). If a file cannot be read, and nobody of this user listens at that address: the mistakes of
    /// the configuration.
    pub(super) async fn open_to_ask<A: Application>(sources: &Sources) -> Result<Self, CommandError> {
        let read = bootstrap::read_for_a_command::<A>(sources).await;
        match read.map_err(|error| with_variables::<A>(error, sources)) {
            Err(ConfigError { admin: Some(admin), all_read: false, report, telemetry, .. }) => {
                let connected = Self::connect_to(&admin, &SecretsConfig::default(), A::PACKAGE.name).await;
                connected.map_err(|_| CommandError { report, format: telemetry.format })
            }
            read => Self::of::<A>(read).await,
        }
    }

    async fn connect_to(admin: &AdminConfig, secrets: &SecretsConfig, service: &str) -> Result<Self, CommandError> {
        let socket = CommandSocket::of(service, admin.listen);
        let connected = match timeout(admin::TIMEOUT, connect(&socket)).await {
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let (sender, peer) = connected.map_err(|error| {
            let problem = match error.kind() {
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => "nobody listens there".into(),
                _ => format!("connecting failed: {error}"),
            };
            error_at(&socket, Exit::Unavailable, problem, NOT_THERE)
        })?;
        let (user, of_peer) = (geteuid().as_raw(), peer.uid());
        // Root may be trusted by everybody, and can be nobody else's victim: it signals the process of the listener alone.
        if user != of_peer && user != 0 && of_peer != 0 {
            let problem = format!("a process of user {of_peer} listens there, and this command runs as user {user}");
            return Err(error_at(&socket, Exit::Denied, problem, "run the command as the user of the service"));
        }
        Ok(Self { socket, sender, peer, deadline: secrets.deadline })
    }

    /// Gets a path, for 3 s at most. Returns the answer's status and body.
    ///
    /// # Errors
    /// If there is no answer: the process ended, or hangs.
    pub(super) async fn get(&mut self, path: &'static str) -> Result<(StatusCode, String), CommandError> {
        self.send(Request::get(path)).await
    }

    /// Sends a request without a body, as [`get`](Self::get) does.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(super) async fn send(&mut self, request: request::Builder) -> Result<(StatusCode, String), CommandError> {
        let request = request.header("host", "localhost").body(Body::empty()).expect("these make a request");
        let exchange = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        let answer = admin::read(exchange, admin::TIMEOUT).await.map_err(|unreachable| {
            let problem = match unreachable {
                AdminUnreachable::Closed => "the process ended".into(),
                AdminUnreachable::NoAnswer(_) | AdminUnreachable::TooLong => unreachable.to_string(),
            };
            self.error(problem, "see the log of the service")
        })?;
        Ok((answer.status(), answer.into_body()))
    }

    /// Returns the process that listens, as this PID namespace numbers it, or `None` if it is not visible here.
    pub(super) fn process(&self) -> Option<Pid> {
        // The kernel says 0 if the process has no number in this namespace.
        self.peer.pid().and_then(Pid::from_raw)
    }

    /// Returns the error of a command that the service makes fail.
    pub(super) fn error(&self, problem: String, remedy: &str) -> CommandError {
        error_at(&self.socket, Exit::Unavailable, problem, remedy)
    }
}

/// Adds what the variables say about `[admin]` to an error of files that did not answer.
fn with_variables<A: Application>(error: ConfigError, sources: &Sources) -> ConfigError {
    if error.all_read || error.admin.is_some() {
        return error;
    }
    let without_files = Config::<A::Settings>::load(&sources.without_files(), A::PACKAGE.name, &[]).err();
    ConfigError { admin: without_files.and_then(|error| error.admin), ..error }
}

async fn connect(socket: &CommandSocket) -> io::Result<(SendRequest<Body>, UCred)> {
    let stream: UnixStream = socket.connect().await?;
    let peer = stream.peer_cred()?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    Ok((sender, peer))
}

fn error_at(socket: &CommandSocket, exit: Exit, problem: String, remedy: &str) -> CommandError {
    command_error(exit, format!("the command socket {socket}"), problem, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::idle_service::IdleService;

    #[test]
    fn a_command_that_asks_finds_the_service_by_variables_if_no_file_answers() {
        let variables = [("APP_ADMIN__LISTEN", "127.0.0.1:9999")].map(|(name, value)| (name.into(), value.into()));
        let sources = Sources::new("/mnt/config".into(), variables);
        let silent = ConfigError::of_silent_files("configuration folder /mnt/config".into(), "look at the volume");
        let error = with_variables::<IdleService>(silent, &sources);
        assert_eq!(error.admin.map(|admin| admin.listen), Some("127.0.0.1:9999".parse().expect("an address")));
        assert!(!error.all_read && error.report.to_string().contains("/mnt/config"));
    }
}
