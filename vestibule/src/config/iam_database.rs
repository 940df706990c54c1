//! A database whose log-ins need no secret: `auth = "iam"`.

use super::settings::DatabaseConfig;
use crate::{
    credentials::login::Login,
    secrets::{kind::Kind, spec::CredentialSpec},
};
use std::collections::BTreeMap;

/// A database with `auth = "iam"`.
pub(crate) struct IamDatabase<'a> {
    /// The name of a section `[databases.NAME]`. `None` for `[database]`.
    name: Option<&'a str>,
    pub(crate) config: &'a DatabaseConfig,
}

impl<'a> IamDatabase<'a> {
    /// Returns all databases with `auth = "iam"`.
    pub(super) fn all(
        default: &'a DatabaseConfig,
        named: &'a BTreeMap<String, DatabaseConfig>,
    ) -> impl Iterator<Item = Self> {
        let named = named.iter().map(|(name, config)| Self { name: Some(name), config });
        std::iter::once(Self { name: None, config: default }).chain(named).filter(|database| database.config.is_iam())
    }

    /// Returns the keys of one of its settings.
    pub(super) fn path(&self, key: &str) -> Vec<String> {
        let section = self.name.map_or(vec!["database"], |name| vec!["databases", name]);
        section.into_iter().chain([key]).map(str::to_owned).collect()
    }

    /// Returns the key of its section: `database` or `databases.NAME`.
    pub(crate) fn section(&self) -> String {
        self.name.map_or("database".to_owned(), |name| format!("databases.{name}"))
    }

    /// Returns a text that names the section, the user, and the place that it logs in at.
    pub(crate) fn user_at_place(&self) -> String {
        let section = self.section();
        let DatabaseConfig { username, host, port, .. } = self.config;
        format!("[{section}], user {} at {}:{port},", username.as_deref().unwrap_or_default(), &**host)
    }

    /// Returns the name of the credential that the service gives this database. It is not fetched.
    pub(crate) fn credential(&self) -> &'a str {
        self.name.unwrap_or("database")
    }

    /// Returns the name of the credential of `migrate`, if that is not fetched either.
    pub(super) fn migrator(&self) -> Option<String> {
        self.config.migrator_username.as_ref()?;
        Some(self.name.map_or("migrator".to_owned(), |name| format!("migrator_{name}")))
    }

    /// Returns `true` if the credential is one that this database does not need.
    pub(super) fn replaces(&self, spec: &CredentialSpec) -> bool {
        spec.kind == Login::NAME
            && (spec.name == self.credential() || self.migrator().is_some_and(|migrator| spec.name == migrator))
    }
}
