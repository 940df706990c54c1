//! The things that a service builds from its credentials: databases, API clients, signers, and resources of its own.
//!
//! A [`Resource`] is carried over to the next generation while its credential and its settings stay the same. Otherwise
//! the next generation builds another one, and this one is retired. A [`Signer`] is no resource, because it has nothing
//! to close.

pub mod api_client;
pub mod database;
pub mod signer;

pub(crate) mod breaker;
pub(crate) mod build_error;
pub(crate) mod circuit_breaker;
pub(crate) mod connection_counter;
pub(crate) mod context;
pub(crate) mod registry;
pub(crate) mod rejection;
pub(crate) mod resource;

pub use api_client::{ApiClient, ApiEndpoint, CallError, DeliveryError, KeyHeader};
pub use breaker::ProbeReason;
pub use build_error::BuildError;
pub use circuit_breaker::{Attempt, CircuitBreaker};
pub use connection_counter::{ConnectionCounter, ConnectionGuard};
pub use database::{Database, Session};
pub use rejection::Rejection;
pub use resource::Resource;
pub use signer::{Signature, Signer};
