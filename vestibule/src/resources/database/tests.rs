//! Tests of the pool against a server that knows as much of PostgreSQL as a log-in and a statement without rows need.

use super::*;
use crate::{
    application::{Application, Build},
    config::{
        Config,
        settings::{DatabaseConfig, TlsMode},
    },
    credentials::login::Host,
    exit::Exit,
    openapi::OpenApiRouter,
    package::Package,
    testing::{Harness, MemoryManager, eventually::eventually},
};
use futures_util::FutureExt;
use sqlx::{
    Executor, SqlStr,
    migrate::{Migration, MigrationType, Migrator},
};
use std::{
    borrow::Cow,
    future::pending,
    io,
    num::{NonZeroU16, NonZeroU32},
    sync::Mutex,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::{pause, sleep, timeout},
};
use vestibule_derive::SecretSet;

const READ_ONLY: &[u8] = b"SERROR\0VERROR\0C25006\0Mread-only\0\0";

/// The error of a statement that no longer fits the schema, from a server with German messages.
const GERMAN_PLAN: &[u8] =
    "SFEHLER\0VERROR\0C0A000\0Mgecachter Plan darf den Ergebnistyp nicht ändern\0RRevalidateCachedQuery\0\0".as_bytes();

/// Returns the answer of a server that lets nobody in, as a whole message.
fn fatal(sqlstate: &str, text: &str) -> Vec<u8> {
    let fields = format!("SFATAL\0VFATAL\0C{sqlstate}\0M{text}\0\0");
    let length = u32::try_from(fields.len() + 4).expect("it is short");
    [b"E", &length.to_be_bytes()[..], fields.as_bytes()].concat()
}

/// A server of one user.
#[derive(Default)]
struct Server {
    /// The passwords that it accepts.
    passwords: Mutex<Vec<&'static str>>,
    /// The password of each log-in that it has accepted, and of each statement.
    log_ins: Mutex<Vec<String>>,
    statements: Mutex<Vec<String>>,
    /// For each connection that its client has closed, the number of log-ins before that.
    ends: Mutex<Vec<usize>>,
    /// The error of each statement, if it has one.
    fault: Mutex<Option<&'static [u8]>>,
    /// The next log-ins get this in place of an answer. Then the connection closes.
    nonsense: Mutex<Vec<Vec<u8>>>,
    /// The errors of the next looks at the schema.
    blind: Mutex<Vec<&'static [u8]>>,
    /// The password whose connections may run no statement.
    denied: Mutex<Option<&'static str>>,
    /// `true` if log-ins get no answer, as from a black hole.
    is_silent: Mutex<bool>,
    /// Tells of a log-in that gets no answer.
    log_in_hangs: Notify,
}

impl Server {
    async fn listen(self: &Arc<Self>) -> NonZeroU16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (server, port) = (self.clone(), listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move { server.serve(stream).await });
            }
        });
        NonZeroU16::new(port).unwrap()
    }

    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        read_text(&mut stream).await?;
        if *self.is_silent.lock().unwrap() {
            self.log_in_hangs.notify_one();
            return pending().await;
        }
        let nonsense = self.nonsense.lock().unwrap().pop();
        if let Some(nonsense) = nonsense {
            return stream.write_all(&nonsense).await;
        }
        // AuthenticationCleartextPassword.
        write(&mut stream, b'R', &[0, 0, 0, 3]).await?;
        stream.read_u8().await?;
        let password = read_text(&mut stream).await?.trim_end_matches('\0').to_owned();
        if !self.passwords.lock().unwrap().iter().any(|accepted| *accepted == password) {
            return write(&mut stream, b'E', b"SFATAL\0VFATAL\0C28P01\0Mwrong password\0\0").await;
        }
        self.log_ins.lock().unwrap().push(password.clone());
        // AuthenticationOk.
        write(&mut stream, b'R', &[0, 0, 0, 0]).await?;
        loop {
            write(&mut stream, b'Z', b"I").await?;
            let kind = stream.read_u8().await?;
            let text = read_text(&mut stream).await?;
            if kind == b'X' {
                let before = self.log_ins().len();
                self.ends.lock().unwrap().push(before);
                return Ok(());
            }
            if kind == b'P' {
                // A lock keeps the statement from being prepared.
                return pending().await;
            }
            if kind == b'Q' && text.contains("_sqlx_migrations") {
                let error = self.blind.lock().unwrap().pop();
                match error {
                    Some(error) => return write(&mut stream, b'E', error).await,
                    None => write_migrations(&mut stream).await?,
                }
                continue;
            }
            // A `Sync` has no other answer.
            if kind == b'Q' {
                // So long that two statements at a time need two connections.
                sleep(Duration::from_millis(100)).await;
                self.statements.lock().unwrap().push(password.clone());
                let fault = *self.fault.lock().unwrap();
                let is_denied = *self.denied.lock().unwrap() == Some(&password);
                if is_denied {
                    write(&mut stream, b'E', b"SERROR\0VERROR\0C42501\0Mpermission denied\0\0").await?;
                } else if let Some(fault) = fault {
                    write(&mut stream, b'E', fault).await?;
                } else {
                    write(&mut stream, b'C', b"SELECT 0\0").await?;
                }
            }
        }
    }

    fn log_ins(&self) -> Vec<String> {
        self.log_ins.lock().unwrap().clone()
    }
}

