//! Errors of the AWS SDK, as errors of a secrets manager.

use super::identity::{CONTAINER, IdentityError, UnreadableFile};
use crate::{
    cause::{self, OtherSide, RootCause},
    secrets::source::SourceError,
};
use aws_config::imds::client::error::ImdsError;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_secretsmanager::{
    error::{ErrorMetadata, ProvideErrorMetadata, SdkError},
    primitives::{DateTime, DateTimeFormat},
};
use aws_sdk_sts::operation::{
    assume_role::AssumeRoleError, assume_role_with_web_identity::AssumeRoleWithWebIdentityError,
};
use std::error::Error;
use time::{Duration, OffsetDateTime};

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

/// The codes with which the manager does not accept the signature of a request. The time of the request is a part of it.
const BAD_SIGNATURES: [&str; 4] =
    ["InvalidSignatureException", "RequestExpired", "RequestTimeTooSkewed", "SignatureDoesNotMatch"];

/// The codes with which the manager says that the time of a request is wrong.
const WRONG_TIMES: [&str; 2] = ["RequestExpired", "RequestTimeTooSkewed"];

/// Parts of the manager's messages that are about the KMS key of a secret (AWS re:Post, "KMS key access error"). A policy that
/// denies names the action.
const KEY_PROBLEMS: [&str; 4] = ["Access to KMS", "KMS key", "KMS service key", "kms:"];

/// The difference between two clocks from which it may be the cause of a signature that is not accepted. AWS accepts
/// 5 minutes (*Signature Version 4*); the SDK has the same limit.
const CLOCK_TOLERANCE: Duration = Duration::minutes(4);

/// The codes with which STS says no for good, or until a role and its trust have propagated. Their messages name the
/// role, the issuer and the dates of the token (*AssumeRoleWithWebIdentity*, *Errors*).
const STS_DENIALS: [&str; 6] = [
    "AccessDenied",
    "ExpiredToken",
    "ExpiredTokenException",
    "IDPRejectedClaim",
    "InvalidIdentityToken",
    "RegionDisabledException",
];

/// The codes of STS below 500 with which another attempt may succeed.
const STS_TRANSIENT: [&str; 3] = ["IDPCommunicationError", "Throttling", "ThrottlingException"];

/// The variables for the agent of a container.
const CONTAINER_VARIABLES: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI (https, or http to this machine or to an agent of \
                                   AWS), or AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE,";

/// The start of the SDK's text about an answer of an agent that is no success. The status follows, as `StatusCode(429)`.
const AGENT_STATUS: &str = "Non-success status from HTTP credential provider: ";

/// The largest part of the manager's own message that an error quotes, in characters.
const MAX_QUOTED: usize = 300;

/// Returns `true` if the manager says that there is no such secret or version.
pub(super) fn is_not_found<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    match error {
        SdkError::ServiceError(answer) => answer.err().meta().code() == Some("ResourceNotFoundException"),
        _ => false,
    }
}

/// Returns `true` if the manager does not accept the signature of the request.
pub(super) fn is_bad_signature<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    match error {
        SdkError::ServiceError(answer) => answer.err().meta().code().is_some_and(|code| BAD_SIGNATURES.contains(&code)),
        _ => false,
    }
}

/// Returns `true` if a denial of the manager is due to the KMS key of the secret.
pub(super) fn is_about_key(denial: &str) -> bool {
    denial.starts_with("DecryptionFailure") || KEY_PROBLEMS.iter().any(|part| denial.contains(part))
}

/// Returns the error of any other call that failed.
pub(super) fn source_error<E>(error: &SdkError<E>) -> SourceError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(answer) => {
            let ahead = answer.raw().headers().get("date").and_then(time_ahead);
            service_error(answer.err().meta(), answer.raw().status().as_u16(), ahead)
        }
        SdkError::DispatchFailure(failure) => match find_cause(error) {
            Some(cause) => identity_error(cause),
            None if failure.is_timeout() => SourceError::Unanswered("connecting timed out".into()),
            None => not_connected("", &RootCause::of(error)),
        },
        SdkError::TimeoutError(_) => SourceError::Unanswered("the request timed out".into()),
        SdkError::ResponseError(_) => SourceError::Unavailable(format!(
            "its answer was cut off or cannot be understood: {}",
            RootCause::of(error)
        )),
        _ => SourceError::Unavailable("the request could not be made".into()),
    }
}

