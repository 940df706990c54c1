//! HTTP: the way from a socket to the router of a generation.
//!
//! ```text
//! listener ─► handshake ─► door (takes the generation in service, limits requests in flight)
//!                            └─► its router (frame: problems, panics, body size, timeout) ─► routes
//! ```

pub(crate) mod command_socket;
pub(crate) mod listen;

pub(crate) mod accept;
#[expect(dead_code, reason = "the frame reads it; it comes next")]
pub(crate) mod connection_info;

pub(crate) mod door;

pub(crate) mod frame;
pub(crate) mod routes;

pub(crate) mod tls;

pub(crate) mod client;
pub(crate) mod problem;

pub use client::ClientCertificate;
pub use door::Door;
pub use problem::Problem;