/// Reads the rest of a message, after the letter of its kind.
async fn read_text(stream: &mut TcpStream) -> io::Result<String> {
    let length = stream.read_u32().await?;
    let mut text = vec![0; length as usize - 4];
    stream.read_exact(&mut text).await?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

async fn write(stream: &mut TcpStream, kind: u8, body: &[u8]) -> io::Result<()> {
    let mut message = vec![kind];
    message.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    message.extend_from_slice(body);
    stream.write_all(&message).await
}

/// Writes the answer of a schema that has [`MIGRATIONS`]: the columns with the types bigint and boolean, and one row.
async fn write_migrations(stream: &mut TcpStream) -> io::Result<()> {
    let column = |name: &[u8], type_id| [name, &[0; 10], &[type_id], &[0; 8]].concat();
    let columns = [&[0, 2][..], &column(b"version", 20)[..], &column(b"success", 16)[..]].concat();
    write(stream, b'T', &columns).await?;
    write(stream, b'D', b"\0\x02\0\0\0\x011\0\0\0\x01t").await?;
    write(stream, b'C', b"SELECT 1\0").await
}

static MIGRATIONS: Migrator = Migrator {
    migrations: Cow::Borrowed(&[Migration {
        version: 1,
        description: Cow::Borrowed("first"),
        migration_type: MigrationType::Simple,
        sql: SqlStr::from_static(""),
        checksum: Cow::Borrowed(&[]),
        no_tx: false,
    }]),
    ..Migrator::DEFAULT
};

#[derive(SecretSet)]
struct Secrets {
    database: Credential<Login>,
}

/// A service that runs two statements at a time when it is built.
struct Service(Database);

impl Application for Service {
    const PACKAGE: Package = Package::new("service", "1");
    type Settings = ();
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        let database = cx.database(&cx.secrets.database).await?;
        let built = tokio::try_join!(statement(&database), statement(&database));
        built.map_err(|error| BuildError::Fault(fault(&error)))?;
        Ok(Self(database))
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new()
    }
}

/// A service with migrations.
struct Migrated(Database);

impl Application for Migrated {
    const PACKAGE: Package = Package { migrations: Some(&MIGRATIONS), ..Package::new("service", "1") };
    type Settings = ();
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self(cx.database(&cx.secrets.database).await?))
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new()
    }
}

async fn statement(database: &Database) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("SELECT").execute(database).await.map(drop)
}

/// Starts the service with the password `one`, and its pool with two idle connections.
async fn start(server: &Arc<Server>) -> (Harness<Service>, Arc<MemoryManager>) {
    let database = listen(server).await;
    let started = start_with(server, Config { database, ..Config::default() }).await;
    assert_eq!(server.log_ins(), ["one", "one"]);
    started
}

