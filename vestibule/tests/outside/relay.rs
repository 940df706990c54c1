//! A fifth kind of credential in one file: the login at a mail relay, and the session that it opens.

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

/// `{"username": "…", "password": "…"}`.
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

/// A session at the relay, with one version of the login.
#[derive(Clone)]
pub(crate) struct Relay(Arc<Session>);

struct Session {
    in_service: AtomicBool,
    retired: AtomicBool,
    stream: Mutex<Option<BufStream<TcpStream>>>,
}

impl Relay {
    pub(crate) async fn open<A: Application>(
        cx: &Build<'_, A>,
        login: &Credential<RelayLogin>,
        address: &str,
    ) -> Result<Self, BuildError> {
        cx.resource(login, &address, async |_| {
            let away = |error: io::Error| {
                BuildError::Fault(Fault {
                    exit: Exit::Unavailable,
                    subject: format!("the mail relay at {address}"),
                    problem: error.kind().to_string(),
                    remedy: "check service.relay, and the way there".into(),
                })
            };
            let mut stream = BufStream::new(TcpStream::connect(address).await.map_err(away)?);
            let hello = [&login.username, " ", login.password.expose_secret()];
            match ask(&mut stream, &hello).await.map_err(away)?.as_str() {
                "welcome" => Ok(Self(Arc::new(Session {
                    in_service: AtomicBool::new(false),
                    retired: AtomicBool::new(false),
                    stream: Mutex::new(Some(stream)),
                }))),
                _ => Err(Rejection::of(login, "the relay does not know this login").into()),
            }
        })
        .await
    }

    /// Gives the relay one line of mail. Nothing is sent for a generation that may never be in service.
    pub(crate) async fn send(&self, mail: &str) -> io::Result<()> {
        let mut stream = self.0.stream.lock().await;
        let session = stream.as_mut().filter(|_| self.0.in_service.load(Ordering::Acquire));
        ask(session.ok_or(ErrorKind::NotConnected)?, &[mail]).await?;
        if self.0.retired.load(Ordering::Acquire) {
            stream.take();
        }
        Ok(())
    }
}

impl Resource for Relay {
    fn publish(&self) {
        self.0.in_service.store(true, Ordering::Release);
    }

    fn retire(&self, _successor: Option<&Self>) {
        self.0.retired.store(true, Ordering::Release);
        // Whoever sends at this moment ends the session when that is done.
        if let Ok(mut stream) = self.0.stream.try_lock() {
            stream.take();
        }
    }

    async fn close(&self) {
        self.0.stream.lock().await.take();
    }
}

/// In parts: a line put together would be one more copy of the password.
async fn ask(stream: &mut BufStream<TcpStream>, line: &[&str]) -> io::Result<String> {
    for part in line.iter().chain(&["\n"]) {
        stream.write_all(part.as_bytes()).await?;
    }
    stream.flush().await?;
    let mut answer = String::new();
    stream.read_line(&mut answer).await?;
    Ok(answer.trim_end().to_owned())
}
