//! What only the service's own crate can know of itself.

use sqlx::migrate::Migrator;

/// The service's name, version and migrations. Made by [`package!`](crate::package!).
#[derive(Debug)]
pub struct Package {
    /// The package's name: the binary, the prefix of its secrets' ids, its database, unless configured otherwise.
    pub name: &'static str,
    /// The package's version.
    pub version: &'static str,
    /// The package's `migrations/`.
    pub migrations: &'static Migrator,
}

/// The [`Package`] of the crate that calls it. Expects `migrations/` beside its `Cargo.toml`, and sqlx among its
/// dependencies, with `macros` and `migrate`.
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
