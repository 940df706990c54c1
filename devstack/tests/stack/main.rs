//! The local stack is what it says: it refuses wrong passwords, keeps tenants apart, and leaves nothing behind.

mod alone;
mod authority;
mod deliveries;
mod dev;
mod faults;
mod https;
mod life;
mod process;
mod tenant;

type Outcome = Result<(), Box<dyn std::error::Error>>;
