//! What a service is built from, and how it outlives the generation that built it, or does not.

pub mod api_client;
pub mod database;
pub mod signer;

pub(crate) mod breaker;
pub(crate) mod build_error;
pub(crate) mod context;
pub(crate) mod registry;
pub(crate) mod rejection;
pub(crate) mod resource;

pub use api_client::{ApiClient, ApiEndpoint, CallError, DeliveryError, KeyHeader};
pub use breaker::ProbeReason;
pub use build_error::BuildError;
pub use database::Database;
pub use rejection::Rejection;
pub use resource::{Connections, Resource};
pub use signer::{Signature, Signer};