/// Returns the time by which the manager's clock is ahead of this machine's, from the `Date` of its answer.
pub(crate) fn time_ahead(date: &str) -> Option<Duration> {
    let date = DateTime::from_str(date, DateTimeFormat::HttpDate).ok()?;
    let at = OffsetDateTime::from_unix_timestamp(date.secs()).ok()?;
    Some(at - OffsetDateTime::now_utc())
}

/// Returns the error of an answer with an error code. `ahead` is the time by which the manager's clock is ahead.
fn service_error(meta: &ErrorMetadata, status: u16, ahead: Option<Duration>) -> SourceError {
    let code = meta.code().unwrap_or("no code");
    // The message of a signing error quotes the request that was signed, with its headers. Only its code may be shown.
    let may_quote = code.starts_with("AccessDenied") || code == "InvalidRequestException";
    let message = if may_quote { meta.message().unwrap_or_default() } else { "" };
    let text = format!("{code} {}", quoted(message)).trim_end().to_owned();
    let clocks_differ = ahead.filter(|ahead| ahead.abs() >= CLOCK_TOLERANCE);
    match code {
        code if BAD_SIGNATURES.contains(&code) && (clocks_differ.is_some() || WRONG_TIMES.contains(&code)) => {
            SourceError::ClockWrong(clock_problem(code, clocks_differ))
        }
        code if DENIALS.contains(&code) => SourceError::Denied(text),
        "InvalidRequestException" if is_about_key(message) => SourceError::Denied(text),
        "InvalidRequestException" if message.contains("delet") => SourceError::Missing(text),
        "InvalidParameterException" | "ValidationException" => SourceError::Missing(text),
        "InvalidRequestException" => SourceError::Malformed(text),
        _ if status == 403 || status == 401 => SourceError::Denied(text),
        _ => SourceError::Unavailable(format!("{text} (HTTP {status})")),
    }
}

/// Describes a clock that is wrong. Without a difference, the manager's code is all that is known.
fn clock_problem(code: &str, ahead: Option<Duration>) -> String {
    let Some(ahead) = ahead else {
        return format!("the manager says so ({code})");
    };
    let minutes = (ahead.whole_seconds().unsigned_abs() + 30) / 60;
    let difference = humantime::format_duration(std::time::Duration::from_secs(minutes * 60));
    let direction = if ahead.is_positive() { "behind" } else { "ahead of" };
    format!("it is {difference} {direction} the manager's ({code})")
}

/// Returns the error of a call for which there is no identity.
pub(super) fn identity_error(error: &CredentialsError) -> SourceError {
    if let Some(IdentityError { provider, source }) = find_cause(error) {
        return provider_error(provider, source);
    }
    if let Some(UnreadableFile(problem)) = find_cause(error) {
        let remedy = Some("put a regular file there, and look at the volume that it is on");
        return SourceError::NotConnected { problem: problem.clone(), remedy };
    }
    match error {
        CredentialsError::CredentialsNotLoaded(_) => {
            let cause = RootCause::of(error);
            let metadata = match cause.host() {
                Some(_) => format!("; the instance metadata: {}", connect_problem(&cause)),
                None => String::new(),
            };
            SourceError::NoIdentity(format!(
                "no provider has one (profile file, web identity, container, instance; static keys if they are \
                 allowed){metadata}"
            ))
        }
        _ => SourceError::Unanswered(
            "the platform's identity service timed out; in a container, check the hop limit of the instance metadata"
                .into(),
        ),
    }
}

