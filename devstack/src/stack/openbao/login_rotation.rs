//! The rotation of a database login at OpenBao.

use serde_json::Value;
use sqlx::{Connection, PgConnection};

use crate::stack::database_address::DatabaseAddress;
use crate::stack::error::Error;
use crate::stack::leak_detector::LeakDetector;
use crate::stack::openbao::api::OpenBao;
use crate::stack::postgres::sql::{connect_options, format_and_run};
use crate::stack::random::random_password;

/// One rotation of a database login whose secret is in the KV engine, in two steps: `set` and `put`. In between, the
/// version that is current cannot log in. A secret of the KV engine has no stages, so the new one is nowhere until then.
pub(crate) struct OpenBaoRotation {
    api: OpenBao,
    credential: String,
    id: String,
    login: Value,
    leak_detector: LeakDetector,
}

impl OpenBaoRotation {
    /// Prepares a rotation of `credential`, whose secret has the id `id`: reads the login. Nothing happens yet.
    pub(crate) async fn new(
        api: OpenBao,
        credential: &str,
        id: &str,
        leak_detector: LeakDetector,
    ) -> Result<Self, Error> {
        let Some((login, _)) = api.secret(id).await? else {
            return Err(Error::Secret(format!("{id} has no value")));
        };
        Ok(Self { api, credential: credential.into(), id: id.into(), login, leak_detector })
    }

    /// Logs in with the current password, and gives the role another one.
    pub(crate) async fn set(&mut self, database: &DatabaseAddress) -> Result<(), Error> {
        let text = |field: &str| {
            let text = self.login[field].as_str().map(str::to_owned);
            text.ok_or_else(|| Error::Secret(format!("the secret has no `{field}`")))
        };
        let (role, current, next) = (text("username")?, text("password")?, random_password());
        self.leak_detector.remember(&self.credential, &next);
        let DatabaseAddress { host, port, name } = database;
        let mut connection = PgConnection::connect_with(&connect_options(host, *port, name, &role, &current))
            .await
            .map_err(Error::database(format!("log in as `{role}`")))?;
        format_and_run(&mut connection, "ALTER ROLE %I PASSWORD %L", &[&role, &next])
            .await
            .map_err(Error::database(format!("set the new password of `{role}`")))?;
        self.login["password"] = next.into();
        connection.close().await.map_err(Error::database("close a connection"))
    }

    /// Gives the secret a new version with the new password. Returns the version's id.
    pub(crate) async fn put(&self) -> Result<String, Error> {
        self.api.put_secret(&self.id, &self.login.to_string()).await
    }
}
