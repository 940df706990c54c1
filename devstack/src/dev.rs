mod admin;
mod advice;
mod alone;
mod caller;
mod deliveries;
mod exec;
mod load;
mod project;
mod rotate;
mod service;
mod state;
mod up;
mod wishes;

pub(crate) use alone::Alone;
pub(crate) use exec::Exec;
pub(crate) use load::Load;
pub(crate) use rotate::Rotate;
pub(crate) use up::up;

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