/// Returns the error of a provider that should have an identity.
fn provider_error(provider: &str, error: &CredentialsError) -> SourceError {
    // A profile wraps the error of its source.
    if let Some(inner) = error.source().and_then(|source| source.downcast_ref()) {
        return provider_error(provider, inner);
    }
    if let Some(error) = find_cause::<SdkError<AssumeRoleWithWebIdentityError>>(error) {
        return sts_error(provider, error);
    }
    if let Some(error) = find_cause::<SdkError<AssumeRoleError>>(error) {
        return sts_error(provider, error);
    }
    if let Some(ImdsError::ErrorResponse(answer)) = find_cause(error) {
        let status = answer.response().status().as_u16();
        return SourceError::Unavailable(format!("{provider} gives no identity: HTTP {status}"));
    }
    let cause = RootCause::of(error);
    if cause.host().is_some() {
        return not_connected(provider, &cause);
    }
    match (error, error.source()) {
        // Its text quotes the URI.
        (CredentialsError::InvalidConfiguration(_), _) if provider == CONTAINER => {
            SourceError::NoIdentity(format!("{provider}: {CONTAINER_VARIABLES} cannot be used"))
        }
        (CredentialsError::InvalidConfiguration(_) | CredentialsError::ProviderError(_), Some(source))
            if cause::is_text(source) =>
        {
            said_by_provider(provider, &source.to_string())
        }
        (_, Some(source)) if source.is::<std::io::Error>() => {
            let problem = format!("{provider}: the file of its token cannot be read: {cause}");
            SourceError::NotConnected {
                problem,
                remedy: Some("mount the token, or correct the variable with its path"),
            }
        }
        _ => SourceError::Unavailable(format!("{provider}: its answer cannot be understood")),
    }
}

/// Returns the error of a provider that only gives a text.
fn said_by_provider(provider: &str, text: &str) -> SourceError {
    let status = text.strip_prefix(AGENT_STATUS).map(|status| status.trim_matches(|c: char| !c.is_ascii_digit()));
    match status.and_then(|status| status.parse().ok()) {
        // EKS Pod Identity limits the rate of requests of a node.
        Some(status @ (429_u16 | 500..)) => SourceError::NotConnected {
            problem: format!("{provider} gives no identity: HTTP {status}"),
            remedy: Some("it is overloaded, or cannot get the identity itself: look at its log"),
        },
        Some(status) => SourceError::NoIdentity(format!("{provider} gives no identity: HTTP {status}")),
        None => SourceError::NoIdentity(format!("{provider}: {}", quoted(text))),
    }
}

/// Returns the error of a call to STS, which exchanges a token or an identity for that of a role.
fn sts_error<E>(provider: &str, error: &SdkError<E>) -> SourceError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let SdkError::ServiceError(answer) = error else {
        return match source_error(error) {
            SourceError::Unanswered(problem) => SourceError::Unanswered(format!("{provider}, STS: {problem}")),
            _ => not_connected(&format!("{provider}, STS"), &RootCause::of(error)),
        };
    };
    let (meta, status) = (answer.err().meta(), answer.raw().status().as_u16());
    let code = meta.code().unwrap_or("no code");
    // Others quote what was sent.
    let message = if STS_DENIALS.contains(&code) { meta.message().unwrap_or_default() } else { "" };
    let text = format!("{provider}: STS says {code} {}", quoted(message)).trim_end().to_owned();
    if status < 500 && !STS_TRANSIENT.contains(&code) {
        SourceError::NoIdentity(text)
    } else {
        SourceError::Unavailable(text)
    }
}

/// Returns the start of a text of the other side.
fn quoted(message: &str) -> String {
    message.chars().take(MAX_QUOTED).collect()
}

/// Returns the error of a connection that failed.
fn not_connected(by: &str, cause: &RootCause) -> SourceError {
    let problem = connect_problem(cause);
    let problem = if by.is_empty() { problem } else { format!("{by}: {problem}") };
    SourceError::NotConnected { problem, remedy: cause.remedy(OtherSide::Manager) }
}

/// Describes a connection that failed.
fn connect_problem(cause: &RootCause) -> String {
    match cause.host() {
        Some(host) => format!("connecting to {host} failed: {cause}"),
        None => format!("connecting failed: {cause}"),
    }
}

