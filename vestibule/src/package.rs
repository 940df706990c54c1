//! The package of a service: the facts that only its own crate knows.

use sqlx::migrate::Migrator;

/// The name, version and migrations of a service. [`package!`](crate::package!) makes it.
#[derive(Debug)]
pub struct Package {
    /// The package's name. The binary has the same name. The database and the prefix of secrets' ids have it too, unless
    /// the configuration says otherwise.
    pub name: &'static str,
    /// The package's version.
    pub version: &'static str,
    /// The package's `migrations/`.
    pub migrations: &'static Migrator,
}

/// Returns the [`Package`] of the crate that calls it. That crate needs a folder `migrations/` beside its `Cargo.toml`, and
/// sqlx among its dependencies, with the features `macros` and `migrate`.
#[macro_export]
macro_rules! package {
    () => {{
        static MIGRATIONS: $crate::sqlx::migrate::Migrator = $crate::sqlx::migrate!();
        $crate::Package {
            name: ::core::env!("CARGO_PKG_NAME"),
            version: ::core::env!("CARGO_PKG_VERSION"),
            migrations: &MIGRATIONS,
        }
    }};
}
