//! A Vault client, with a server that answers as a test says.

mod answers;
mod leases;

use super::*;
use crate::{
    config::{base_url::BaseUrl, settings::vault::VaultAuth},
    exit::Exit,
    moment::Moment,
    secrets::lease::Renewal,
};
use axum::{
    Router,
    http::{HeaderMap, Uri},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use std::{
    fs,
    future::{IntoFuture, pending},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};
use tokio::{net::TcpListener, sync::Notify};
use zeroize::Zeroizing;

/// A login that is due to be rotated.
const DUE_LOGIN: &str =
    r#"{"data":{"username":"u","password":"p","last_vault_rotation":"2026-01-01T00:00:00Z","ttl":0}}"#;

/// The value of a secret.
const VALUE: &str = r#"{"data":{"data":{"value":"v"},"metadata":{"version":1,"created_time":"2026-01-01T00:00:00Z"}}}"#;

/// A server whose answers a test changes.
#[derive(Default)]
struct FakeServer {
    logins: AtomicUsize,
    /// The number of logins that it answers. It never answers those after them.
    answered: AtomicUsize,
    is_denying: bool,
    is_denying_logins: AtomicBool,
    /// `true` if its tokens have the policy `default`.
    has_default_policy: bool,
    /// `true` if a policy lets a token renew itself.
    is_renewing_tokens: bool,
    /// `true` if no policy lets a token renew leases.
    is_denying_renewals: bool,
    /// `true` if the token of the first login was revoked, and its leases with it.
    is_first_lost: AtomicBool,
    /// Notified when a login has come.
    has_login: Notify,
    /// A notification without which no login is answered.
    gate: Option<Notify>,
    revoked: AtomicUsize,
    /// The answer when a lease is given back.
    of_leases: LeaseAnswer,
    /// Notified when a lease shall be given back.
    has_lease: Notify,
    /// `true` if the database of the engine is away.
    is_database_away: AtomicBool,
}

#[derive(Clone, Copy, Default)]
enum LeaseAnswer {
    #[default]
    Revoked,
    Denied,
    Silence,
}

impl FakeServer {
    async fn log_in(&self) -> Response {
        let before = self.logins.fetch_add(1, Ordering::SeqCst);
        if before >= self.answered.load(Ordering::SeqCst) {
            return pending().await;
        }
        if self.is_denying_logins.load(Ordering::SeqCst) {
            return denied();
        }
        self.has_login.notify_one();
        if let Some(gate) = &self.gate {
            gate.notified().await;
        }
        let policies = if self.has_default_policy { r#""default""# } else { "" };
        format!(r#"{{"auth":{{"client_token":"t{before}","lease_duration":3600,"policies":[{policies}]}}}}"#)
            .into_response()
    }

    /// Returns `true` if a request has the token that is lost.
    fn has_lost_token(&self, headers: &HeaderMap) -> bool {
        self.is_first_lost.load(Ordering::SeqCst) && headers["x-vault-token"] == "t0"
    }

    fn renew_token(&self, headers: &HeaderMap) -> Response {
        if !self.is_renewing_tokens || self.has_lost_token(headers) {
            return denied();
        }
        r#"{"auth":{"lease_duration":3600}}"#.into_response()
    }

    fn renew_lease(&self, headers: &HeaderMap) -> Response {
        if self.is_denying_renewals || self.has_lost_token(headers) {
            return denied();
        }
        if self.is_first_lost.load(Ordering::SeqCst) {
            return (StatusCode::BAD_REQUEST, r#"{"errors":["lease not found"]}"#).into_response();
        }
        r#"{"lease_duration":7200}"#.into_response()
    }

    fn read(&self) -> Response {
        if self.is_denying {
            return denied();
        }
        VALUE.into_response()
    }

    /// Starts it. Returns a client of it.
    async fn start(self: &Arc<Self>) -> Vault {
        self.start_for(VaultConfig::default()).await
    }

    /// Does the same for a client with more settings. Its address is the first one.
    async fn start_for(self: &Arc<Self>, mut config: VaultConfig) -> Vault {
        let (logins, reads, revocations) = (self.clone(), self.clone(), self.clone());
        let revoke = async move || {
            revocations.revoked.fetch_add(1, Ordering::SeqCst);
            StatusCode::NO_CONTENT
        };
        let (leases, revoke_lease, of_leases) = (self.clone(), revoke.clone(), self.of_leases);
        let revoke_lease = async move || {
            leases.has_lease.notify_one();
            match of_leases {
                LeaseAnswer::Revoked if leases.is_database_away.load(Ordering::SeqCst) => {
                    (StatusCode::BAD_REQUEST, r#"{"errors":["as scripted"]}"#).into_response()
                }
                LeaseAnswer::Revoked => revoke_lease().await.into_response(),
                LeaseAnswer::Denied => denied(),
                LeaseAnswer::Silence => pending().await,
            }
        };
        let (renewals, of_tokens) = (self.clone(), self.clone());
        let router = Router::new()
            .route("/v1/auth/jwt/login", post(async move || logins.log_in().await))
            .route("/v1/kv/data/signing", get(async move || reads.read()))
            .route("/v1/database/static-creds/pay", get(async || DUE_LOGIN))
            .route("/v1/auth/token/revoke-self", post(revoke))
            .route("/v1/auth/token/renew-self", post(async move |headers: HeaderMap| of_tokens.renew_token(&headers)))
            .route("/v1/sys/leases/renew", post(async move |headers: HeaderMap| renewals.renew_lease(&headers)))
            .route("/v1/sys/leases/revoke", post(revoke_lease))
            .fallback(async || StatusCode::NO_CONTENT);
        config.addresses.insert(0, serve(router).await);
        client_of(config)
    }
}

/// Makes a client that logs in with a JWT.
fn client_of(config: VaultConfig) -> Vault {
    // Any text will do.
    let jwt_file = Some(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").into());
    let vault = VaultConfig { auth: VaultAuth::Jwt, jwt_file, ..config };
    Vault::new(&SecretsConfig { vault, ..SecretsConfig::default() })
}

/// Starts a server. Returns its address.
async fn serve(router: Router) -> BaseUrl {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = BaseUrl::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(axum::serve(listener, router).into_future());
    address
}

fn denied() -> Response {
    (StatusCode::FORBIDDEN, r#"{"errors":["permission denied"]}"#).into_response()
}

/// Starts a server with one answer to everything. Returns its address.
async fn start_with(answer: impl IntoResponse + Clone + Send + Sync + 'static) -> BaseUrl {
    serve(Router::new().fallback(async move || answer)).await
}

/// Makes a lease of two hours in the session of a client, whose token ends sooner.
async fn lease_of(vault: &Vault) -> VaultLease {
    let sessions = &vault.inner.sessions;
    let session = sessions.current(SessionUse::Lease, None, Instant::now() + ATTEMPT).await.unwrap();
    VaultLease::new("id".into(), Duration::from_secs(7200), session, sessions.clone())
}

async fn fetch(vault: &Vault) -> Result<Fetched, SourceError> {
    vault.fetch(&SecretId::parse("kv/data/signing").unwrap(), Stage::Current, None).await
}

/// Lets time pass at once. Otherwise the clock runs, as connections need it.
async fn pass(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_login_that_hangs_leaves_time_for_a_read_with_the_token_that_still_serves() {
    let server = Arc::new(FakeServer { answered: AtomicUsize::new(1), ..FakeServer::default() });
    let vault = server.start().await;
    fetch(&vault).await.map(drop).unwrap();
    pass(3100).await;
    fetch(&vault).await.map(drop).unwrap();
    assert_eq!(server.logins.load(Ordering::SeqCst), 2, "the token was due");
    assert_eq!(vault.login_failed(), Some(false), "the token serves, and the next login may get an answer");
    pass(500).await;
    let error = fetch(&vault).await.err().expect("the token has ended");
    assert!(matches!(error, SourceError::Unanswered(_)), "{error}");
    assert_eq!(vault.login_failed(), Some(true));
}

#[tokio::test]
async fn a_login_that_is_denied_is_a_failure_once_reads_need_it_and_until_the_token_lasts_again() {
    let server =
        Arc::new(FakeServer { answered: AtomicUsize::new(9), is_renewing_tokens: true, ..FakeServer::default() });
    let vault = server.start().await;
    fetch(&vault).await.map(drop).unwrap();
    server.is_denying_logins.store(true, Ordering::SeqCst);
    pass(2000).await;
    let lease = lease_of(&vault).await;
    assert_eq!(server.logins.load(Ordering::SeqCst), 2, "a token for a lease was due");
    assert_eq!(vault.login_failed(), Some(false), "it serves reads for long");
    pass(1100).await;
    fetch(&vault).await.map(drop).unwrap();
    assert_eq!(vault.login_failed(), Some(true));
    lease.renew().await.map(drop).unwrap();
    assert_eq!(vault.login_failed(), Some(false), "the token was renewed");
}

#[tokio::test]
async fn a_path_that_is_denied_for_good_causes_one_login_in_each_pause_at_most() {
    let server = Arc::new(FakeServer { answered: AtomicUsize::new(9), is_denying: true, ..FakeServer::default() });
    let vault = server.start().await;
    for (seconds, logins) in [(0, 1), (2, 1), (4, 2), (6, 2), (6, 2), (4, 3), (12, 3), (4, 4)] {
        pass(seconds).await;
        let error = fetch(&vault).await.err().expect("a denial");
        assert!(matches!(error, SourceError::Denied(_)), "{error}");
        assert_eq!(server.logins.load(Ordering::SeqCst), logins, "after {seconds} s more");
    }
}

#[tokio::test]
async fn a_secret_id_that_is_wrong_is_tried_too_seldom_to_lock_its_role() {
    let logins = Arc::new(AtomicUsize::new(0));
    let count = logins.clone();
    let router = Router::new().fallback(async move || {
        count.fetch_add(1, Ordering::SeqCst);
        (StatusCode::BAD_REQUEST, r#"{"errors":["invalid role or secret ID"]}"#)
    });
    let file = std::env::temp_dir().join(format!("id-{}", uuid::Uuid::new_v4()));
    fs::write(&file, "first").unwrap();
    let [role_id_file, secret_id_file] = [Some(file.clone()), Some(file.clone())];
    let (auth, addresses) = (VaultAuth::AppRole, vec![serve(router).await]);
    let config = VaultConfig { auth, addresses, role_id_file, secret_id_file, ..VaultConfig::default() };
    let vault = Vault::new(&SecretsConfig { vault: config, ..SecretsConfig::default() });
    for (seconds, id, expected) in [
        (0, "first", 1),
        (10, "first", 1),
        (10, "first", 2),
        (900, "first", 2),
        (70, "first", 3),
        (0, "second", 4),
        (20, "second", 5),
        (900, "second", 5),
        (0, "third", 6),
    ] {
        fs::write(&file, id).unwrap();
        pass(seconds).await;
        let error = fetch(&vault).await.err().expect("a denial");
        assert_eq!(error.exit(), Exit::Denied, "{error}");
        assert_eq!(logins.load(Ordering::SeqCst), expected, "{id}, after {seconds} s more");
    }
    fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn a_login_whose_files_cannot_be_read_leaves_the_connections_that_work() {
    let ca = std::env::temp_dir().join(format!("ca-{}.pem", uuid::Uuid::new_v4()));
    fs::write(&ca, rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap().cert.pem()).unwrap();
    let server = Arc::new(FakeServer { answered: AtomicUsize::new(9), ..FakeServer::default() });
    // Nobody asks this address, but it needs the file.
    let addresses = vec![BaseUrl::parse("https://127.0.0.1:1").unwrap()];
    let vault = server.start_for(VaultConfig { addresses, ca: Some(ca.clone()), ..VaultConfig::default() }).await;
    fetch(&vault).await.map(drop).unwrap();
    fs::write(&ca, "half of a file").unwrap();
    pass(3100).await;
    fetch(&vault).await.map(drop).expect("the token is due, and serves to its end");
    assert_eq!(server.logins.load(Ordering::SeqCst), 1, "no login without the file");
    fs::remove_file(ca).unwrap();
}

#[tokio::test]
async fn a_login_for_which_nobody_waits_any_more_is_given_back_at_the_end() {
    let gate = Some(Notify::new());
    let server = Arc::new(FakeServer { answered: AtomicUsize::new(1), gate, ..FakeServer::default() });
    let vault = server.start().await;
    tokio::select! {
        _ = fetch(&vault) => panic!("the login is not answered"),
        () = server.has_login.notified() => (),
    }
    server.gate.as_ref().unwrap().notify_one();
    vault.close().await;
    assert_eq!(server.revoked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_login_whose_rotation_is_overdue_is_taken_after_some_seconds() {
    let server = Arc::new(FakeServer { answered: AtomicUsize::new(9), ..FakeServer::default() });
    let vault = server.start().await;
    let id = SecretId::parse("database/static-creds/pay").unwrap();
    for (seconds, is_taken) in [(0, false), (3, false), (4, true), (3000, true)] {
        pass(seconds).await;
        let fetched = vault.fetch(&id, Stage::Current, None).await;
        assert_eq!(matches!(fetched, Ok(Fetched::New(_))), is_taken, "after {seconds} s more");
        assert!(is_taken || matches!(fetched, Err(SourceError::Unavailable(_))));
    }
}

#[tokio::test]
async fn an_answer_that_is_not_the_servers_does_not_count_and_the_next_address_is_asked() {
    const HTML: &str = "<html>as scripted</html>";
    const DISABLED: &str = r#"{"errors":["path disabled in replication DR secondary mode"]}"#;
    for (status, body, text) in [
        (200, HTML, "answers HTTP 200 with an HTML page"),
        (403, HTML, "answers HTTP 403 with an HTML page"),
        (404, HTML, "answers HTTP 404 with an HTML page"),
        (503, HTML, "answers HTTP 503 with an HTML page"),
        (200, "{}", "answers HTTP 200 with something"),
        (403, r#"{"message":"as scripted"}"#, "answers HTTP 403 with something"),
        (404, "", "answers HTTP 404 with something"),
        (400, DISABLED, "is a secondary for disaster recovery"),
        (472, r#"{"initialized":true}"#, "is a secondary for disaster recovery"),
        (473, r#"{"initialized":true}"#, "is a performance standby"),
        (503, r#"{"errors":["Vault is sealed"]}"#, "is sealed"),
        (501, r#"{"errors":[]}"#, "is not initialised"),
        (503, r#"{"errors":["Vault is not initialized"]}"#, "is not initialised"),
    ] {
        let answer = (StatusCode::from_u16(status).unwrap(), body);
        let server = Arc::new(FakeServer { answered: AtomicUsize::new(9), ..FakeServer::default() });
        let vault = server.start().await;
        let addresses = [start_with(answer).await, vault.inner.config.addresses[0].clone()];
        let login = VaultConfig { addresses: addresses.to_vec(), ..vault.inner.config.clone() };
        let vault = Vault::new(&SecretsConfig { vault: login.clone(), ..SecretsConfig::default() });
        fetch(&vault).await.map(drop).expect("the next address answers");

        let alone = VaultConfig { addresses: addresses[..1].to_vec(), ..login };
        let error = fetch(&Vault::new(&SecretsConfig { vault: alone, ..SecretsConfig::default() })).await.err();
        let error = error.expect("nobody answers");
        assert_eq!(error.exit(), Exit::Unavailable, "{status} {body}: {error}");
        assert!(error.to_string().contains(text) && !error.to_string().contains("as scripted"), "{error}");
    }
}

#[tokio::test]
async fn a_server_of_vault_enterprise_gets_its_index_back_and_is_asked_for_nothing_that_it_denies() {
    const OPAQUE: &str = "v1:f7:37:0:mac";
    let answer = async |headers: HeaderMap, uri: Uri| {
        if headers.contains_key("x-vault-inconsistent") {
            let denial = r#"{"errors":["forwarding via header X-Vault-Inconsistent disabled in configuration"]}"#;
            return (StatusCode::BAD_REQUEST, denial).into_response();
        }
        if uri.path().ends_with("/login") {
            return ([("x-vault-index", OPAQUE)], r#"{"auth":{"client_token":"t","lease_duration":3600}}"#)
                .into_response();
        }
        match headers.get("x-vault-index") {
            Some(index) if index == OPAQUE => VALUE.into_response(),
            _ => (StatusCode::PRECONDITION_FAILED, r#"{"errors":["as scripted"]}"#).into_response(),
        }
    };
    let addresses = vec![serve(Router::new().fallback(answer)).await];
    let vault = client_of(VaultConfig { addresses, ..VaultConfig::default() });
    fetch(&vault).await.map(drop).unwrap();
}
