//! The databases that a service declares in `config --json`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::stack::database_address::DatabaseAddress;

/// The databases that a service declares in `config --json`.
#[derive(Deserialize)]
pub(crate) struct DeclaredDatabases {
    /// That of `[database]`.
    #[serde(rename = "database")]
    pub(crate) default: DatabaseAddress,
    /// Those of `[databases.SECTION]`, by section.
    #[serde(default, rename = "databases")]
    pub(crate) sections: BTreeMap<String, DatabaseAddress>,
}
