//! A kind of credential of a service's own, in one file: the login for a mail relay, and the session that it opens.

use serde::Deserialize;
use std::{
    io::{self, ErrorKind},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream},
    net::TcpStream,
    sync::Mutex,
    time::{Instant, timeout},
};
use vestibule::{
    Application, Build, BuildError, Credential,
    credentials::{json, not_blank, unescaped},
    exit::{Exit, Fault},
    resources::{CircuitBreaker, ProbeReason, Resource},
    secrets::{ExposeSecret, Kind, Malformed, SecretParts, SecretString, SecretValues},
};

/// The longest time for a connection, and for a line and its answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The longest answer, in bytes.
const LONGEST_ANSWER: u64 = 1024;

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

    fn secret_parts(&self, _: &SecretValues, parts: &mut SecretParts) {
        parts.add(self.password.expose_secret());
    }
}

/// A mail relay, and the session there. It belongs to one version of the login.
#[derive(Clone)]
pub(crate) struct Relay(Arc<RelayInner>);

struct RelayInner {
    login: Arc<RelayLogin>,
    address: String,
    breaker: CircuitBreaker,
    session: Mutex<Option<Session>>,
}

type Session = BufStream<TcpStream>;

impl Relay {
    /// Carries the session over if the address and the version of the login are the same. Opens a new one otherwise.
    pub(crate) async fn open<A: Application>(
        cx: &Build<'_, A>,
        login: &Credential<RelayLogin>,
        address: &str,
    ) -> Result<Self, BuildError> {
        cx.resource(login, &address, async |_| {
            let breaker = cx.circuit_breaker(login, address);
            let inner =
                RelayInner { login: login.shared(), address: address.into(), breaker, session: Mutex::default() };
            *inner.session.lock().await = Some(inner.log_in(cx.probe_reason()).await?);
            Ok(Self(Arc::new(inner)))
        })
        .await
    }

    /// Sends one line of mail. Logs in first if no session is open, and the breaker allows it.
    pub(crate) async fn send(&self, mail: &str) -> io::Result<()> {
        let Self(relay) = self;
        let mut place = relay.session.lock().await;
        // Before the publication, the generation may never be in service. Afterwards, its successor sends.
        if !relay.breaker.is_in_service() {
            return Err(ErrorKind::NotConnected.into());
        }
        // A session whose exchange does not end well is not put back, and closes.
        let mut session = match place.take() {
            Some(session) => session,
            None => relay.log_in(ProbeReason::Scheduled).await.map_err(io::Error::other)?,
        };
        match exchange(&mut session, &[mail]).await?.as_str() {
            "sent" if relay.breaker.is_in_service() => *place = Some(session),
            "sent" => (),
            "bye" => return Err(io::Error::other(relay.breaker.report_rejected("the relay ended the session"))),
            _ => return Err(ErrorKind::InvalidData.into()),
        }
        Ok(())
    }
}

impl RelayInner {
    /// Connects and logs in, if the breaker allows it. An attempt without an answer is inconclusive.
    async fn log_in(&self, reason: ProbeReason) -> Result<Session, BuildError> {
        let attempt = self.breaker.allow(reason)?;
        match self.say_hello().await.map_err(|error| self.unavailable(&error))? {
            (session, answer) if answer == "welcome" => {
                attempt.accepted();
                Ok(session)
            }
            _ => Err(attempt.rejected("the relay does not know this login").into()),
        }
    }

    async fn say_hello(&self) -> io::Result<(Session, String)> {
        let connected = timeout(TIMEOUT, TcpStream::connect(&self.address)).await??;
        let mut session = BufStream::new(connected);
        let hello = [&self.login.username, " ", self.login.password.expose_secret()];
        let answer = exchange(&mut session, &hello).await?;
        Ok((session, answer))
    }

    fn unavailable(&self, error: &io::Error) -> BuildError {
        BuildError::Fault(Fault {
            exit: Exit::Unavailable,
            subject: format!("the mail relay at {}", self.address),
            problem: error.to_string(),
            remedy: "check service.relay and the network".into(),
        })
    }
}

impl Resource for Relay {
    fn circuit_breaker(&self) -> Option<&CircuitBreaker> {
        Some(&self.0.breaker)
    }

    async fn probe(&self, reason: ProbeReason, _deadline: Instant) {
        let mut place = self.0.session.lock().await;
        if self.0.breaker.rejection().is_some()
            && let Ok(session) = self.0.log_in(reason).await
        {
            *place = Some(session);
        }
    }

    fn retire(&self, _successor: Option<&Self>) {
        // If a request is sending now, that request closes the session when it has finished.
        if let Ok(mut session) = self.0.session.try_lock() {
            session.take();
        }
    }

    async fn close(&self) {
        self.0.session.lock().await.take();
    }
}

/// Sends a line and returns the answer. The line comes in parts: joined, it would be one more copy of the password.
async fn exchange(session: &mut Session, parts: &[&str]) -> io::Result<String> {
    let exchanging = async {
        for part in parts {
            session.write_all(part.as_bytes()).await?;
        }
        session.write_all(b"\n").await?;
        session.flush().await?;
        let mut answer = String::new();
        session.take(LONGEST_ANSWER).read_line(&mut answer).await?;
        // Without its end, it was cut off or is too long.
        answer.strip_suffix('\n').map(str::to_owned).ok_or(ErrorKind::InvalidData.into())
    };
    timeout(TIMEOUT, exchanging).await?
}
