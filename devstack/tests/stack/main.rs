//! The local stack is what it says: it refuses wrong passwords, keeps tenants apart, and leaves nothing behind.

mod authority;
mod deliveries;
mod dev;
mod https;
mod life;
mod process;
mod scripted_manager;
mod stack_command;
mod tenant;

type Outcome = Result<(), Box<dyn std::error::Error>>;