/// Has the server listen, and returns its place.
async fn listen(server: &Arc<Server>) -> DatabaseConfig {
    DatabaseConfig {
        host: Host::parse("127.0.0.1").unwrap(),
        port: server.listen().await,
        tls: TlsMode::Disable,
        max_connections: NonZeroU32::new(2).unwrap(),
        acquire_timeout: Duration::from_secs(2),
        ..DatabaseConfig::default()
    }
}

async fn start_with(server: &Arc<Server>, config: Config<()>) -> (Harness<Service>, Arc<MemoryManager>) {
    let manager = MemoryManager::with([("database", login("one"))]);
    server.passwords.lock().unwrap().push("one");
    let harness = Harness::start(manager.clone(), config).await;
    (harness.unwrap_or_else(|report| panic!("{report}")), manager)
}

fn login(password: &str) -> String {
    format!("{{\"username\": \"app\", \"password\": \"{password}\"}}")
}

#[tokio::test]
async fn a_load_gets_its_connections_of_the_login_that_it_has_proven() {
    for is_first_rejected in [false, true] {
        let server = Arc::<Server>::default();
        let (harness, manager) = start(&server).await;
        if is_first_rejected {
            server.passwords.lock().unwrap().clear();
        }
        server.passwords.lock().unwrap().push("two");
        server.statements.lock().unwrap().clear();
        manager.rotate("database", login("two"));
        harness.reload().await.unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(*server.statements.lock().unwrap(), ["two", "two"]);
        harness.stop().await;
    }
}

#[tokio::test]
async fn the_connections_that_a_load_has_opened_serve_after_the_publication() {
    let server = Arc::<Server>::default();
    let (harness, manager) = start(&server).await;
    server.passwords.lock().unwrap().push("two");
    manager.rotate("database", login("two"));
    harness.reload().await.unwrap_or_else(|report| panic!("{report}"));
    // Idle connections of the login before serve for a second.
    sleep(Duration::from_millis(1200)).await;
    let service = harness.live().service();
    tokio::try_join!(statement(&service.0), statement(&service.0)).unwrap();
    assert_eq!(server.log_ins(), ["one", "one", "two", "two"]);
    harness.stop().await;
}

#[tokio::test]
async fn a_database_that_is_read_only_for_long_empties_the_pool_once() {
    let server = Arc::<Server>::default();
    let (harness, _) = start(&server).await;
    let service = harness.live().service();
    *server.fault.lock().unwrap() = Some(READ_ONLY);
    statement(&service.0).await.unwrap_err();
    assert_eq!(server.log_ins().len(), 2);
    let (one, other) = (service.0.acquire().await.unwrap(), service.0.acquire().await.unwrap());
    assert_eq!(server.log_ins().len(), 4, "all were closed");
    drop((one, other));
    statement(&service.0).await.unwrap_err();
    *server.fault.lock().unwrap() = None;
    statement(&service.0).await.unwrap();
    assert_eq!(server.log_ins().len(), 4, "the one that has failed was closed alone");
    harness.stop().await;
}

#[tokio::test]
async fn a_load_that_fails_after_its_log_in_closes_no_connection_in_service() {
    let server = Arc::<Server>::default();
    let (harness, manager) = start(&server).await;
    *server.passwords.lock().unwrap() = vec!["two"];
    *server.denied.lock().unwrap() = Some("two");
    manager.rotate("database", login("two"));
    harness.reload().await.unwrap_err();
    // No log-in with the password in service succeeds any more.
    let service = harness.live().service();
    tokio::try_join!(statement(&service.0), statement(&service.0)).unwrap();
    harness.stop().await;
}

