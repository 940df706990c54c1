//! The commands of `cargo dev`.

pub(crate) mod error;

mod dev_metadata;
mod project;
mod run_command;
mod service_description;
mod service_program;

mod dev_lock;
mod dev_state;

pub(crate) mod secrets_manager;

mod dev_client;
mod status_client;

mod api_receivers;
mod prepare_tenant;
mod progress;
mod stop_signals;

pub(crate) mod exec_command;
mod hints;
mod issuer_client;
pub(crate) mod load_command;
pub(crate) mod rotate_command;
pub(crate) mod stack_command;
pub(crate) mod token_command;
pub(crate) mod up_command;
