//! The address of a database.

use serde::{Deserialize, Serialize};

/// The address and the name of a database.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct DatabaseAddress {
    /// The host: `127.0.0.1` for a database of the stack.
    pub host: String,
    /// PostgreSQL's port.
    pub port: u16,
    /// The name of the database.
    pub name: String,
}
