//! The error of the local stack.

use std::io;
use std::path::PathBuf;

use aws_sdk_secretsmanager::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

/// A failure of the local stack.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system reported an error.
    #[error("cannot {doing}")]
    Io {
        /// The action that failed.
        doing: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Python or the packages of the stack are missing.
    #[error("{0}")]
    Python(String),
    /// A part of the stack ended or did not answer.
    #[error("{part} {what}\nits log is {}, and ends with:\n{tail}", log.display())]
    Part {
        /// PostgreSQL or the secrets manager.
        part: &'static str,
        /// The problem.
        what: String,
        /// The file with its output.
        log: PathBuf,
        /// The last lines of that file.
        tail: String,
    },
    /// PostgreSQL reported an error.
    #[error("cannot {doing}")]
    Database {
        /// The action that failed.
        doing: String,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
    /// The secrets manager reported an error.
    #[error("cannot {doing}: {why}")]
    Emulator {
        /// The action that failed.
        doing: String,
        /// The manager's code and message.
        why: String,
    },
    /// OpenBao reported an error, or did not answer.
    #[error("OpenBao: cannot {doing}: {why}")]
    OpenBao {
        /// The method and the path.
        doing: String,
        /// The status of its answer.
        status: Option<reqwest::StatusCode>,
        /// Its own messages.
        why: String,
    },
    /// A secret does not have the content that a rotation needs.
    #[error("{0}")]
    Secret(String),
}

impl Error {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing: doing.into(), source }
    }

    pub(crate) fn database(doing: impl Into<String>) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { doing: doing.into(), source }
    }

    /// Keeps the code and the message of the manager's error, and nothing else: the SDK's own texts can hold the raw
    /// response, and so a secret.
    pub(crate) fn emulator<E, R>(doing: impl Into<String>) -> impl FnOnce(SdkError<E, R>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        R: std::fmt::Debug,
    {
        move |error| {
            let why = match &error {
                SdkError::ServiceError(answer) => {
                    format!("{}: {}", answer.err().code().unwrap_or("?"), answer.err().message().unwrap_or("?"))
                }
                SdkError::DispatchFailure(failure) => match failure.as_connector_error() {
                    Some(error) => DisplayErrorContext(error).to_string(),
                    None => "no connection".into(),
                },
                other => other.to_string(),
            };
            Self::Emulator { doing: doing.into(), why }
        }
    }

    /// Returns this error and its causes, one per line.
    pub fn report(&self) -> String {
        let mut report = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            report.push_str(&format!("\n  because: {error}"));
            cause = error.source();
        }
        report
    }
}
