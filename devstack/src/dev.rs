mod deliveries;
mod dev_client;
mod dev_metadata;
mod dev_state;
mod exec_command;
mod hints;
mod load_command;
mod project;
mod rotate_command;
mod service_program;
mod stack_command;
mod status_client;
mod up_command;

pub(crate) use exec_command::ExecCommand;
pub(crate) use load_command::LoadCommand;
pub(crate) use rotate_command::RotateCommand;
pub(crate) use stack_command::StackCommand;
pub(crate) use up_command::up;

/// Why `cargo dev` ends with a failure, for people.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Failure(String);

impl Failure {
    fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl From<devstack::Error> for Failure {
    fn from(error: devstack::Error) -> Self {
        Self(error.report())
    }
}
