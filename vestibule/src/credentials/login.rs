//! A login at a database.

use super::{ValueText, json, not_blank, unescaped::unescape};
use crate::{
    config::units,
    secrets::{
        kind::{Kind, Malformed},
        secret_parts::SecretParts,
        shape::is_invisible,
        version::SecretValues,
    },
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt, net::IpAddr, ops::Deref};
use stringprep::tables::commonly_mapped_to_nothing;
use zeroize::{Zeroize, Zeroizing};

/// A user name and a password for a database.
///
/// The manager has it as JSON, in the form that RDS writes, or as the bare password of `database.username`:
///
/// ```json
/// { "username": "app", "password": "…", "host": "db.internal", "port": 5432, "dbname": "app" }
/// ```
///
/// Host, port and database name are optional; an empty one is absent, and so is a `dbname` of `*`, any database. The port may be a number or a text, and the host may
/// have it too (`db.internal:5432`). `user` and `database` may stand for `username` and `dbname`. A service gives the
/// credential to [`Build::database`](crate::Build::database).
pub struct Login {
    /// The user name. If there is none, `database.username` is used.
    pub username: Option<PostgresName>,
    /// The password. `None` for a database with `auth = "iam"`: it needs no secret, and all other fields are `None` too.
    pub password: Option<SecretString>,
    /// The host. It wins over `database.host`.
    pub host: Option<Host>,
    /// The port. It wins over `database.port`.
    pub port: Option<u16>,
    /// The name of the database. It wins over `database.name`.
    pub dbname: Option<PostgresName>,
}

/// The name of a user or of a database: 1 to 63 bytes, without characters that nobody sees, and without blanks at its ends.
/// PostgreSQL cuts off a longer name, and the name of another user could remain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct PostgresName(String);

/// A host: a name, an address, or the folder of a Unix socket. It contains no user, password or path of a URL, so it can
/// stand in a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Host(String);

#[derive(Deserialize)]
struct LoginJson<'a> {
    #[serde(borrow)]
    username: Option<&'a RawValue>,
    #[serde(borrow)]
    user: Option<&'a RawValue>,
    #[serde(borrow)]
    password: Option<&'a RawValue>,
    #[serde(borrow)]
    host: Option<&'a RawValue>,
    #[serde(borrow)]
    port: Option<&'a RawValue>,
    #[serde(borrow)]
    dbname: Option<&'a RawValue>,
    #[serde(borrow)]
    database: Option<&'a RawValue>,
}

impl PostgresName {
    /// The longest name, in bytes: `NAMEDATALEN` of PostgreSQL less one.
    const MAX_BYTES: usize = 63;

    /// Returns the name, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let is_name =
            (1..=Self::MAX_BYTES).contains(&text.len()) && text.trim() == text && !text.chars().any(is_invisible);
        if is_name { Some(Self(text.to_owned())) } else { None }
    }

    /// Returns the name as SQL has it, as PostgreSQL's `quote_ident` quotes it.
    pub(crate) fn quoted(&self) -> String {
        format!("\"{}\"", self.replace('"', "\"\""))
    }

    /// Returns `true` if the driver can log in as a user of this name. It puts the name into its SCRAM message as it is,
    /// where a comma would end it.
    pub(crate) fn is_for_driver(&self) -> bool {
        !self.contains(',') && is_for_driver(self)
    }
}

impl Host {
    /// Returns the host, if it is one. An IPv6 address may be in brackets.
    pub fn parse(text: &str) -> Option<Self> {
        let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = inner.parse::<IpAddr>() {
            return Some(Self(address.to_string()));
        }
        // The longest name in DNS, and the longest path of a socket, are shorter.
        let is_short = (1..=255).contains(&text.len());
        let is_host_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let is_name = text.chars().all(is_host_char)
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && !text.contains("..")
            && !ends_with_number(text);
        let is_folder = text.starts_with('/') && text.chars().all(|c| is_host_char(c) || c == '/');
        if is_short && (is_name || is_folder) { Some(Self(text.to_owned())) } else { None }
    }
}

/// Returns `true` if the last label of a name is a number. No domain has such a name, but resolvers take it for an address in
/// an old form, which may be another one than its writer means: `10.0.0.010` is 10.0.0.8.
fn ends_with_number(host: &str) -> bool {
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let digits = last.to_ascii_lowercase();
    let is_hexadecimal = digits.strip_prefix("0x").is_some_and(|digits| digits.chars().all(|c| c.is_ascii_hexdigit()));
    is_hexadecimal || digits.chars().all(|c| c.is_ascii_digit())
}

