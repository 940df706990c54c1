//! The failure of one address, and the error of all of them.

use crate::secrets::source::SourceError;

/// The reason for which an address gave no answer that is of use.
#[derive(Debug)]
pub(super) struct AddressFailure {
    class: FailureClass,
    /// The address and the problem.
    text: String,
    remedy: Option<&'static str>,
}

/// The class of a failure. The last one says most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum FailureClass {
    Unanswered,
    NotConnected,
    /// It answered, and cannot serve.
    OutOfService,
}

impl AddressFailure {
    pub(super) fn unanswered(host: &str) -> Self {
        Self { class: FailureClass::Unanswered, text: format!("{host} did not answer in time"), remedy: None }
    }

    pub(super) fn not_connected(text: String, remedy: Option<&'static str>) -> Self {
        Self { class: FailureClass::NotConnected, text, remedy }
    }

    pub(super) fn out_of_service(text: String, remedy: &'static str) -> Self {
        Self { class: FailureClass::OutOfService, text, remedy: Some(remedy) }
    }

    /// Returns the error of an attempt in which every address failed. It names each, with the remedy of the one that says
    /// most.
    pub(super) fn error_of(failures: &[Self]) -> SourceError {
        let Some(worst) = failures.iter().max_by_key(|failure| failure.class) else {
            return SourceError::Unanswered("there was no time to ask".into());
        };
        let texts: Vec<_> = failures.iter().map(|failure| failure.text.as_str()).collect();
        let problem = texts.join("; ");
        match worst.class {
            FailureClass::Unanswered => SourceError::Unanswered(problem),
            FailureClass::NotConnected | FailureClass::OutOfService => {
                SourceError::NotConnected { problem, remedy: worst.remedy }
            }
        }
    }
}