/// Returns the first error of this type in the chain of causes.
fn find_cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    std::iter::successors(Some(error), |error| (**error).source()).find_map(|cause| cause.downcast_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::{aws::remedies::remedy, source::Operation};

    const NO_TIME: Duration = Duration::ZERO;

    fn error_of(code: &str, status: u16, ahead: Option<Duration>) -> SourceError {
        service_error(&ErrorMetadata::builder().code(code).message("sentinel").build(), status, ahead)
    }

    #[test]
    fn every_code_of_a_denial_may_pass_by_itself() {
        for code in DENIALS.iter().chain(&BAD_SIGNATURES) {
            let error = error_of(code, 400, Some(NO_TIME));
            assert!(error.is_denial() && !error.is_transient(), "{code}: {error}");
            assert!(error.to_string().contains(code), "{error}");
        }
        assert!(error_of("AnyOtherCode", 403, None).is_denial());
        for (code, status) in [("ThrottlingException", 400), ("InternalServiceError", 500)] {
            assert!(error_of(code, status, None).is_transient(), "{code}");
        }
        for code in ["InvalidRequestException", "InvalidParameterException"] {
            let error = error_of(code, 400, None);
            assert!(!error.is_denial() && !error.is_transient(), "{code}");
        }
    }

    #[test]
    fn a_denial_because_of_the_key_says_to_look_at_the_key() {
        let error = |code: &str, message: &str| {
            service_error(&ErrorMetadata::builder().code(code).message(message).build(), 400, None)
        };
        for (code, message) in [
            ("AccessDeniedException", "Access to KMS is not allowed"),
            ("AccessDeniedException", "User: arn:aws:sts::1:assumed-role/a is not authorized to perform: kms:Decrypt"),
            ("DecryptionFailure", ""),
            (
                "InvalidRequestException",
                "You can't access a secret from a different AWS account if you encrypt the secret with the default KMS \
                 service key.",
            ),
            ("InvalidRequestException", "the KMS key is pending deletion"),
        ] {
            let error = error(code, message);
            assert!(matches!(&error, SourceError::Denied(text) if text.contains(message)), "{error}");
            let remedy = remedy(&error, Operation::ReadValue);
            assert!(remedy.contains("the policy of the key"), "{message}: {remedy}");
        }
        let other = error("AccessDeniedException", "not authorized to perform: secretsmanager:GetSecretValue");
        assert!(!remedy(&other, Operation::ReadValue).contains("the policy of the key"));
        assert!(matches!(error("InvalidRequestException", "marked for deletion"), SourceError::Missing(_)));
    }

    #[test]
    fn a_bad_signature_names_the_clock_if_the_clocks_differ() {
        let behind = error_of("InvalidSignatureException", 400, Some(Duration::seconds(899)));
        let text = "this machine's clock is wrong: it is 15m behind the manager's (InvalidSignatureException)";
        assert_eq!(behind.to_string(), text);
        let ahead = error_of("SignatureDoesNotMatch", 403, Some(Duration::hours(-2)));
        assert!(ahead.to_string().contains("it is 2h ahead of the manager's"), "{ahead}");
        for code in WRONG_TIMES {
            let error = error_of(code, 403, Some(NO_TIME));
            assert_eq!(error, SourceError::ClockWrong(format!("the manager says so ({code})")));
        }
        for difference in [None, Some(NO_TIME), Some(Duration::seconds(-239))] {
            let error = error_of("InvalidSignatureException", 400, difference);
            assert_eq!(error, SourceError::Denied("InvalidSignatureException".into()), "the keys are wrong");
        }
        // A policy that denies has nothing to do with the clock.
        assert!(matches!(error_of("AccessDeniedException", 400, Some(Duration::hours(1))), SourceError::Denied(_)));
    }

    #[test]
    fn an_agent_that_is_overloaded_is_asked_again_and_one_that_says_no_is_not() {
        let of_agent = |status: u16| {
            let text = format!("Non-success status from HTTP credential provider: StatusCode({status})");
            provider_error(CONTAINER, &CredentialsError::provider_error(text))
        };
        for status in [429, 500, 503] {
            let error = of_agent(status);
            assert!(error.is_transient(), "{error}");
            assert!(error.to_string().ends_with(&format!("the container's agent gives no identity: HTTP {status}")));
        }
        for status in [400, 401, 403, 404] {
            let text = format!("the container's agent gives no identity: HTTP {status}");
            assert_eq!(of_agent(status), SourceError::NoIdentity(text));
        }
        let other = provider_error(CONTAINER, &CredentialsError::provider_error("failed to load credentials [a]: b"));
        let text = "the container's agent: failed to load credentials [a]: b".to_owned();
        assert_eq!(other, SourceError::NoIdentity(text));
    }

    #[test]
    fn the_date_of_an_answer_tells_the_difference_between_the_clocks() {
        assert!(time_ahead("Fri, 31 Dec 2100 23:59:59 GMT").is_some_and(Duration::is_positive));
        assert!(time_ahead("Thu, 01 Jan 1970 00:00:01 GMT").is_some_and(Duration::is_negative));
        assert_eq!(time_ahead("yesterday"), None);
    }
}
