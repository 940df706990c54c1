use aws_sdk_secretsmanager::Client;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use crate::Error;
use crate::planted::{Planted, random, random_password};
use crate::postgres::{format_and_run, login};
use crate::secret::Secret;

/// Where a login is good for.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Database {
    /// Always `127.0.0.1`.
    pub host: String,
    /// PostgreSQL's.
    pub port: u16,
    /// The database's own.
    pub name: String,
}

/// One rotation of a database login, in the four steps of AWS's rotation functions: `create_pending`, `set`, `test`,
/// `finish`. Between `set` and `finish` lies the window in which AWSCURRENT cannot log in.
pub struct Rotation {
    secret: Secret,
    credential: String,
    database: Database,
    version: String,
    planted: Planted,
}

impl Rotation {
    /// A rotation of `credential`, which is `id` at the manager. Nothing happens yet.
    pub fn new(client: Client, credential: &str, id: &str, database: Database, planted: Planted) -> Self {
        Self { secret: Secret::new(&client, id), credential: credential.into(), database, version: random(), planted }
    }

    /// The id of the version that comes.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Puts a new password beside the current one, labelled AWSPENDING.
    pub async fn create_pending(&self) -> Result<(), Error> {
        let mut secret = self.login("AWSCURRENT").await?;
        secret["password"] = random_password().into();
        let secret = secret.to_string();
        self.planted.remember(&self.credential, &secret);
        self.secret.add(&self.version, secret.as_str(), "AWSPENDING").await
    }

    /// Logs in with the current password and makes the pending one the role's.
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

    /// Moves the label AWSCURRENT to the pending version; the one before it becomes AWSPREVIOUS.
    pub async fn finish(&self) -> Result<(), Error> {
        self.secret.label("AWSCURRENT", &self.version).await
    }

    /// Logs in with the version that has this label.
    pub async fn log_in(&self, stage: &str) -> Result<PgConnection, Error> {
        let secret = self.login(stage).await?;
        let (role, password) = (text(&secret, "username")?, text(&secret, "password")?);
        let Database { host, port, name } = &self.database;
        PgConnection::connect_with(&login(host, *port, name, role, password))
            .await
            .map_err(Error::database(format!("log in as `{role}` with {stage}")))
    }

    /// The login in the version that has this label.
    pub(crate) async fn login(&self, stage: &str) -> Result<Value, Error> {
        let text = self.secret.text(stage).await?;
        serde_json::from_str(&text)
            .ok()
            .filter(Value::is_object)
            .ok_or_else(|| Error::Secret(format!("{stage} of {} is not the JSON that RDS writes", self.secret.id())))
    }
}

fn text<'a>(secret: &'a Value, field: &str) -> Result<&'a str, Error> {
    secret[field].as_str().ok_or_else(|| Error::Secret(format!("the secret has no `{field}`")))
}
