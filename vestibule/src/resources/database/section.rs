//! The databases of a service: a section of the configuration for each, and its migrations.

use crate::{
    config::{Config, settings::DatabaseConfig},
    exit::{Exit, Fault},
    package::Package,
};
use sqlx::migrate::Migrator;
use std::collections::BTreeMap;

/// All databases of a service.
#[derive(Clone, Copy)]
pub(crate) struct DatabaseSections<'a> {
    package: &'a Package,
    default: &'a DatabaseConfig,
    named: &'a BTreeMap<String, DatabaseConfig>,
}

impl<'a> DatabaseSections<'a> {
    pub(crate) fn of<T>(package: &'a Package, config: &'a Config<T>) -> Self {
        Self { package, default: &config.database, named: &config.databases }
    }

    /// Returns `[database]`.
    pub(crate) fn default(&self) -> DatabaseSection<'a> {
        DatabaseSection { name: None, config: self.default, migrations: self.package.migrations }
    }

    /// Returns `[databases.NAME]`.
    ///
    /// # Errors
    /// A fault with exit code 78 if there is no such section.
    pub(crate) fn named(&self, name: &str) -> Result<DatabaseSection<'a>, Fault> {
        let Some((name, config)) = self.named.get_key_value(name) else {
            return Err(Fault::new(
                Exit::Config,
                format!("section [databases.{name}]"),
                "this service has a database of this name, and the configuration does not say where it is",
                format!("add the section [databases.{name}], with host and name; it has the keys of [database]"),
            ));
        };
        let mut all = self.package.named_migrations.iter();
        let migrations = all.find(|named| named.database == name).map(|named| named.migrations);
        Ok(DatabaseSection { name: Some(name), config, migrations })
    }
}

/// One database of the configuration, and its migrations.
#[derive(Clone, Copy)]
pub(crate) struct DatabaseSection<'a> {
    /// The name of a section `[databases.NAME]`. `None` for `[database]`.
    pub(super) name: Option<&'a str>,
    pub(crate) config: &'a DatabaseConfig,
    pub(crate) migrations: Option<&'static Migrator>,
}

impl DatabaseSection<'_> {
    /// Returns the section's key: `database` or `databases.NAME`.
    pub(crate) fn key(&self) -> String {
        match self.name {
            Some(name) => format!("databases.{name}"),
            None => "database".into(),
        }
    }

    /// Makes a fault of the database name this section and its keys. All faults are written for `[database]`.
    pub(crate) fn name_in(&self, fault: Fault) -> Fault {
        let Some(name) = self.name else { return fault };
        let subject = match fault.subject.strip_prefix("database") {
            Some(rest) if !rest.starts_with('.') => format!("database `{name}`{rest}"),
            // The value of the key may be a path, such as /etc/ssl/database.pem.
            Some(rest) => format!("{}{rest}", self.key()),
            None => format!("database `{name}`, {}", fault.subject),
        };
        Fault { subject, remedy: fault.remedy.replace("database.", &format!("{}.", self.key())), ..fault }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_names_the_keys_of_its_section_and_the_files_as_they_are() {
        let config = DatabaseConfig::default();
        let section = DatabaseSection { name: Some("reports"), config: &config, migrations: None };
        let fault = |subject: &str, remedy: &str| Fault::new(Exit::Config, subject, "problem", remedy);
        for (subject, expected) in [
            ("database", "database `reports`"),
            ("database at database.internal:5432", "database `reports` at database.internal:5432"),
            ("database.username", "databases.reports.username"),
            (
                "database.tls_root_cert = /etc/ssl/database.pem",
                "databases.reports.tls_root_cert = /etc/ssl/database.pem",
            ),
            ("migration 1", "database `reports`, migration 1"),
        ] {
            assert_eq!(section.name_in(fault(subject, "")).subject, expected);
        }
        let remedy = section.name_in(fault("database", "check database.host and database.port")).remedy;
        assert_eq!(remedy, "check databases.reports.host and databases.reports.port");
    }
}
