//! A kind of credential of a service's own, in one file: the login for a mail relay, and the session that it opens.

use serde::Deserialize;
use std::{
    io::{self, ErrorKind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufStream},
    net::TcpStream,
    sync::Mutex,
};
use vestibule::{
    Application, Build, BuildError, Credential,
    credentials::{json, not_blank, unescaped},
    exit::{Exit, Fault},
    resources::{Rejection, Resource},
    secrets::{ExposeSecret, Kind, Malformed, SecretString, SecretValues},
};

/// The login for a mail relay. The secret is `{"username": "…", "password": "…"}`.
#[derive(Deserialize)]
pub(crate) struct RelayLogin {
    username: String,
    #[serde(deserialize_with = "unescaped")]
    password: SecretString,
}

impl Kind for RelayLogin {
    const NAME: &'static str = "relay_login";

    fn read(values: &SecretValues) -> Result<Self, Malformed> {
        let expected = "the JSON of a login, {\"username\": \"…\", \"password\": \"…\"}";
        let Self { username, password } = json(values.current().text.expose_secret(), expected)?;
        Ok(Self { username, password: not_blank(password, expected)? })
    }

    fn can_fall_back_to(&self, pending: &Self) -> bool {
        self.username == pending.username
    }
}

/// A session at the relay. It belongs to one version of the login.
#[derive(Clone)]
pub(crate) struct Relay(Arc<Session>);

struct Session {
    in_service: AtomicBool,
    retired: AtomicBool,
    /// `None` if the session is closed.
    stream: Mutex<Option<BufStream<TcpStream>>>,
}

impl Relay {
    /// Carries the session over if the address and the version of the login are the same. Opens a new one otherwise.
    pub(crate) async fn open<A: Application>(
        cx: &Build<'_, A>,
        login: &Credential<RelayLogin>,
        address: &str,
    ) -> Result<Self, BuildError> {
        cx.resource(login, &address, async |_| {
            let opened = Session::open(login, address).await;
            match opened.map_err(|error| unavailable(address, &error))? {
                Some(session) => Ok(Self(Arc::new(session))),
                None => Err(Rejection::of(login, "the relay does not know this login").into()),
            }
        })
        .await
    }

    /// Sends one line of mail. Returns an error if the generation is not yet in service, because it may never be.
    pub(crate) async fn send(&self, mail: &str) -> io::Result<()> {
        let mut guard = self.0.stream.lock().await;
        if !self.0.in_service.load(Ordering::Acquire) {
            return Err(ErrorKind::NotConnected.into());
        }
        let Some(stream) = guard.as_mut() else {
            return Err(ErrorKind::NotConnected.into());
        };
        exchange(stream, &[mail]).await?;
        if self.0.retired.load(Ordering::Acquire) {
            guard.take();
        }
        Ok(())
    }
}

impl Session {
    /// Connects and logs in. Returns `None` if the relay rejects the login.
    async fn open(login: &RelayLogin, address: &str) -> io::Result<Option<Self>> {
        let mut stream = BufStream::new(TcpStream::connect(address).await?);
        let hello = [&login.username, " ", login.password.expose_secret()];
        if exchange(&mut stream, &hello).await? != "welcome" {
            return Ok(None);
        }
        Ok(Some(Self {
            in_service: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            stream: Mutex::new(Some(stream)),
        }))
    }
}

impl Resource for Relay {
    fn publish(&self) {
        self.0.in_service.store(true, Ordering::Release);
    }

    fn retire(&self, _successor: Option<&Self>) {
        self.0.retired.store(true, Ordering::Release);
        // If a request is sending now, that request closes the session when it has finished.
        if let Ok(mut stream) = self.0.stream.try_lock() {
            stream.take();
        }
    }

    async fn close(&self) {
        self.0.stream.lock().await.take();
    }
}

fn unavailable(address: &str, error: &io::Error) -> BuildError {
    BuildError::Fault(Fault {
        exit: Exit::Unavailable,
        subject: format!("the mail relay at {address}"),
        problem: error.kind().to_string(),
        remedy: "check service.relay and the network".into(),
    })
}

/// Sends a line and returns the answer. The line comes in parts: joined, it would be one more copy of the password.
async fn exchange(stream: &mut BufStream<TcpStream>, parts: &[&str]) -> io::Result<String> {
    for part in parts {
        stream.write_all(part.as_bytes()).await?;
    }
    stream.write_all(b"\n").await?;
    stream.flush().await?;
    let mut answer = String::new();
    stream.read_line(&mut answer).await?;
    Ok(answer.trim_end().to_owned())
}
