//! The package of a service: the facts that only its own crate knows.

use crate::secrets::credential::Name;
use sqlx::migrate::Migrator;

/// The name, version and migrations of a service. [`package!`](crate::package!) makes it.
#[derive(Debug)]
pub struct Package {
    /// The package's name. The binary has the same name. The database and the prefix of secrets' ids have it too, unless
    /// the configuration says otherwise.
    pub name: &'static str,
    /// The path of a module of the service's crate. The targets of its log lines begin with the crate.
    pub module: &'static str,
    /// The package's version.
    pub version: &'static str,
    /// The package's description. The OpenAPI document begins with it. It may be empty.
    pub description: &'static str,
    /// The migrations of the database of `[database]`. `None` if there is nothing to migrate.
    pub migrations: Option<&'static Migrator>,
    /// The migrations of the databases of `[databases.NAME]`. A database without migrations is not among them.
    pub named_migrations: &'static [NamedMigrations],
}

/// The migrations of one database of `[databases.NAME]`.
#[derive(Debug)]
pub struct NamedMigrations {
    /// The name of the section.
    pub database: &'static str,
    /// The credential that owns the tables: `migrator_NAME`. Only `migrate` reads it.
    pub migrator: Name,
    /// The migrations.
    pub migrations: &'static Migrator,
}

impl Package {
    /// Returns the package of a service without a description and migrations, in a crate of the same name.
    pub const fn new(name: &'static str, version: &'static str) -> Self {
        Self { name, module: name, version, description: "", migrations: None, named_migrations: &[] }
    }
}

/// Returns the [`Package`] of the crate that calls it.
///
/// | call | migrations |
/// |---|---|
/// | `package!()` | `migrations/`, for the database of `[database]` |
/// | `package!(reports = "migrations/reports")` | those, and a folder for the database of `[databases.reports]` |
/// | `package!(no_migrations)` | none |
/// | `package!(no_migrations, reports = "migrations/reports")` | only those of `[databases.reports]` |
///
/// A folder is named from the crate's `Cargo.toml`. A folder inside of `migrations/` is no part of `migrations/`. With
/// migrations, the crate needs sqlx among its dependencies, with the features `macros` and `migrate`.
///
/// ```
/// use vestibule::{Package, package};
///
/// const PACKAGE: Package = package!(no_migrations);
/// assert!(PACKAGE.migrations.is_none());
/// ```
#[macro_export]
macro_rules! package {
    (no_migrations $(, $database:ident = $folder:literal)* $(,)?) => {{
        const NAMED: &[$crate::NamedMigrations] = &[$($crate::NamedMigrations {
            database: ::core::stringify!($database),
            migrator: ::core::concat!("migrator_", ::core::stringify!($database)),
            migrations: {
                static MIGRATIONS: $crate::sqlx::migrate::Migrator = $crate::sqlx::migrate!($folder);
                &MIGRATIONS
            },
        }),*];
        $crate::Package {
            module: ::core::module_path!(),
            description: ::core::env!("CARGO_PKG_DESCRIPTION"),
            named_migrations: NAMED,
            ..$crate::Package::new(::core::env!("CARGO_PKG_NAME"), ::core::env!("CARGO_PKG_VERSION"))
        }
    }};
    ($($database:ident = $folder:literal),* $(,)?) => {{
        static MIGRATIONS: $crate::sqlx::migrate::Migrator = $crate::sqlx::migrate!();
        $crate::Package {
            migrations: ::core::option::Option::Some(&MIGRATIONS),
            ..$crate::package!(no_migrations $(, $database = $folder)*)
        }
    }};
}
