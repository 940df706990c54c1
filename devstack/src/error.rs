use std::io;
use std::path::PathBuf;

use aws_sdk_secretsmanager::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

/// Why the local stack could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {doing}")]
    Io {
        /// What we were doing.
        doing: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Python, or the packages of the stack, are not there.
    #[error("{0}")]
    Python(String),
    /// A part of the stack ended or stayed silent.
    #[error("{part} {what}\nits log is {}, and ends with:\n{tail}", log.display())]
    Part {
        /// PostgreSQL, or the secrets manager.
        part: &'static str,
        /// What it did instead.
        what: String,
        /// Where its output is.
        log: PathBuf,
        /// The last lines of that.
        tail: String,
    },
    /// PostgreSQL refused.
    #[error("cannot {doing}")]
    Database {
        /// What we were doing.
        doing: String,
        /// Why it failed.
        #[source]
        source: sqlx::Error,
    },
    /// The secrets manager refused.
    #[error("cannot {doing}: {why}")]
    Manager {
        /// What we were doing.
        doing: String,
        /// The manager's code and message.
        why: String,
    },
    /// A secret is not what a rotation needs.
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

    /// The SDK's own texts can hold the raw response, and so a secret: only code and message are passed on.
    pub(crate) fn manager<E, R>(doing: impl Into<String>) -> impl FnOnce(SdkError<E, R>) -> Self
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
            Self::Manager { doing: doing.into(), why }
        }
    }

    /// This error and its causes, each on a line of its own.
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
