//! The service: the real binary, with real signals, on a real PostgreSQL and a real Secrets Manager emulator.
//!
//! Each test has a tenant of its own: a database, roles and secret names. After each process its output is searched for
//! every secret that was planted.

mod hello;
mod life;

use devstack::Binary;

static SERVICE: Binary = Binary::at(env!(concat!("CARGO_BIN_EXE_", env!("CARGO_PKG_NAME"))));

/// One that reads from the database.
const ROUTE: &str = "/v1/hello";
