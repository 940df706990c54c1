//! The local stack: a real PostgreSQL 18 and a real emulator of AWS Secrets Manager, for `cargo dev` and for tests.
//!
//! ```text
//! Stack ──────────► Tenant ──────► Launch ──► TestProcess, RunningService
//! PostgreSQL,       a database,    the service's binary
//! Emulator,         roles,              │
//! Authority         secrets ◄── Rotation│
//!     ▲                                 │
//!     └──────── ScriptedManager ◄───────┘
//! ```
//!
//! A test asks the service's [`Binary`] for a [`Tenant`] of its own on the [`Stack`] of its test process. Then it starts
//! the service: as a [`RunningService`] to talk to it, or as a [`TestProcess`] for other commands. No child outlives
//! its owner. No secret of the tenant may be in the output of a process.
//!
//! | module | holds |
//! |---|---|
//! | `stack` | the parts of the stack, and tenants |
//! | `testing` | the tools of tests |
//! | `dev` | the commands of `cargo dev` |

#![expect(clippy::missing_errors_doc, reason = "each error says what failed and what to do; its callers print it")]

mod shell;
mod stack;

mod testing;

mod dev;

pub use reqwest;
pub use rustix::process::Signal;

pub use stack::Stack;
pub use stack::authority::Authority;
pub use stack::authority::identity::Identity;
pub use stack::authority::validity::Validity;
pub use stack::database_address::DatabaseAddress;
pub use stack::declared_credential::DeclaredCredential;
pub use stack::emulator::Emulator;
pub use stack::error::Error;
pub use stack::folders::{home, workspace};
pub use stack::free_port::free_port;
pub use stack::leak_detector::LeakDetector;
pub use stack::openbao::OpenBaoServer;
pub use stack::openbao::access::OpenBaoAccess;
pub use stack::openbao::api::OpenBao;
pub use stack::openbao::audit_log::LoggedRequest;
pub use stack::openbao::leased_logins::LeaseTimes;
pub use stack::polling::Polling;
pub use stack::postgres::Postgres;
pub use stack::python_environment::PythonEnvironment;
pub use stack::random::{random, random_key, random_password};
pub use stack::rotation::Rotation;
pub use stack::second_region::SecondRegion;
pub use stack::supervised_process::send_signal;
pub use stack::tenant::Tenant;

pub use testing::binary::Binary;
pub use testing::eventually::{DEFAULT_TIMEOUT, Observation, eventually, eventually_within};
pub use testing::json::{post_json, problem};
pub use testing::launch::Launch;
pub use testing::receiver::Receiver;
pub use testing::receiver::delivery::Delivery;
pub use testing::receiver::rule::{AnswerRule, ScriptedAnswer};
pub use testing::running_service::RunningService;
pub use testing::scripted_manager::ScriptedManager;
pub use testing::scripted_manager::rule::{FaultRule, ScriptedFault};
pub use testing::scripted_manager::token_bucket::TokenBucket;
pub use testing::test_process::{Addresses, ExitedProcess, TestProcess};
pub use testing::token_issuer::TokenIssuer;

pub use dev::main;
