//! Credentials, from the manager's bytes to a type that a service can trust.
//!
//! ```text
//! Source ─► SecretValue ─► Kind::read ─► Credential<T>, in the service's SecretSet
//! ```
//!
//! A value lives in [`SecretValue`] and in the types that a [`Kind`] reads from it, and nowhere else. None of them has a
//! `Debug`, `Display`, `Serialize` or `Clone` that shows the value.

pub mod aws;
pub mod source;
pub mod vault;

pub(crate) mod credential;
pub(crate) mod expiry;
pub(crate) mod fetch;
pub(crate) mod held;
pub(crate) mod id;
pub(crate) mod kind;
pub(crate) mod lease;
pub(crate) mod regions;
pub(crate) mod resolver;
pub(crate) mod rights;
pub(crate) mod secret_parts;
pub(crate) mod set;
pub(crate) mod shape;
pub(crate) mod spec;
pub(crate) mod version;

pub use credential::{Credential, Name, RESERVED};
pub use expiry::Expiry;
pub use held::HeldCredentials;
pub use id::{SecretId, VersionId};
pub use kind::{Kind, Malformed};
pub use lease::{LeaseCalls, Renewal, SecretLease};
pub use resolver::{MAX_BYTES, Resolver};
pub use secrecy::{ExposeSecret, SecretString};
pub use secret_parts::SecretParts;
pub use set::{CredentialField, SecretSet};
pub use source::{Fetched, Source, SourceError};
pub use spec::CredentialSpec;
pub use version::{SecretValue, SecretValues, Stage, Versions};
