//! The tools of tests: the service as a process, the other sides that it talks to, and waiting.

pub(crate) mod eventually;
pub(crate) mod json;

mod captured_output;
pub(crate) mod launch;
pub(crate) mod test_process;

pub(crate) mod binary;
mod life;
pub(crate) mod running_service;

mod background_server;
pub(crate) mod receiver;
pub(crate) mod scripted_manager;
pub(crate) mod token_issuer;