impl Deref for PostgresName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Deref for Host {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for PostgresName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a name of 1 to 63 bytes, without characters that nobody sees, and without blanks at its ends";
        units::text(deserializer, expected, Self::parse)
    }
}

impl<'de> Deserialize<'de> for Host {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected =
            "the name or the address of one host, without a port, a user or a path; or the folder of a Unix socket";
        units::text(deserializer, expected, Self::parse)
    }
}

impl fmt::Display for PostgresName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Login {
    pub(super) const EXPECTED: &str = "the JSON of a login, {\"username\": \"…\", \"password\": \"…\"} with optional host, port \
         and dbname, or the bare password of database.username";
    pub(super) const USERNAME: &str = "the JSON of a login with `username`: 1 to 63 bytes without characters that nobody sees, and \
         without blanks at its ends";
    pub(super) const PASSWORD: &str = "the JSON of a login with `password`: a text that is not empty or blank";
    pub(super) const NO_PASSWORD: &str = "a password that somebody can see, without the character NUL, which no password of \
         PostgreSQL has";
    pub(super) const HOST: &str = "the JSON of a login in which `host` is the name or the address of one host: not a URL, and without a \
         user, a password or a path; it may end with the port, as in db.internal:5432";
    pub(super) const PORT: &str =
        "the JSON of a login in which `port` is a number from 1 to 65535, and the same one that `host` has";
    pub(super) const DBNAME: &str = "the JSON of a login in which `dbname` has 1 to 63 bytes without characters that nobody sees, and \
         without blanks at its ends";
    pub(super) const NO_URL: &str = "the JSON of a login, {\"username\": \"…\", \"password\": \"…\", \"host\": \"…\"}, and not a URL or \
         a connection string with these parts";
    pub(super) const NEWLINE: &str = "a bare password in one line, without a newline at its end. If a tool has added it (a file that was passed with \
         file://, or `echo` without -n), put the password without it; if it is part of the password, put the JSON of a login";

    const WITHOUT_SECRET: Self = Self { username: None, password: None, host: None, port: None, dbname: None };

    /// Returns the password, empty if there is none.
    fn exposed(&self) -> &str {
        self.password.as_ref().map_or("", ExposeSecret::expose_secret)
    }

    fn of_json(text: &str) -> Result<Self, Malformed> {
        let json: LoginJson<'_> = json(text, Self::EXPECTED)?;
        let (host, port_of_host) = match text_of(json.host, Self::HOST)? {
            Some(text) => host_and_port(text.expose_secret().trim())?,
            None => (None, None),
        };
        let port = port_of(json.port)?;
        if port.is_some() && port_of_host.is_some() && port != port_of_host {
            return Err(Malformed::expected(Self::PORT));
        }
        let username = name_of([json.username, json.user], Self::USERNAME)?;
        let username = username.ok_or(Malformed::expected(Self::USERNAME))?;
        let mut dbname = name_of([json.dbname, json.database], Self::DBNAME)?;
        // CloudNativePG writes it for a superuser, who has no database of their own.
        if dbname.as_deref() == Some("*") {
            dbname = None;
        }
        let password = text_of(json.password, Self::PASSWORD)?.ok_or(Malformed::expected(Self::PASSWORD))?;
        let password = not_blank(password, Self::PASSWORD)?;
        Ok(Self { username: Some(username), password: Some(password), host, port: port.or(port_of_host), dbname })
    }
}

/// Returns a text of the JSON. One that is null or empty is absent.
fn text_of(raw: Option<&RawValue>, expected: &'static str) -> Result<Option<SecretString>, Malformed> {
    let Some(raw) = raw else { return Ok(None) };
    if raw.get() == "null" {
        return Ok(None);
    }
    let text = unescape(raw.get()).ok_or(Malformed::expected(expected))?;
    if text.is_empty() { Ok(None) } else { Ok(Some(text.as_str().into())) }
}

/// Returns the name that stands in one of two fields, or is the same in both. Operators for Kubernetes write both `user` and
/// `username`.
fn name_of(fields: [Option<&RawValue>; 2], expected: &'static str) -> Result<Option<PostgresName>, Malformed> {
    let mut found = None;
    for raw in fields {
        let Some(text) = text_of(raw, expected)? else { continue };
        let name = PostgresName::parse(text.expose_secret());
        if name.is_none() || (found.is_some() && found != name) {
            return Err(Malformed::expected(expected));
        }
        found = name;
    }
    Ok(found)
}

