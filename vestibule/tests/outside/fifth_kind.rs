//! A service with a kind of credential of its own: proven, carried over, replaced, refused and let go of as the four.

use crate::{
    NO_MIGRATIONS,
    memory::Memory,
    relay::{Relay, RelayLogin},
};
use axum::Router;
use serde::{Deserialize, Serialize};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use vestibule::testing::Harness;
use vestibule::{
    Application, Build, BuildError, Credential, Package, SecretSet, config::Config, exit::Exit, secrets::Stage,
};

#[derive(SecretSet)]
struct Secrets {
    relay: Credential<RelayLogin>,
}

#[derive(Default, Serialize, Deserialize)]
struct Settings {
    relay: String,
    greeting: String,
}

struct Mailer {
    relay: Relay,
    version: String,
}

impl Application for Mailer {
    const PACKAGE: Package = Package { name: "mailer", version: "0", migrations: &NO_MIGRATIONS };
    type Settings = Settings;
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        let login = &cx.secrets.relay;
        let relay = Relay::open(cx, login, &cx.settings.relay).await?;
        let early = relay.send("too early").await;
        // What was carried over is in service already.
        assert!(early.is_err() || !cx.settings.greeting.is_empty(), "it is not in service yet");
        Ok(Self { relay, version: login.version().to_string() })
    }

    fn routes() -> Router<Arc<Self>> {
        Router::new()
    }
}

/// A mail relay that knows one login, and what it was told.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<(String, Vec<String>)>>);

impl Server {
    /// One that listens; with the configuration that leads there.
    async fn start(login: &str) -> (Self, Settings) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let relay = listener.local_addr().expect("it is bound").to_string();
        let server = Self::default();
        server.accept_only(login);
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(accepting.clone().serve(stream));
            }
        });
        (server, Settings { relay, greeting: String::new() })
    }

    fn accept_only(&self, login: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 = login.to_owned();
    }

    async fn serve(self, stream: TcpStream) {
        let (lines, mut answers) = stream.into_split();
        let mut lines = BufReader::new(lines).lines();
        let mut user = None;
        while let Ok(Some(line)) = lines.next_line().await {
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).0 == line;
            let answer = match &user {
                None if known => "welcome\n",
                None => "who?\n",
                Some(_) => "sent\n",
            };
            if user.is_none() {
                user = Some(line)
            } else {
                self.note(line)
            }
            answers.write_all(answer.as_bytes()).await.expect("it reads");
        }
        self.note(format!("{} is gone", user.unwrap_or_default()));
    }

    fn note(&self, line: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.push(line);
    }

    /// Waits until it was told all this, and forgets it.
    async fn told(&self, wanted: &[&str]) {
        let start = std::time::Instant::now();
        loop {
            let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone();
            told.sort();
            if told == wanted {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clear();
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{told:?} is not {wanted:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn config(settings: Settings) -> Config<Settings> {
    Config { service: settings, ..Config::default() }
}

const FIRST: &str = r#"{"username": "app", "password": "sentinel one"}"#;
const SECOND: &str = r#"{"username": "app", "password": "sentinel \"two\""}"#;

/// A service that has sent one mail.
async fn mailer(login: &str) -> (Server, Arc<Memory>, Harness<Mailer>, String) {
    let (server, settings) = Server::start(login).await;
    let memory = Memory::with([("relay", FIRST)]);
    let address = settings.relay.clone();
    let mailer = Harness::<Mailer>::start(memory.clone(), config(settings)).await.expect("it starts");
    mailer.live().service().relay.send("one").await.expect("it is in service");
    server.told(&["one"]).await;
    (server, memory, mailer, address)
}

#[tokio::test]
async fn a_session_is_carried_over_while_its_login_is_the_same() {
    let (server, _, mailer, relay) = mailer("app sentinel one").await;
    assert!(!mailer.reload().await.unwrap(), "there is nothing new");
    let greeting = "hello".to_owned();
    assert!(mailer.reload_with(config(Settings { relay, greeting })).await.unwrap());
    assert_eq!(mailer.live().generation().number, 2);
    mailer.live().service().relay.send("two").await.unwrap();
    server.told(&["too early", "two"]).await;
    mailer.stop().await;
    server.told(&["app sentinel one is gone"]).await;
}

#[tokio::test]
async fn a_new_version_gets_a_session_of_its_own_and_the_old_one_ends() {
    let (server, memory, mailer, _) = mailer("app sentinel one").await;
    let before = mailer.live().service();
    server.accept_only("app sentinel \"two\"");
    memory.rotate("relay", SECOND);
    assert!(mailer.reload().await.unwrap());
    server.told(&["app sentinel one is gone"]).await;
    assert!(before.relay.send("late").await.is_err());
    mailer.live().service().relay.send("two").await.unwrap();
    server.told(&["two"]).await;
    assert_eq!(mailer.live().service().version, "v2");
}

#[tokio::test]
async fn a_malformed_version_is_refused_and_not_quoted() {
    let (server, memory, mailer, _) = mailer("app sentinel one").await;
    for malformed in [
        r#"{"username": "app", "password": {"sentinel": 1}}"#,
        r#"{"username": "app", "password": "sentinel\ud83d"}"#,
        r#"{"username": "sentinel", "password": " "}"#,
        "sentinel",
    ] {
        memory.rotate("relay", malformed);
        let report = mailer.reload().await.unwrap_err();
        assert_eq!(report.exit(), Exit::Malformed);
        assert!(report.to_string().contains("the JSON of a login"), "{report}");
        assert!(!format!("{report} {report:?}").contains("sentinel"), "it is quoted");
    }
    mailer.live().service().relay.send("two").await.unwrap();
    server.told(&["two"]).await;
}

#[tokio::test]
async fn a_refused_version_yields_to_the_pending_one() {
    let (server, memory, mailer, _) = mailer("app sentinel one").await;
    server.accept_only("app sentinel \"two\"");
    memory.rotate("relay", r#"{"username": "app", "password": "never set"}"#);
    let report = mailer.reload().await.unwrap_err();
    assert_eq!(report.exit(), Exit::Denied);
    server.told(&["app never set is gone"]).await;
    memory.put("relay", Stage::Pending, r#"{"username": "somebody else", "password": "x"}"#);
    assert_eq!(mailer.reload().await.unwrap_err().exit(), Exit::Denied);
    server.told(&["app never set is gone"]).await;
    let pending = memory.put("relay", Stage::Pending, SECOND);
    assert!(mailer.reload().await.unwrap());
    assert_eq!(mailer.live().service().version, pending);
    server.told(&["app never set is gone", "app sentinel one is gone"]).await;
}
