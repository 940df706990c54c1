//! Errors of the AWS SDK, as errors of a secrets manager.

use crate::secrets::source::SourceError;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_secretsmanager::error::{ErrorMetadata, ProvideErrorMetadata, SdkError};
use std::error::Error;

/// The codes with which the manager denies access, as the API reference lists them under `GetSecretValue`,
/// `DescribeSecret` and *Common Errors*. The SDK's error enums do not have the codes for denied access.
const DENIALS: [&str; 13] = [
    "AccessDenied",
    "AccessDeniedException",
    "DecryptionFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "NotAuthorized",
    "OptInRequired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];

/// The largest part of the manager's own message that an error quotes, in characters.
const MAX_QUOTED: usize = 300;

/// Returns `true` if the manager says that there is no such secret or version.
pub(super) fn is_not_found<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    match error {
        SdkError::ServiceError(answer) => answer.err().meta().code() == Some("ResourceNotFoundException"),
        _ => false,
    }
}

/// Returns the error of any other call that failed.
pub(super) fn source_error<E>(error: &SdkError<E>) -> SourceError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(answer) => service_error(answer.err().meta(), answer.raw().status().as_u16()),
        SdkError::DispatchFailure(failure) => match find_cause(error) {
            Some(cause) => identity_error(cause),
            None if failure.is_timeout() => SourceError::Unanswered("connecting timed out".into()),
            None => SourceError::Unavailable(format!("connecting failed: {}", io_kind(error))),
        },
        SdkError::TimeoutError(_) => SourceError::Unanswered("the request timed out".into()),
        SdkError::ResponseError(_) => SourceError::Unavailable("its answer was cut off or cannot be understood".into()),
        _ => SourceError::Unavailable("the request could not be made".into()),
    }
}

/// Returns the error of an answer with an error code.
fn service_error(meta: &ErrorMetadata, status: u16) -> SourceError {
    let code = meta.code().unwrap_or("no code");
    // The message of a signing error quotes the request that was signed, with its headers. Only its code may be shown.
    let may_quote = code.starts_with("AccessDenied") || code == "InvalidRequestException";
    let message = if may_quote { meta.message().unwrap_or_default() } else { "" };
    let quoted: String = message.chars().take(MAX_QUOTED).collect();
    let text = format!("{code} {quoted}").trim_end().to_owned();
    match code {
        code if DENIALS.contains(&code) => SourceError::Denied(text),
        "InvalidRequestException" if message.contains("delet") => SourceError::Missing(text),
        "InvalidParameterException" | "ValidationException" => SourceError::Missing(text),
        "InvalidRequestException" => SourceError::Malformed(text),
        _ if status == 403 || status == 401 => SourceError::Denied(text),
        _ => SourceError::Unavailable(format!("{text} (HTTP {status})")),
    }
}

/// Returns the error of a call for which the platform gave no identity.
fn identity_error(error: &CredentialsError) -> SourceError {
    match error {
        CredentialsError::CredentialsNotLoaded(_) => SourceError::NoIdentity(
            "no provider has one (web identity, container, instance; static keys if they are allowed)".into(),
        ),
        CredentialsError::InvalidConfiguration(_) => {
            SourceError::NoIdentity("the identity's configuration is invalid".into())
        }
        CredentialsError::ProviderTimedOut(_) => SourceError::Unanswered(
            "the platform's identity service timed out; in a container, check the hop limit of the instance metadata"
                .into(),
        ),
        _ => SourceError::Unavailable(
            "the platform's identity service failed; check that the role exists and trusts this workload".into(),
        ),
    }
}

/// Returns the kind of the I/O error that is the cause, if there is one.
fn io_kind(error: &(dyn Error + 'static)) -> String {
    match find_cause::<std::io::Error>(error) {
        Some(io) => io.kind().to_string(),
        None => "no answer".to_owned(),
    }
}

/// Returns the first error of this type in the chain of causes.
fn find_cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    std::iter::successors(Some(error), |error| (**error).source()).find_map(|cause| cause.downcast_ref())
}
