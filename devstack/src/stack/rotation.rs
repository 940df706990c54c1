//! The rotation of a database login.

use aws_sdk_secretsmanager::Client;
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use crate::stack::database_address::DatabaseAddress;
use crate::stack::emulator_secret::EmulatorSecret;
use crate::stack::error::Error;
use crate::stack::leak_detector::LeakDetector;
use crate::stack::postgres::sql::{connect_options, format_and_run};
use crate::stack::random::{random, random_password};

/// One rotation of a database login, in the four steps of AWS's rotation functions: `create_pending`, `set`, `test`,
/// `finish`.
///
/// Between `set` and `finish` is the window in which AWSCURRENT cannot log in.
pub struct Rotation {
    secret: EmulatorSecret,
    credential: String,
    database: DatabaseAddress,
    version: String,
    leak_detector: LeakDetector,
}

impl Rotation {
    /// Prepares a rotation of `credential`, whose secret has the id `id`. Nothing happens yet.
    pub fn new(
        client: Client,
        credential: &str,
        id: &str,
        database: DatabaseAddress,
        leak_detector: LeakDetector,
    ) -> Self {
        let secret = EmulatorSecret::new(&client, id);
        Self { secret, credential: credential.into(), database, version: random(), leak_detector }
    }

    /// Returns the id of the new version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Stores a new password beside the current one, with the label AWSPENDING.
    pub async fn create_pending(&self) -> Result<(), Error> {
        let mut login = self.login("AWSCURRENT").await?;
        login["password"] = random_password().into();
        let text = login.to_string();
        self.leak_detector.remember(&self.credential, &text);
        self.secret.add(&self.version, text.as_str(), "AWSPENDING").await
    }

    /// Logs in with the current password and gives the role the pending one.
    pub async fn set(&self) -> Result<(), Error> {
        let pending = self.login("AWSPENDING").await?;
        let (role, password) = (text(&pending, "username")?, text(&pending, "password")?);
        let mut connection = self.log_in("AWSCURRENT").await?;
        format_and_run(&mut connection, "ALTER ROLE %I PASSWORD %L", &[role, password])
            .await
            .map_err(Error::database(format!("set the new password of `{role}`")))?;
        connection.close().await.map_err(Error::database("close a connection"))
    }

    /// Logs in with the pending password.
    pub async fn test(&self) -> Result<(), Error> {
        let connection = self.log_in("AWSPENDING").await?;
        connection.close().await.map_err(Error::database("close a connection"))
    }

    /// Moves the label AWSCURRENT to the pending version. The version before it becomes AWSPREVIOUS.
    pub async fn finish(&self) -> Result<(), Error> {
        self.secret.label("AWSCURRENT", &self.version).await
    }

    /// Logs in with the version that has this label.
    pub async fn log_in(&self, stage: &str) -> Result<PgConnection, Error> {
        let login = self.login(stage).await?;
        let (role, password) = (text(&login, "username")?, text(&login, "password")?);
        let DatabaseAddress { host, port, name } = &self.database;
        PgConnection::connect_with(&connect_options(host, *port, name, role, password))
            .await
            .map_err(Error::database(format!("log in as `{role}` with {stage}")))
    }

    /// Returns the login in the version that has this label.
    pub(crate) async fn login(&self, stage: &str) -> Result<Value, Error> {
        let text = self.secret.text(stage).await?;
        match serde_json::from_str(&text) {
            Ok(login @ Value::Object(_)) => Ok(login),
            _ => Err(Error::Secret(format!("{stage} of {} is not the JSON that RDS writes", self.secret.id()))),
        }
    }
}

fn text<'a>(login: &'a Value, field: &str) -> Result<&'a str, Error> {
    login[field].as_str().ok_or_else(|| Error::Secret(format!("the secret has no `{field}`")))
}
