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
        let with_keys = |text: &str| text.replace("database.", &format!("{}.", self.key()));
        let subject = match fault.subject.strip_prefix("database") {
            Some(rest) if !rest.starts_with('.') => format!("database `{name}`{rest}"),
            Some(_) => with_keys(&fault.subject),
            None => format!("database `{name}`, {}", fault.subject),
        };
        Fault { subject, remedy: with_keys(&fault.remedy), ..fault }
    }
}
