//! The framework, tested from outside through the example: the real binary, with real signals, on a real PostgreSQL and a
//! real emulator of AWS Secrets Manager.
//!
//! Each test has a tenant of its own: a database, roles and secrets. At the end of each process its output is searched
//! for every secret of the tenant.

mod audit;
mod auth;
mod causes;
mod client_ca;
mod command_socket;
mod commands;
mod config;
mod connections;
mod database_errors;
mod dead_connections;
mod debug_tokens;
mod denied_start;
#[cfg(target_os = "linux")]
mod documented_commands;
mod documents;
mod endurance;
mod fleet;
mod fleet_model;
mod frame;
mod hostile_clients;
mod http1;
mod lease_faults;
mod lease_replacements;
mod leases;
mod log;
mod long_lived;
mod metrics;
mod openapi;
mod owner_role;
mod parents;
mod passes_by_itself;
mod platform_identity;
mod policy;
mod raw_log_in;
mod rds_iam;
mod regions;
mod rejected_login;
mod reload;
mod retry;
mod rotation;
mod several_databases;
mod signing_keys;
mod start;
mod status_page;
mod stop;
#[cfg(target_os = "linux")]
mod storm;
mod tls;
mod traces;
mod transactions;
mod unavailable;
mod vault;
mod vault_cluster;
mod vault_documents;
mod webhook;

#[path = "../service/note_client.rs"]
mod note_client;
mod support;
#[path = "../service/webhook_setup.rs"]
mod webhook_setup;

use devstack::Binary;

static SERVICE: Binary = Binary::at(env!(concat!("CARGO_BIN_EXE_", env!("CARGO_PKG_NAME"))));
