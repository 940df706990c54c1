//! A login at a database.

use super::{json, looks_like_json, not_blank, unescaped};
use crate::secrets::{
    kind::{Kind, Malformed},
    version::SecretValues,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// A user name and a password, as RDS writes them; or the bare password of `database.username`.
#[derive(Deserialize)]
pub struct Login {
    /// The user name; none: `database.username`.
    pub username: Option<String>,
    /// The password.
    #[serde(deserialize_with = "unescaped")]
    pub password: SecretString,
    /// Wins over `database.host`.
    pub host: Option<String>,
    /// Wins over `database.port`.
    pub port: Option<u16>,
    /// Wins over `database.name`.
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
        let blank = texts.into_iter().flatten().any(|text| text.trim().is_empty());
        if blank || login.username.is_none() || login.port == Some(0) {
            return Err(Malformed::expected(Self::EXPECTED));
        }
        let password = not_blank(login.password, Self::EXPECTED)?;
        Ok(Self { password, ..login })
    }

    /// Another password of the same user at the same place; anything else might be somebody else's.
    fn can_fall_back_to(&self, pending: &Self) -> bool {
        fn place(login: &Login) -> (&Option<String>, &Option<String>, Option<u16>, &Option<String>) {
            (&login.username, &login.host, login.port, &login.dbname)
        }
        place(self) == place(pending) && self.password.expose_secret() != pending.password.expose_secret()
    }
}
