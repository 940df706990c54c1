//! The service: the real binary, with real signals, on a real PostgreSQL and a real emulator of AWS Secrets Manager.
//!
//! Each test has a tenant of its own: a database, roles and secrets. At the end of each process its output is searched
//! for every secret of the tenant.

mod hello;
mod life;

use devstack::Binary;

static SERVICE: Binary = Binary::at(env!(concat!("CARGO_BIN_EXE_", env!("CARGO_PKG_NAME"))));

/// A path whose answer is read from the database.
const ROUTE: &str = "/v1/hello";
