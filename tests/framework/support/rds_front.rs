//! A front of RDS before the real PostgreSQL: it asks for a token as RDS does, verifies it, and logs in with the password.
//!
//! PostgreSQL itself cannot verify the signature of a token. RDS does it in a PAM module: it asks for a password in clear text,
//! over TLS.

mod scram;
mod token;

use self::token::AccessKey;
use super::{
    stand_in::{StandIn, acceptor},
    temporary_file::TemporaryFile,
};
use crate::SERVICE;
use devstack::{Launch, LeakDetector, Tenant, Validity};
use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;

/// The Region of the database.
const REGION: &str = "eu-west-1";

/// The key with which the service signs. It has an id of its own, so that a token tells where its identity came from.
const KEY: AccessKey = AccessKey { id: "AKIDTEST", secret: "sentinel/of+the/access-key" };

/// The key that the stand-ins for a platform give ([`PlatformService`](super::platform::PlatformService)).
const KEY_OF_PLATFORM: AccessKey = AccessKey { id: "id", secret: "key" };

/// The host under which the front is reached. Its certificate is for this name.
const HOST: &str = "localhost";

/// A front of RDS on this machine. It ends when this is dropped.
pub(crate) struct RdsFront {
    gate: Arc<Gate>,
    server: StandIn,
    authorities: TemporaryFile,
}

/// The parts of the front that all of its connections share.
struct Gate {
    acceptor: TlsAcceptor,
    database: (String, u16),
    /// The real passwords, by user.
    passwords: BTreeMap<String, String>,
    /// `true` while the policy of the identity does not allow `rds-db:connect`.
    denies: AtomicBool,
    /// `true` while it refuses the startup parameter `options`, as RDS Proxy does.
    refuses_options: AtomicBool,
    /// The tokens of all log-ins, the oldest first.
    tokens: Mutex<Vec<String>>,
    leaks: LeakDetector,
}

impl RdsFront {
    /// Starts before the tenant's database, and gives the tenant's two users new passwords, which only the front knows.
    pub(crate) async fn before(tenant: &Tenant) -> Self {
        let mut passwords = BTreeMap::new();
        for user in [tenant.app_role(), tenant.migrator_role()] {
            let password = devstack::random_password();
            tenant.set_password(&user, &password).await.expect("the role exists");
            passwords.insert(user, password);
        }
        let database = tenant.database();
        let gate = Arc::new(Gate {
            acceptor: acceptor(&tenant.authority().local(Validity::days(1))),
            database: (database.host, database.port),
            passwords,
            denies: AtomicBool::new(false),
            refuses_options: AtomicBool::new(false),
            tokens: Mutex::default(),
            leaks: tenant.leak_detector().clone(),
        });
        tenant.remember("access key", KEY.secret);
        let serving = gate.clone();
        let server = StandIn::start(move |connection| {
            let gate = serving.clone();
            // The service may go away at any time.
            async move { _ = gate.serve(connection).await }
        })
        .await;
        Self { gate, server, authorities: TemporaryFile::new(tenant.authority().certificate()) }
    }

    /// Prepares the service: its database is behind the front, and it logs in with IAM.
    pub(crate) fn launch(&self, tenant: &Tenant) -> Launch {
        self.configure(SERVICE.launch(tenant), tenant).env("APP_DATABASE__AUTH", "iam")
    }

    /// Sends the service through this front to its database, and gives it an identity.
    pub(crate) fn configure(&self, launch: Launch, tenant: &Tenant) -> Launch {
        launch
            .env("APP_DATABASE__USERNAME", tenant.app_role())
            .env("APP_DATABASE__REGION", REGION)
            .env("APP_DATABASE__HOST", HOST)
            .env("APP_DATABASE__PORT", self.port().to_string())
            .env("APP_DATABASE__TLS", "verify-full")
            .env("APP_DATABASE__TLS_ROOT_CERT", self.authorities.path())
            .env("AWS_ACCESS_KEY_ID", KEY.id)
            .env("AWS_SECRET_ACCESS_KEY", KEY.secret)
            .env("APP_SECRETS__AWS__ALLOW_STATIC_KEYS", "true")
            .env("AWS_EC2_METADATA_DISABLED", "true")
    }

    /// Returns the password of a user.
    pub(crate) fn password_of(&self, user: &str) -> &str {
        &self.gate.passwords[user]
    }

    fn port(&self) -> u16 {
        self.server.port()
    }

