//! A database in memory that accepts one password, the client that logs in there, and the service that has it.

use crate::{
    application::{Application, Build},
    config::{ConfigSection, Setting},
    credentials::{login::Login, signing_keys::SigningKeys},
    exit::{Exit, Fault},
    openapi::OpenApiRouter,
    package::Package,
    resources::{
        breaker::ProbeReason, build_error::BuildError, circuit_breaker::CircuitBreaker, rejection::Rejection,
        resource::Resource,
    },
    secrets::{credential::Credential, id::VersionId},
};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use std::{
    future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};
use vestibule_derive::SecretSet;

/// The state of the manager, or of the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Health {
    #[default]
    Up,
    /// It answers that it cannot.
    Away,
    /// It never answers.
    BlackHoled,
    /// Each answer takes this time.
    Slow(Duration),
}

/// A database that accepts one password.
#[derive(Debug, Default)]
pub(super) struct FakeDatabase(Mutex<DatabaseState>);

#[derive(Debug, Default)]
pub(super) struct DatabaseState {
    pub(super) password: String,
    pub(super) health: Health,
    /// The log-ins that were answered, oldest first.
    pub(super) log_ins: Vec<LogIn>,
    /// The times at which a breaker opened.
    pub(super) opened: Vec<Instant>,
}

#[derive(Debug)]
pub(super) struct LogIn {
    pub(super) at: Instant,
    pub(super) version: VersionId,
    pub(super) accepted: bool,
}

impl FakeDatabase {
    pub(super) fn state(&self) -> MutexGuard<'_, DatabaseState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs in. Returns `None` if the database is away.
    async fn log_in(&self, version: &VersionId, password: &str) -> Option<bool> {
        let health = self.state().health;
        match health {
            Health::Up => (),
            Health::Away => return None,
            Health::BlackHoled => future::pending().await,
            Health::Slow(delay) => sleep(delay).await,
        }
        let mut state = self.state();
        let accepted = state.password == password;
        state.log_ins.push(LogIn { at: Instant::now(), version: version.clone(), accepted });
        Some(accepted)
    }
}

/// A client of the fake database, with one version of the login.
#[derive(Clone)]
pub(super) struct FakeClient(Arc<ClientOfVersion>);

struct ClientOfVersion {
    database: Arc<FakeDatabase>,
    login: Arc<Login>,
    version: VersionId,
    breaker: CircuitBreaker,
}

/// The error of a log-in that did not succeed.
pub(super) enum LogInError {
    Rejected(Rejection),
    Unanswered,
}

impl FakeClient {
    async fn open(cx: &Build<'_, FakeService>) -> Result<Self, BuildError> {
        let (login, database) = (&cx.secrets.login, &cx.settings.database);
        cx.resource(login, &(), async |_| {
            let client = Self(Arc::new(ClientOfVersion {
                database: database.clone(),
                login: login.shared(),
                version: login.version().clone(),
                breaker: cx.circuit_breaker(login, "the database"),
            }));
            match client.log_in(cx.probe_reason()).await {
                Ok(()) => Ok(client),
                Err(LogInError::Rejected(rejection)) => Err(rejection.into()),
                Err(LogInError::Unanswered) => {
                    Err(BuildError::Fault(Fault::new(Exit::Unavailable, "the database", "it is away", "wait")))
                }
            }
        })
        .await
    }

    /// Logs in once, if the breaker allows it.
    async fn log_in(&self, reason: ProbeReason) -> Result<(), LogInError> {
        let ClientOfVersion { database, login, version, breaker } = &*self.0;
        let attempt = breaker.allow(reason).map_err(LogInError::Rejected)?;
        match database.log_in(version, login.password.as_ref().expect("it was read").expose_secret()).await {
            Some(true) => {
                attempt.accepted();
                Ok(())
            }
            Some(false) => {
                if breaker.rejection().is_none() {
                    database.state().opened.push(Instant::now());
                }
                Err(LogInError::Rejected(attempt.rejected("as a wrong password")))
            }
            None => Err(LogInError::Unanswered),
        }
    }

    /// Logs in as a request does. A log-in may take 5 s.
    pub(super) async fn request(&self) -> Result<(), LogInError> {
        let log_in = timeout(Duration::from_secs(5), self.log_in(ProbeReason::Scheduled));
        log_in.await.unwrap_or(Err(LogInError::Unanswered))
    }
}

impl Resource for FakeClient {
    fn circuit_breaker(&self) -> Option<&CircuitBreaker> {
        Some(&self.0.breaker)
    }

    async fn probe(&self, reason: ProbeReason, _: Instant) {
        if self.0.breaker.rejection().is_some() {
            let _ = self.log_in(reason).await;
        }
    }
}

#[derive(SecretSet)]
pub(super) struct FakeSecrets {
    login: Credential<Login>,
    #[expect(dead_code, reason = "it is fetched and read")]
    keys: Credential<SigningKeys>,
}

/// The settings of the service, with the way to its database.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct FakeSettings {
    pub(super) greeting: u8,
    #[serde(skip)]
    pub(super) database: Arc<FakeDatabase>,
}

impl ConfigSection for FakeSettings {
    fn settings(&self) -> Vec<Setting> {
        Vec::new()
    }
}

/// A service with a login, signing keys, and a setting.
pub(super) struct FakeService {
    pub(super) client: FakeClient,
}

impl Application for FakeService {
    const PACKAGE: Package = Package::new("fake", "0");
    type Settings = FakeSettings;
    type Secrets = FakeSecrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self { client: FakeClient::open(cx).await? })
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new()
    }
}
