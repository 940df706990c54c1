use aws_sdk_secretsmanager::Client;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use crate::Error;
use crate::planted::{Planted, random, random_password};
use crate::postgres::{format_and_run, login};

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
    client: Client,
    credential: String,
    id: String,
    database: Database,
    version: String,
    planted: Planted,
}

impl Rotation {
    /// A rotation of `credential`, which is `id` at the manager. Nothing happens yet.
    pub fn new(client: Client, credential: &str, id: &str, database: Database, planted: Planted) -> Self {
        Self { client, credential: credential.into(), id: id.into(), database, version: random(), planted }
    }

    /// The id of the version that comes.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Puts a new password beside the current one, labelled AWSPENDING.
    pub async fn create_pending(&self) -> Result<(), Error> {
        let mut secret = self.secret("AWSCURRENT").await?;
        secret["password"] = random_password().into();
        let secret = secret.to_string();
        self.planted.remember(&self.credential, &secret);
        self.client
            .put_secret_value()
            .secret_id(&self.id)
            .client_request_token(&self.version)
            .secret_string(secret)
            .version_stages("AWSPENDING")
            .send()
            .await
            .map_err(Error::manager(format!("put a pending version of {}", self.id)))?;
        Ok(())
    }

    /// Logs in with the current password and makes the pending one the role's.
    pub async fn set(&self) -> Result<(), Error> {
        let pending = self.secret("AWSPENDING").await?;
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
        let doing = || format!("move AWSCURRENT of {}", self.id);
        let current = version(&self.client, &self.id, "AWSCURRENT").await?;
        self.client
            .update_secret_version_stage()
            .secret_id(&self.id)
            .version_stage("AWSCURRENT")
            .move_to_version_id(&self.version)
            .set_remove_from_version_id(current)
            .send()
            .await
            .map_err(Error::manager(doing()))?;
        Ok(())
    }

    /// Logs in with the version that has this label.
    pub async fn log_in(&self, stage: &str) -> Result<PgConnection, Error> {
        let secret = self.secret(stage).await?;
        let (role, password) = (text(&secret, "username")?, text(&secret, "password")?);
        let Database { host, port, name } = &self.database;
        PgConnection::connect_with(&login(host, *port, name, role, password))
            .await
            .map_err(Error::database(format!("log in as `{role}` with {stage}")))
    }

    async fn secret(&self, stage: &str) -> Result<Value, Error> {
        let text = value(&self.client, &self.id, stage).await?;
        serde_json::from_str(&text)
            .ok()
            .filter(Value::is_object)
            .ok_or_else(|| Error::Secret(format!("{stage} of {} is not the JSON that RDS writes", self.id)))
    }
}

pub(crate) async fn value(client: &Client, id: &str, stage: &str) -> Result<String, Error> {
    let doing = || format!("read {stage} of {id}");
    let answer = client.get_secret_value().secret_id(id).version_stage(stage).send().await;
    let answer = answer.map_err(Error::manager(doing()))?;
    answer.secret_string.ok_or_else(|| Error::Secret(format!("{stage} of {id} is not text")))
}

/// The id of the version of a secret that has this label.
pub(crate) async fn version(client: &Client, id: &str, stage: &str) -> Result<Option<String>, Error> {
    let described =
        client.describe_secret().secret_id(id).send().await.map_err(Error::manager(format!("describe {id}")))?;
    let versions = described.version_ids_to_stages.unwrap_or_default();
    Ok(versions.into_iter().find(|(_, stages)| stages.iter().any(|held| held == stage)).map(|(id, _)| id))
}

fn text<'a>(secret: &'a Value, field: &str) -> Result<&'a str, Error> {
    secret[field].as_str().ok_or_else(|| Error::Secret(format!("the secret has no `{field}`")))
}
