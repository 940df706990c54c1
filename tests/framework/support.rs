//! Helpers that several test files share.

pub(crate) mod collector;
pub(crate) mod configuration_folder;
pub(crate) mod database;
pub(crate) mod documented_commands;
pub(crate) mod examples;
pub(crate) mod iam_policy;
pub(crate) mod launch_options;
pub(crate) mod leased;
pub(crate) mod load;
pub(crate) mod log_events;
pub(crate) mod metrics_page;
pub(crate) mod mistakes;
pub(crate) mod platform;
pub(crate) mod process;
pub(crate) mod rds_front;
pub(crate) mod reload_status;
pub(crate) mod requests;
pub(crate) mod secrets;
pub(crate) mod slow_request;
pub(crate) mod stand_in;
pub(crate) mod tcp_proxy;
pub(crate) mod temporary_file;
pub(crate) mod time_waits;
pub(crate) mod tls_client;