    /// Allows or denies log-ins from now on, as a policy does.
    pub(crate) fn deny(&self, denies: bool) {
        self.gate.denies.store(denies, Ordering::SeqCst);
    }

    /// Refuses the startup parameter `options` from now on.
    pub(crate) fn refuse_options(&self) {
        self.gate.refuses_options.store(true, Ordering::SeqCst);
    }

    /// Returns the tokens of all log-ins so far.
    pub(crate) fn tokens(&self) -> Vec<String> {
        self.gate.tokens.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Gate {
    async fn serve(&self, mut connection: TcpStream) -> io::Result<()> {
        let host = format!("{HOST}:{}", connection.local_addr()?.port());
        // A request for TLS has 8 bytes.
        connection.read_exact(&mut [0; 8]).await?;
        connection.write_all(b"S").await?;
        let mut client = self.acceptor.accept(connection).await?;
        let startup = read_body(&mut client).await?;
        let user = parameter_of(&startup, b"user").expect("a start names its user");
        if self.refuses_options.load(Ordering::SeqCst) && parameter_of(&startup, b"options").is_some() {
            let message = "Feature not supported: RDS Proxy currently doesn't support command-line options.";
            let error = format!("SFATAL\0VFATAL\0C0A000\0M{message}\0\0");
            return write_message(&mut client, b'E', error.as_bytes()).await;
        }
        // AuthenticationCleartextPassword.
        write_message(&mut client, b'R', &3_i32.to_be_bytes()).await?;
        let shown = read_message(&mut client, b'p').await?;
        let shown = String::from_utf8(shown).expect("text").trim_end_matches('\0').to_owned();
        if let Err(reason) = self.verify(&shown, &host, &user) {
            println!("a log-in is not accepted: {reason}");
            let error = format!("SFATAL\0VFATAL\0C28000\0MPAM authentication failed for user \"{user}\"\0\0");
            return write_message(&mut client, b'E', error.as_bytes()).await;
        }
        let mut server = TcpStream::connect(&self.database).await?;
        write_body(&mut server, &startup).await?;
        scram::log_in(&mut server, &self.passwords[&user]).await?;
        // AuthenticationOk.
        write_message(&mut client, b'R', &0_i32.to_be_bytes()).await?;
        copy_bidirectional(&mut client, &mut server).await.map(drop)
    }
}

impl Gate {
    /// Checks a token. A user may log in with the password too: RDS lets those do so who were not granted `rds_iam`.
    fn verify(&self, shown: &str, host: &str, user: &str) -> Result<(), String> {
        if self.passwords.get(user).is_some_and(|password| password == shown) {
            return Ok(());
        }
        self.leaks.remember("token", shown);
        self.leaks.remember("signature", shown.rsplit('=').next().unwrap_or_default());
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).push(shown.to_owned());
        if self.denies.load(Ordering::SeqCst) {
            return Err("the policy denies it".into());
        }
        let key = if shown.contains("Credential=id%2F") { &KEY_OF_PLATFORM } else { &KEY };
        token::verify(shown, host, user, REGION, key)
    }
}

/// Returns a parameter of a start: after the version of the protocol come names and values, each with a zero byte at its
/// end.
fn parameter_of(startup: &[u8], name: &[u8]) -> Option<String> {
    let mut texts = startup.get(4..)?.split(|byte| *byte == 0);
    texts.by_ref().step_by(2).find(|text| *text == name)?;
    String::from_utf8(texts.next()?.to_vec()).ok()
}

/// Reads a length and what it is the length of.
async fn read_body(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = from.read_u32().await?;
    let mut body = vec![0; length as usize - 4];
    from.read_exact(&mut body).await?;
    Ok(body)
}

async fn write_body(to: &mut (impl AsyncWrite + Unpin), body: &[u8]) -> io::Result<()> {
    to.write_u32(body.len() as u32 + 4).await?;
    to.write_all(body).await?;
    to.flush().await
}

async fn read_message(from: &mut (impl AsyncRead + Unpin), kind: u8) -> io::Result<Vec<u8>> {
    let seen = from.read_u8().await?;
    let body = read_body(from).await?;
    assert_eq!(char::from(seen), char::from(kind), "{}", String::from_utf8_lossy(&body));
    Ok(body)
}

async fn write_message(to: &mut (impl AsyncWrite + Unpin), kind: u8, body: &[u8]) -> io::Result<()> {
    to.write_u8(kind).await?;
    write_body(to, body).await
}
