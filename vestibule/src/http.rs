//! HTTP: the way from a socket to the router of a generation.
//!
//! ```text
//! listener ─► handshake ─► door (takes the generation in service, limits requests in flight)
//!    watchdog: ends what     └─► its router (frame: problems, panics, limits, gzip) ─► routes
//!    is slow, silent or old
//! ```

pub(crate) mod command_socket;
pub(crate) mod listen;

pub(crate) mod accept;
pub(crate) mod connection_info;
pub(crate) mod policy;
pub(crate) mod serve;
pub(crate) mod socket;

mod bad_head;
mod connection;
pub(crate) mod connections;
mod end_reason;
mod exchange;
mod upgraded;
pub(crate) mod watched;

pub(crate) mod door;
pub(crate) mod long_lived;

mod access;
pub(crate) mod request_metrics;
mod request_record;
mod request_span;

pub(crate) mod frame;
mod limits;
mod request_body;

pub(crate) mod client_address;
mod request_id;
pub(crate) mod routes;

pub(crate) mod tls;

pub(crate) mod client;
pub(crate) mod problem;

pub use client::ClientCertificate;
pub use client_address::ClientAddress;
pub use door::Door;
pub use limits::{LimitedRoute, Limits};
pub use long_lived::{LongLived, LongLivedEvent};
pub use problem::Problem;
pub use request_id::RequestId;