#[tokio::test]
async fn limits_are_taken_up_without_a_log_in_and_without_the_loss_of_a_connection() {
    let server = Arc::<Server>::default();
    let database = listen(&server).await;
    let (harness, _) = start_with(&server, Config { database: database.clone(), ..Config::default() }).await;
    server.passwords.lock().unwrap().clear();
    let database = DatabaseConfig { statement_timeout: Duration::from_secs(3), ..database };
    let reloaded = harness.reload_with(Config { database: database.clone(), ..Config::default() }).await;
    assert!(reloaded.unwrap_or_else(|report| panic!("{report}")));
    // Idle connections of a login that was replaced would serve for a second.
    sleep(Duration::from_millis(1200)).await;
    let service = harness.live().service();
    tokio::try_join!(statement(&service.0), statement(&service.0)).unwrap();
    assert_eq!(server.log_ins(), ["one", "one"]);

    server.passwords.lock().unwrap().push("one");
    // An operator's reload tries a rejected login at once.
    assert!(!harness.reload().await.unwrap_or_else(|report| panic!("{report}")));
    sleep(Duration::from_millis(1200)).await;
    tokio::try_join!(statement(&service.0), statement(&service.0)).unwrap();
    assert!(server.log_ins().len() >= 4, "connections with the limits of before are not used any more");
    let unproven = DatabaseConfig { startup_options: false, ..database };
    server.passwords.lock().unwrap().clear();
    let reloaded = harness.reload_with(Config { database: unproven, ..Config::default() }).await;
    reloaded.expect_err("a log-in with other options proves them");
    harness.stop().await;
}

#[tokio::test]
async fn new_limits_lengthen_the_life_of_no_login_that_was_rotated_away() {
    let server = Arc::<Server>::default();
    let database = DatabaseConfig { max_connections: NonZeroU32::new(3).unwrap(), ..listen(&server).await };
    let (harness, manager) = start_with(&server, Config { database: database.clone(), ..Config::default() }).await;
    let of_login_before = harness.live().service().0.acquire().await.unwrap();
    server.passwords.lock().unwrap().push("two");
    manager.rotate("database", login("two"));
    assert!(harness.reload().await.unwrap_or_else(|report| panic!("{report}")));
    // No log-in with the new limits succeeds.
    server.passwords.lock().unwrap().clear();
    let database = DatabaseConfig { statement_timeout: Duration::from_secs(3), ..database };
    let reloaded = harness.reload_with(Config { database, ..Config::default() }).await;
    assert!(reloaded.unwrap_or_else(|report| panic!("{report}")));
    // Idle connections of a login that was replaced serve for a second.
    sleep(Duration::from_millis(1200)).await;
    server.statements.lock().unwrap().clear();
    drop(of_login_before);
    statement(&harness.live().service().0).await.unwrap();
    assert_eq!(*server.statements.lock().unwrap(), ["two"]);
    harness.stop().await;
}

#[tokio::test]
async fn those_who_have_given_up_are_forgotten_while_all_connections_are_in_use() {
    let server = Arc::<Server>::default();
    let (harness, _) = start(&server).await;
    let Service(database) = &*harness.live().service();
    let in_use = (database.acquire().await.unwrap(), database.acquire().await.unwrap());
    for _ in 0..10 {
        assert!(database.acquire().now_or_never().is_none());
    }
    assert_eq!(database.0.pool.taken_and_waiting(), (2, 1));
    drop(in_use);
    harness.stop().await;
}

