//! The local stack: a real PostgreSQL 18 and a real emulator of AWS Secrets Manager, for `cargo dev` and for tests.
//!
//! ```text
//! Python ──► Stack ──► Tenant ──► Process
//! virtual    PostgreSQL  database,  the service's binary
//! environ-   manager     roles,         │
//! ment         ▲         secrets ◄── Rotation
//!              └── faults::Manager (scripted) ◄──┘
//! ```
//!
//! The stack's [`Authority`] issues the certificates.
//!
//! A test asks the service's [`Binary`] for a [`Tenant`] of its own on the [`Stack`] of its process, and starts the
//! service: to serve as [`Running`], anything else as a [`Process`]. No child outlives its owner, and no secret of the
//! tenant may be in the process's output.

mod authority;
mod binary;
mod error;
pub mod faults;
mod home;
mod manager;
mod planted;
mod postgres;
mod process;
mod python;
pub mod receiver;
mod replica;
mod rotation;
mod running;
mod secret;
mod stack;
mod supervised;
mod tenant;

pub use authority::{Authority, Identity, Validity};
pub use binary::{Asked, Binary};
pub use error::Error;
pub use home::{home, workspace};
pub use manager::Manager;
pub use planted::{Planted, random, random_key, random_password};
pub use postgres::Postgres;
pub use process::{Addresses, Exited, Launch, Process};
pub use python::Python;
pub use receiver::{Delivery, Receiver};
pub use replica::SecondManager;
pub use reqwest;
pub use rotation::{Database, Rotation};
pub use running::{PATIENCE, Running, problem};
pub use rustix::process::Signal;
pub use stack::{Stack, free_port};
pub use supervised::{Stop, Supervised, User, send};
pub use tenant::Tenant;
