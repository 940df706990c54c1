//! A login at a database.

use super::{json, looks_like_json, not_blank, unescaped};
use crate::secrets::{
    kind::{Kind, Malformed},
    version::SecretValues,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// A user name and a password for a database.
///
/// The manager has it as JSON, in the form that RDS writes, or as the bare password of `database.username`:
///
/// ```json
/// { "username": "app", "password": "…", "host": "db.internal", "port": 5432, "dbname": "app" }
/// ```
///
/// Host, port and database name are optional. A service gives the credential to
/// [`Build::database`](crate::Build::database).
#[derive(Deserialize)]
pub struct Login {
    /// The user name. If there is none, `database.username` is used.
    pub username: Option<String>,
    /// The password.
    #[serde(deserialize_with = "unescaped")]
    pub password: SecretString,
    /// The host. It wins over `database.host`.
    pub host: Option<String>,
    /// The port. It wins over `database.port`.
    pub port: Option<u16>,
    /// The name of the database. It wins over `database.name`.
    pub dbname: Option<String>,
}

impl Login {
    const EXPECTED: &str = "the JSON of a login, {\"username\": \"…\", \"password\": \"…\"} with optional host, port \
         and dbname, none of them empty; or the bare password of database.username";
}

impl Kind for Login {
    const NAME: &'static str = "login";

    fn read(values: &SecretValues) -> Result<Self, Malformed> {
        let text = values.current().text.expose_secret();
        if !looks_like_json(text) {
            return Ok(Self { username: None, password: text.into(), host: None, port: None, dbname: None });
        }
        let login: Self = json(text, Self::EXPECTED)?;
        let texts = [&login.username, &login.host, &login.dbname];
        let has_blank = texts.into_iter().flatten().any(|text| text.trim().is_empty());
        if has_blank || login.username.is_none() || login.port == Some(0) {
            return Err(Malformed::expected(Self::EXPECTED));
        }
        let password = not_blank(login.password, Self::EXPECTED)?;
        Ok(Self { password, ..login })
    }

    /// Returns `true` if `pending` is another password of the same user at the same place. Any other login may be
    /// somebody else's.
    fn can_fall_back_to(&self, pending: &Self) -> bool {
        fn place(login: &Login) -> (&Option<String>, &Option<String>, Option<u16>, &Option<String>) {
            (&login.username, &login.host, login.port, &login.dbname)
        }
        place(self) == place(pending) && self.password.expose_secret() != pending.password.expose_secret()
    }
}
