//! The error of a service that cannot be built.

use super::{database, rejection::Rejection};
use crate::exit::{Exit, Fault};

/// The error with which [`Application::build`](crate::Application::build) fails.
///
/// The methods of [`Build`](crate::Build) return it, and `?` turns a [`Rejection`] or a `sqlx::Error` into it.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The other side rejects the credential. If a rotation is under way, the load may try the pending version instead.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Anything else. The fault says what to do about it.
    #[error("{}: {}", .0.subject, .0.problem)]
    Fault(Fault),
}

impl BuildError {
    /// Makes the error of a setting in the `[service]` section that cannot be used. A start ends with exit code 78.
    ///
    /// ```
    /// use vestibule::BuildError;
    ///
    /// fn page_size(setting: u32) -> Result<u32, BuildError> {
    ///     match setting {
    ///         1..=1000 => Ok(setting),
    ///         _ => Err(BuildError::setting("service.page_size", "a number from 1 to 1000")),
    ///     }
    /// }
    /// # assert_eq!(page_size(0).unwrap_err().to_string(), "setting service.page_size: expected a number from 1 to 1000");
    /// ```
    pub fn setting(key: &str, expected: &str) -> Self {
        Self::Fault(Fault::new(
            Exit::Config,
            format!("setting {key}"),
            format!("expected {expected}"),
            "correct the value",
        ))
    }

    /// Makes the error of a bug in the service or in the framework. Ends a start with exit code 70.
    pub(crate) fn bug(problem: &str) -> Self {
        Self::Fault(Fault::new(Exit::Bug, "Application::build", problem, "this is a bug: please report it"))
    }

    /// Turns the error into a fault for a report. A rejection becomes a fault with exit code 77.
    pub(crate) fn into_fault(self) -> Fault {
        match self {
            Self::Fault(fault) => fault,
            Self::Rejected(rejection) => rejection.into_fault(),
        }
    }
}

/// Turns the error of a query in `build` into a fault, with the exit code that fits: 69 if the database is not available,
/// 77 if it denies access, and 70 if the query or the schema is wrong.
///
/// ```
/// use vestibule::{BuildError, Database, sqlx};
///
/// async fn currencies(database: &Database) -> Result<Vec<String>, BuildError> {
///     Ok(sqlx::query_scalar("SELECT code FROM currencies").fetch_all(database).await?)
/// }
///
/// assert!(BuildError::from(sqlx::Error::RowNotFound).to_string().contains("no rows returned"));
/// ```
impl From<sqlx::Error> for BuildError {
    fn from(error: sqlx::Error) -> Self {
        let subject = "a database query in Application::build".to_owned();
        let fault = database::fault(&error);
        Self::Fault(match &error {
            error if is_of_query(error) && fault.exit != Exit::Denied => {
                Fault::new(Exit::Bug, subject, error.to_string(), "correct the query, or the schema with a migration")
            }
            sqlx::Error::Database(_) | sqlx::Error::Io(_) | sqlx::Error::Tls(_) => Fault { subject, ..fault },
            error => Fault { subject, problem: error.to_string(), ..fault },
        })
    }
}

/// Returns `true` if the query or the schema is wrong, so that no later attempt can succeed.
fn is_of_query(error: &sqlx::Error) -> bool {
    use sqlx::Error::{
        ColumnDecode, ColumnIndexOutOfBounds, ColumnNotFound, Decode, Encode, InvalidArgument, RowNotFound,
        TypeNotFound,
    };
    match error {
        // The data, a constraint, and the syntax or a name in it.
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|sqlstate| ["22", "23", "42"].iter().any(|class| sqlstate.starts_with(class)))
        }
        RowNotFound | TypeNotFound { .. } | ColumnIndexOutOfBounds { .. } | ColumnNotFound(_) => true,
        ColumnDecode { .. } | Encode(_) | Decode(_) | InvalidArgument(_) => true,
        _ => false,
    }
}
