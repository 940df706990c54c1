//! What only the service's own crate can know of itself.

use sqlx::migrate::Migrator;

/// The service's name, version and migrations. Made by [`app!`](crate::app!).
#[derive(Debug)]
pub struct App {
    /// The package's name: the binary, the prefix of its secrets' ids, its database, unless configured otherwise.
    pub name: &'static str,
    /// The package's version.
    pub version: &'static str,
    /// The package's `migrations/`.
    pub migrations: &'static Migrator,
}

/// The [`App`] of the crate that calls it. Expects `migrations/` beside its `Cargo.toml`, and sqlx among its
/// dependencies, with `macros` and `migrate`.
#[macro_export]
macro_rules! app {
    () => {{
        static MIGRATIONS: $crate::sqlx::migrate::Migrator = $crate::sqlx::migrate!();
        $crate::App {
            name: ::core::env!("CARGO_PKG_NAME"),
            version: ::core::env!("CARGO_PKG_VERSION"),
            migrations: &MIGRATIONS,
        }
    }};
}
