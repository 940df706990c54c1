//! A service with a kind of credential of its own. Like the four kinds of the framework, it is proven, carried over,
//! replaced, rejected and closed.

use crate::{
    eventually::eventually,
    relay::{Relay, RelayLogin},
};
use serde::{Deserialize, Serialize};
use std::{
    io::ErrorKind,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use vestibule::testing::{Harness, MemoryManager};
use vestibule::{
    Application, Build, BuildError, Credential, OpenApiRouter, Package, SecretSet, config::Config, exit::Exit,
    secrets::Stage,
};

#[derive(SecretSet)]
struct Secrets {
    relay: Credential<RelayLogin>,
}

#[derive(Default, Serialize, Deserialize, vestibule::ConfigSection)]
struct Settings {
    /// The address of the relay.
    relay: String,
    /// A setting that does not concern the session. A reload with another greeting builds another generation.
    greeting: String,
}

/// A service that sends mail.
struct Mailer {
    relay: Relay,
    version: String,
}

impl Application for Mailer {
    const PACKAGE: Package = Package::new("mailer", "0");
    type Settings = Settings;
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        let login = &cx.secrets.relay;
        let relay = Relay::open(cx, login, &cx.settings.relay).await?;
        let early = relay.send("too early").await;
        // Only a session that was carried over is in service already.
        assert!(early.is_err() || !cx.settings.greeting.is_empty(), "a new session is not in service yet");
        Ok(Self { relay, version: login.version().to_string() })
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new()
    }
}

/// A mail relay that accepts one login and records the lines that it gets.
#[derive(Clone, Default)]
struct RelayServer(Arc<Mutex<RelayState>>);

#[derive(Default)]
struct RelayState {
    accepted_login: String,
    /// The number of logins so far, also of those that were rejected.
    logins: usize,
    /// The answer to a line of mail.
    answer: String,
    /// The lines of mail so far, and a line for each connection that has closed.
    lines: Vec<String>,
}

impl RelayServer {
    /// Starts a relay that accepts `login`. Returns it with the settings for a service that uses it.
    async fn start(login: &str) -> (Self, Settings) {
        Self::start_at(TcpListener::bind(("127.0.0.1", 0)).await.expect("a port"), login)
    }

    fn start_at(listener: TcpListener, login: &str) -> (Self, Settings) {
        let relay = listener.local_addr().expect("it is bound").to_string();
        let server = Self::default();
        server.accept_only(login);
        server.answer_with("sent\n");
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(accepting.clone().serve(stream));
            }
        });
        (server, Settings { relay, greeting: String::new() })
    }

    /// Accepts only this login from now on: a username, a space and a password.
    fn accept_only(&self, login: &str) {
        login.clone_into(&mut self.state().accepted_login);
    }

    /// Answers each line of mail with this from now on.
    fn answer_with(&self, answer: &str) {
        answer.clone_into(&mut self.state().answer);
    }

    async fn serve(self, stream: TcpStream) {
        let (lines, mut answers) = stream.into_split();
        let mut lines = BufReader::new(lines).lines();
        let mut login = None;
        while let Ok(Some(line)) = lines.next_line().await {
            let answer = match &login {
                None => self.log_in(login.insert(line)),
                Some(login) => self.take_mail(login, line),
            };
            if answers.write_all(answer.as_bytes()).await.is_err() {
                break;
            }
        }
        self.record(format!("{} is gone", login.unwrap_or_default()));
    }

    fn log_in(&self, login: &str) -> String {
        let mut state = self.state();
        state.logins += 1;
        if state.accepted_login == login { "welcome\n".into() } else { "who?\n".into() }
    }

    fn take_mail(&self, login: &str, line: String) -> String {
        let mut state = self.state();
        if state.accepted_login != login {
            return "bye\n".into();
        }
        state.lines.push(line);
        state.answer.clone()
    }

    fn record(&self, line: String) {
        self.state().lines.push(line);
    }

    fn state(&self) -> MutexGuard<'_, RelayState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the relay has recorded exactly these lines, in any order. `wanted` is sorted. Forgets the lines.
    async fn wait_for_lines(&self, wanted: &[&str]) {
        let sorted = || {
            let mut lines = self.state().lines.clone();
            lines.sort();
            lines
        };
        eventually(&format!("{wanted:?}"), sorted, |lines| lines == wanted).await;
        self.state().lines.clear();
    }
}

fn config(settings: Settings) -> Config<Settings> {
    Config { service: settings, ..Config::default() }
}

const FIRST: &str = r#"{"username": "app", "password": "sentinel one"}"#;
const SECOND: &str = r#"{"username": "app", "password": "sentinel \"two\""}"#;

/// Starts a service, which sends one mail.
async fn start_mailer(login: &str) -> (RelayServer, Arc<MemoryManager>, Harness<Mailer>, String) {
    let (server, settings) = RelayServer::start(login).await;
    let manager = MemoryManager::with([("relay", FIRST)]);
    let address = settings.relay.clone();
    let mailer = Harness::<Mailer>::start(manager.clone(), config(settings)).await.expect("the login is accepted");
    mailer.live().service().relay.send("one").await.expect("the session is in service");
    server.wait_for_lines(&["one"]).await;
    (server, manager, mailer, address)
}