fn port_of(raw: Option<&RawValue>) -> Result<Option<u16>, Malformed> {
    let malformed = Malformed::expected(Login::PORT);
    let Some(raw) = raw else { return Ok(None) };
    // RDS writes a number, Terraform a text, and some tools 5432.0.
    let text = match text_of(Some(raw), Login::PORT) {
        Ok(None) => return Ok(None),
        Ok(Some(text)) => text,
        Err(_) => raw.get().strip_suffix(".0").unwrap_or(raw.get()).into(),
    };
    match text.expose_secret().trim().parse() {
        Ok(0) | Err(_) => Err(malformed),
        Ok(port) => Ok(Some(port)),
    }
}

/// Parts of the schemes of databases that speak PostgreSQL's protocol.
const SCHEMES: [&str; 5] = ["postgres", "postgis", "pgsql", "cockroach", "jdbc:"];

/// Returns `true` for the URL of a database, in any scheme of drivers (`postgresql+asyncpg://`, `jdbc:aws-wrapper:`), also in
/// quotes or after the name of a variable, and for a connection string of libpq, .NET or PDO: `host=… password=…`,
/// `Host=…;Password=…`, `pgsql:host=…;password=…`.
fn is_connection_string(text: &str) -> bool {
    let text = Zeroizing::new(text.trim_start().to_ascii_lowercase());
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.:".contains(c);
    let before = text.split_once("://").map(|(before, _)| before);
    let scheme = before.and_then(|before| before.rsplit(|c| !is_scheme(c)).next());
    let is_url = scheme.is_some_and(|scheme| SCHEMES.iter().any(|part| scheme.contains(part)));
    let mut keys = text.split([' ', ';']).filter_map(|part| part.split_once('=')?.0.rsplit(':').next());
    is_url
        || text.starts_with("jdbc:")
        || (keys.clone().any(|key| key == "host" || key == "server")
            && keys.any(|key| key == "password" || key == "pwd"))
}

/// Reads a host, or a host and a port: the form of an RDS endpoint.
fn host_and_port(text: &str) -> Result<(Option<Host>, Option<u16>), Malformed> {
    if let Some(host) = Host::parse(text) {
        return Ok((Some(host), None));
    }
    let split = text.rsplit_once(':').and_then(|(host, port)| Some((Host::parse(host)?, port.parse().ok()?)));
    match split {
        Some((host, port)) if port > 0 => Ok((Some(host), Some(port))),
        _ => Err(Malformed::expected(Login::HOST)),
    }
}

impl Kind for Login {
    const NAME: &'static str = "login";

    fn read(values: &SecretValues) -> Result<Self, Malformed> {
        let text = values.current().text.expose_secret();
        let login = match ValueText::of(text, Self::EXPECTED)? {
            ValueText::Json(text) => Self::of_json(text)?,
            ValueText::Bare(text) if is_connection_string(text) => return Err(Malformed::expected(Self::NO_URL)),
            ValueText::Bare(text) if text.contains(['\n', '\r']) => return Err(Malformed::expected(Self::NEWLINE)),
            ValueText::Bare(text) => Self { password: Some(text.into()), ..Self::WITHOUT_SECRET },
        };
        let password = login.exposed();
        if password.contains('\0') || password.chars().all(commonly_mapped_to_nothing) {
            return Err(Malformed::expected(Self::NO_PASSWORD));
        }
        Ok(login)
    }

    fn without_secret() -> Option<Self> {
        Some(Self::WITHOUT_SECRET)
    }

    /// Returns `true` if `pending` is another password of the same user at the same place. Any other login may be
    /// somebody else's.
    fn can_fall_back_to(&self, pending: &Self) -> bool {
        fn place(login: &Login) -> (&Option<PostgresName>, &Option<Host>, Option<u16>, &Option<PostgresName>) {
            (&login.username, &login.host, login.port, &login.dbname)
        }
        place(self) == place(pending) && self.exposed() != pending.exposed()
    }

    fn secret_parts(&self, _: &SecretValues, parts: &mut SecretParts) {
        parts.add(self.exposed());
    }
}

/// Returns `true` if the driver can prepare a name or a password (SASLprep, RFC 4013). It gives up if it cannot; PostgreSQL
/// takes the bytes as they are.
pub(crate) fn is_for_driver(text: &str) -> bool {
    let Ok(prepared) = stringprep::saslprep(text) else { return false };
    if let Cow::Owned(mut copy) = prepared {
        copy.zeroize();
    }
    true
}
