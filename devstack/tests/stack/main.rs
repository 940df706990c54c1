//! Tests of the local stack and of `cargo dev`.

mod api_receivers;
mod authority;
mod declarations;
mod dev;
mod https;
mod life;
mod process;
mod processes;
mod scripted_manager;
mod stack_command;
mod tenant;
mod workspace;

type Outcome = Result<(), Box<dyn std::error::Error>>;