#[tokio::test]
async fn a_session_is_carried_over_while_its_login_is_the_same() {
    let (server, _, mailer, relay) = start_mailer("app sentinel one").await;
    assert!(!mailer.reload().await.unwrap(), "nothing has changed");
    let greeting = "hello".to_owned();
    assert!(mailer.reload_with(config(Settings { relay, greeting })).await.unwrap());
    assert_eq!(mailer.live().generation().number, 2);
    mailer.live().service().relay.send("two").await.unwrap();
    server.wait_for_lines(&["too early", "two"]).await;
    mailer.stop().await;
    server.wait_for_lines(&["app sentinel one is gone"]).await;
}

#[tokio::test]
async fn a_start_waits_for_the_relay() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let settings = Settings { relay: listener.local_addr().unwrap().to_string(), greeting: String::new() };
    let relay = tokio::spawn(async move {
        // The first session ends before its answer.
        drop(listener.accept().await.expect("a connection"));
        RelayServer::start_at(listener, "app sentinel one").0
    });
    let manager = MemoryManager::with([("relay", FIRST)]);
    let mailer = Harness::<Mailer>::start(manager, config(settings)).await.expect("the relay is there by then");
    assert_eq!(relay.await.expect("a relay").state().logins, 1);
    mailer.stop().await;
}

#[tokio::test]
async fn a_new_version_opens_a_new_session_and_the_old_one_closes() {
    let (server, manager, mailer, _) = start_mailer("app sentinel one").await;
    let before = mailer.live().service();
    server.accept_only("app sentinel \"two\"");
    manager.rotate("relay", SECOND);
    assert!(mailer.reload().await.unwrap());
    server.wait_for_lines(&["app sentinel one is gone"]).await;
    assert!(before.relay.send("late").await.is_err());
    mailer.live().service().relay.send("two").await.unwrap();
    server.wait_for_lines(&["two"]).await;
    assert_eq!(mailer.live().service().version, "v2");
}

#[tokio::test]
async fn a_malformed_version_is_refused_and_not_quoted() {
    let (server, manager, mailer, _) = start_mailer("app sentinel one").await;
    for malformed in [
        r#"{"username": "app", "password": {"sentinel": 1}}"#,
        r#"{"username": "app", "password": "sentinel\ud83d"}"#,
        r#"{"username": "sentinel", "password": " "}"#,
        "sentinel",
    ] {
        manager.rotate("relay", malformed);
        let report = mailer.reload().await.unwrap_err();
        assert_eq!(report.exit(), Exit::Malformed);
        assert!(report.to_string().contains("the JSON of a login"), "{report}");
        assert!(!format!("{report} {report:?}").contains("sentinel"), "the report quotes the secret");
    }
    mailer.live().service().relay.send("two").await.unwrap();
    server.wait_for_lines(&["two"]).await;
}

#[tokio::test]
async fn a_pending_version_replaces_a_rejected_one() {
    let (server, manager, mailer, _) = start_mailer("app sentinel one").await;
    server.accept_only("app sentinel \"two\"");
    manager.rotate("relay", r#"{"username": "app", "password": "never set"}"#);
    let report = mailer.reload().await.unwrap_err();
    assert_eq!(report.exit(), Exit::Denied);
    server.wait_for_lines(&["app never set is gone"]).await;
    manager.put_at("relay", Stage::Pending, r#"{"username": "somebody else", "password": "x"}"#);
    assert_eq!(mailer.reload().await.unwrap_err().exit(), Exit::Denied);
    server.wait_for_lines(&["app never set is gone"]).await;
    let pending = manager.put_at("relay", Stage::Pending, SECOND);
    assert!(mailer.reload().await.unwrap());
    assert_eq!(mailer.live().service().version, pending.as_str());
    server.wait_for_lines(&["app never set is gone", "app sentinel one is gone"]).await;
}

#[tokio::test]
async fn a_login_that_is_rejected_while_mail_is_sent_is_tried_again_by_an_operator_only() {
    let (server, manager, mailer, _) = start_mailer("app sentinel one").await;
    server.accept_only("app sentinel \"two\"");
    let relay = &mailer.live().service().relay;
    let rejected = relay.send("two").await.unwrap_err().to_string();
    assert!(rejected.contains("the relay ended the session"), "{rejected}");
    let denied = relay.send("three").await.unwrap_err().to_string();
    assert!(denied.contains("not tried now"), "{denied}");
    assert_eq!(server.state().logins, 1, "the pause has begun");

    assert_eq!(mailer.reload().await.unwrap_err().exit(), Exit::Denied);
    assert_eq!(server.state().logins, 2, "an operator's reload tries");
    server.accept_only("app sentinel one");
    assert!(!mailer.reload().await.unwrap(), "the version in service is good again");
    relay.send("four").await.unwrap();
    server.wait_for_lines(&["app sentinel one is gone", "app sentinel one is gone", "four"]).await;

    server.accept_only("app sentinel \"two\"");
    relay.send("five").await.unwrap_err();
    manager.rotate("relay", SECOND);
    assert!(mailer.reload().await.unwrap());
    mailer.live().service().relay.send("six").await.unwrap();
    server.wait_for_lines(&["app sentinel one is gone", "app sentinel one is gone", "six"]).await;
}

#[tokio::test]
async fn a_relay_whose_line_does_not_end_is_waited_for_no_longer_than_the_limits() {
    let (server, _, mailer, _) = start_mailer("app sentinel one").await;
    let relay = &mailer.live().service().relay;
    for (answer, error) in [("sent".to_owned(), ErrorKind::TimedOut), ("x".repeat(1 << 20), ErrorKind::InvalidData)] {
        server.answer_with(&answer);
        assert_eq!(relay.send("two").await.unwrap_err().kind(), error);
    }
    server.answer_with("sent\n");
    relay.send("two").await.expect("another session");
}