#[tokio::test]
async fn a_connection_that_became_idle_while_nobody_looked_is_closed_too() {
    let server = Arc::<Server>::default();
    let (harness, _) = start(&server).await;
    let Service(database) = &*harness.live().service();
    let in_use = (database.acquire().await.unwrap(), database.acquire().await.unwrap());
    let idle_timeout = DatabaseConfig::default().idle_timeout;
    pause();
    sleep(2 * idle_timeout).await;
    drop(in_use);
    sleep(3 * idle_timeout).await;
    assert_eq!(database.0.pool.taken_and_waiting(), (0, 0));
    harness.stop().await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_log_in_that_gets_no_answer() {
    let server = Arc::<Server>::default();
    let database = DatabaseConfig { max_connections: NonZeroU32::MIN, ..listen(&server).await };
    let (harness, _) = start_with(&server, Config { database, ..Config::default() }).await;
    let Service(database) = &*harness.live().service();
    *server.fault.lock().unwrap() = Some(READ_ONLY);
    *server.is_silent.lock().unwrap() = true;
    statement(database).await.unwrap_err();
    let waiting = tokio::spawn({
        let database = database.clone();
        async move { database.acquire().await.map(drop) }
    });
    server.log_in_hangs.notified().await;
    assert_eq!(database.0.pool.taken_and_waiting(), (1, 1));
    pause();
    let start = Instant::now();
    database.close().await;
    assert_eq!((start.elapsed(), database.0.pool.taken_and_waiting()), (Duration::ZERO, (0, 0)));
    waiting.await.unwrap().expect_err("the pool is closed");
    harness.stop().await;
}

#[tokio::test]
async fn an_abandoned_statement_keeps_its_place_as_long_as_its_transaction_lets_it_run() {
    let server = Arc::<Server>::default();
    let statement_timeout = Duration::from_millis(100);
    let idle_timeout = Duration::from_secs(3600);
    let database = DatabaseConfig { statement_timeout, idle_timeout, ..listen(&server).await };
    let (harness, _) = start_with(&server, Config { database, ..Config::default() }).await;
    let Service(database) = &*harness.live().service();
    let mut transaction = database.begin().await.unwrap();
    transaction.set_statement_timeout(Duration::from_secs(600)).await.unwrap();
    let prepare = transaction.prepare(SqlStr::from_static("SELECT"));
    timeout(Duration::from_millis(100), prepare).await.expect_err("it waits for a lock");
    // The other one is idle.
    assert_eq!(database.0.pool.taken_and_waiting(), (2, 0));
    drop(transaction);
    pause();
    sleep(Duration::from_secs(500)).await;
    assert_eq!(database.0.pool.taken_and_waiting(), (2, 0), "the server still runs it");
    sleep(Duration::from_secs(200)).await;
    assert_eq!(database.0.pool.taken_and_waiting().0, 1);
    harness.stop().await;
}

#[tokio::test]
async fn a_statement_that_no_longer_fits_the_schema_renews_all_connections_in_every_language() {
    let server = Arc::<Server>::default();
    let (harness, _) = start(&server).await;
    let service = harness.live().service();
    *server.fault.lock().unwrap() = Some(GERMAN_PLAN);
    statement(&service.0).await.unwrap_err();
    *server.fault.lock().unwrap() = None;
    tokio::try_join!(statement(&service.0), statement(&service.0)).unwrap();
    assert_eq!(server.log_ins().len(), 4);
    harness.stop().await;
}

#[tokio::test]
async fn connections_that_became_idle_together_are_not_closed_together() {
    let server = Arc::<Server>::default();
    let idle_timeout = Duration::from_secs(1000);
    let database = DatabaseConfig { idle_timeout, ..listen(&server).await };
    let (harness, _) = start_with(&server, Config { database, ..Config::default() }).await;
    let service = harness.live().service();
    let (mut one, mut other) = tokio::try_join!(service.0.lease(), service.0.lease()).unwrap();
    let idle_times = [&mut one, &mut other].map(|lease| {
        let connection = lease.connection();
        connection.idle_until() - connection.idle_since
    });
    assert_ne!(idle_times[0], idle_times[1]);
    assert!(idle_times.iter().all(|time| (900..=1100).contains(&time.as_secs())), "{idle_times:?}");
    drop((one, other));
    harness.stop().await;
}

#[tokio::test]
async fn a_connection_that_the_server_has_ended_is_not_used_again_whatever_the_reason() {
    let server = Arc::<Server>::default();
    let (harness, _) = start(&server).await;
    let service = harness.live().service();
    let ended: [&[u8]; 4] = [
        b"SFATAL\0VFATAL\0C25P04\0Mterminating connection due to transaction timeout\0\0",
        b"SFATAL\0VFATAL\0C40001\0Mterminating connection due to conflict with recovery\0\0",
        b"SPANIC\0VPANIC\0CXX000\0Mstuck spinlock detected\0\0",
        "SSCHWERWIEGEND\0VFATAL\0C57P05\0Mbreche Verbindung ab\0\0".as_bytes(),
    ];
    for (error, count) in ended.into_iter().zip(3..) {
        *server.fault.lock().unwrap() = Some(error);
        statement(&service.0).await.unwrap_err();
        *server.fault.lock().unwrap() = None;
        tokio::try_join!(statement(&service.0), statement(&service.0)).unwrap();
        assert_eq!(server.log_ins().len(), count, "{}", String::from_utf8_lossy(error));
    }
    harness.stop().await;
}

#[tokio::test]
async fn a_start_that_a_server_or_a_proxy_cannot_let_in_now_tries_again() {
    for (sqlstate, text) in [
        ("53300", "too many clients"),
        ("08P01", "no more connections allowed (max_client_conn)"),
        ("08P01", "server login has been failing, cached error: connect failed (server_login_retry)"),
        ("08P01", "query_wait_timeout"),
    ] {
        let server = Arc::<Server>::default();
        server.nonsense.lock().unwrap().push(fatal(sqlstate, text));
        let (harness, _) = start(&server).await;
        assert!(server.nonsense.lock().unwrap().is_empty(), "{text}");
        harness.stop().await;
    }
}

#[tokio::test]
async fn a_server_that_ends_the_look_at_its_schema_has_proven_nothing() {
    // The second one is about a login of the proxy.
    for fatal in [
        b"SFATAL\0VFATAL\0C08P01\0Mserver login has been failing\0\0".as_slice(),
        b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user \"pgbouncer\"\0\0",
    ] {
        let server = Arc::<Server>::default();
        *server.blind.lock().unwrap() = vec![fatal];
        *server.passwords.lock().unwrap() = vec!["one", "two"];
        let manager = MemoryManager::with([("database", login("one"))]);
        let config = Config { database: listen(&server).await, ..Config::default() };
        let started = Harness::<Migrated>::start(manager.clone(), config).await;
        let harness = started.unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(server.log_ins(), ["one", "one"]);

        *server.blind.lock().unwrap() = vec![fatal];
        manager.rotate("database", login("two"));
        harness.reload().await.unwrap_or_else(|report| panic!("{report}"));
        let service = harness.live().service();
        statement(&service.0).await.unwrap();
        assert_eq!(server.log_ins(), ["one", "one", "two", "two"]);
        harness.stop().await;
    }
}

#[tokio::test]
async fn a_proxy_that_refuses_the_options_of_a_start_is_asked_once() {
    let server = Arc::<Server>::default();
    let answer = fatal("08P01", "unsupported startup parameter: options");
    *server.nonsense.lock().unwrap() = vec![answer.clone(), answer];
    let config = Config { database: listen(&server).await, ..Config::default() };
    let manager = MemoryManager::with([("database", login("one"))]);
    let report = Harness::<Service>::start(manager, config).await.expect_err("it is refused").to_string();
    assert!(report.contains("set database.startup_options to false"), "{report}");
    assert_eq!(server.nonsense.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_password_that_a_proxy_refuses_is_rejected_at_once() {
    for text in ["SASL authentication failed", "password authentication failed"] {
        let server = Arc::<Server>::default();
        let (harness, manager) = start(&server).await;
        *server.nonsense.lock().unwrap() = vec![fatal("08P01", text); 2];
        manager.rotate("database", login("two"));
        let report = harness.reload().await.unwrap_err();
        assert_eq!((report.exit(), server.nonsense.lock().unwrap().len()), (Exit::Denied, 1), "{report}");
        harness.stop().await;
    }
}

#[tokio::test]
async fn a_reload_gives_a_connection_up_if_a_server_or_a_proxy_has_none_left() {
    for (sqlstate, text) in [("53300", "too many clients"), ("08P01", "no more connections allowed (max_client_conn)")]
    {
        let server = Arc::<Server>::default();
        let (harness, manager) = start(&server).await;
        server.passwords.lock().unwrap().push("two");
        server.nonsense.lock().unwrap().push(fatal(sqlstate, text));
        manager.rotate("database", login("two"));
        harness.reload().await.unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(server.ends.lock().unwrap().first(), Some(&2), "{text}");
        harness.stop().await;
    }
}

#[tokio::test]
async fn a_proxy_whose_own_login_is_rejected_rejects_nobody_elses() {
    let server = Arc::<Server>::default();
    let (harness, manager) = start(&server).await;
    let cached = "password authentication failed for user \"pgbouncer\" (server_login_retry)";
    let answer = fatal("08P01", &format!("server login has been failing, cached error: {cached}"));
    server.nonsense.lock().unwrap().push(answer);
    server.passwords.lock().unwrap().push("two");
    manager.rotate("database", login("two"));
    harness.reload().await.unwrap_or_else(|report| panic!("{report}"));
    assert!(server.nonsense.lock().unwrap().is_empty());
    harness.stop().await;
}

#[tokio::test]
async fn a_login_that_the_rules_of_the_server_reject_needs_no_other_password() {
    let no_entry = "no pg_hba.conf entry for host \"10.0.0.1\", user \"app\", database \"service\"";
    for (end, remedy) in [
        ("no encryption", "set database.tls, or `tls` in the section of this database, to a mode with TLS"),
        ("SSL off", "set database.tls, or"),
        ("SSL encryption", "let this user log in from this address to this database, in pg_hba.conf"),
    ] {
        let server = Arc::<Server>::default();
        let (harness, manager) = start(&server).await;
        server.nonsense.lock().unwrap().push(fatal("28000", &format!("{no_entry}, {end}")));
        manager.rotate("database", login("two"));
        let report = harness.reload().await.expect_err("it is rejected");
        assert_eq!(report.exit(), Exit::Denied);
        let report = report.to_string();
        assert!(report.contains(remedy) && !report.contains("set that password"), "{report}");
        harness.stop().await;
    }
}

#[tokio::test]
async fn nobody_gets_a_connection_that_still_prepares_a_statement_for_somebody_else() {
    let server = Arc::<Server>::default();
    let database = DatabaseConfig {
        max_connections: NonZeroU32::MIN,
        statement_timeout: Duration::from_millis(100),
        ..listen(&server).await
    };
    let (harness, _) = start_with(&server, Config { database, ..Config::default() }).await;
    let service = harness.live().service();
    let prepare = service.0.prepare(SqlStr::from_static("SELECT"));
    timeout(Duration::from_millis(100), prepare).await.expect_err("it waits for a lock");
    timeout(Duration::from_secs(10), statement(&service.0)).await.expect("another connection").unwrap();
    assert_eq!(server.log_ins().len(), 2);
    harness.stop().await;
}

#[tokio::test]
async fn a_connection_whose_rollback_was_cut_off_is_not_clean() {
    let server = Arc::<Server>::default();
    let (harness, _) = start(&server).await;
    let service = harness.live().service();
    let mut lease = service.0.lease().await.unwrap();
    server.statements.lock().unwrap().clear();
    lease.connection().has_transaction = true;
    assert!(lease.tidy().now_or_never().is_none(), "the server has not answered yet");
    eventually("the rollback", || server.statements.lock().unwrap().len(), |count| *count == 1).await;
    harness.stop().await;
}

#[tokio::test]
async fn a_server_that_talks_nonsense_ends_neither_a_start_nor_the_pool() {
    let server = Arc::<Server>::default();
    // Messages that are shorter than their kinds need.
    let nonsense: [&[u8]; 3] = [b"R\0\0\0\0", b"R\0\0\0\x04", b"R\0\0\0\x08\0\0\0\0K\0\0\0\x05\0"];
    let (harness, _) = start(&server).await;
    let service = harness.live().service();
    for message in nonsense {
        *server.fault.lock().unwrap() = Some(READ_ONLY);
        statement(&service.0).await.unwrap_err();
        *server.fault.lock().unwrap() = None;
        server.nonsense.lock().unwrap().push(message.into());
        tokio::try_join!(statement(&service.0), statement(&service.0)).unwrap();
        assert!(server.nonsense.lock().unwrap().is_empty());
    }
    harness.stop().await;
}
