//! Requests of commands to admin routes.

use super::trust::Connector;
use crate::{
    bootstrap::command_error::CommandError,
    cause::{OtherSide, RootCause},
    config::settings::LogFormat,
    exit::{Exit, Fault, Phase, Report},
};
use axum::{
    body::Body,
    http::{HeaderValue, Request, Response, Uri, header},
};
use http_body_util::LengthLimitError;
use hyper::body::Incoming;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use std::{error::Error, io::ErrorKind, time::Duration};

/// The timeout of a request. `health` waits as long for its connection: both fit into the health check of the image.
pub(super) const TIMEOUT: Duration = Duration::from_secs(3);

/// The largest answer, in bytes.
const MAX_BODY: usize = 1024 * 1024;

/// An admin listener that does not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdminUnreachable {
    #[error("it closed the connection")]
    Closed,
    #[error("it does not answer: {0}")]
    NoAnswer(String),
    #[error("its answer has more than {MAX_BODY} bytes, so it is no service of this framework")]
    TooLong,
}

/// Gets a URI, for 3 s at most.
///
/// # Errors
/// If there is no answer.
pub(super) async fn get(uri: Uri, connector: Connector) -> Result<Response<String>, AdminUnreachable> {
    let client = Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    read(client.get(uri), TIMEOUT).await
}

/// Posts to a URI without a body, and waits for the answer as long as `limit` allows.
///
/// # Errors
/// If there is no answer.
pub(super) async fn post(
    uri: Uri,
    authorization: HeaderValue,
    connector: Connector,
    limit: Duration,
) -> Result<Response<String>, AdminUnreachable> {
    let client = Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let mut request = Request::post(uri).body(Body::empty()).expect("these make a request");
    request.headers_mut().insert(header::AUTHORIZATION, authorization);
    read(client.request(request), limit).await
}

/// Waits for the answer to a request, as long as `limit` allows.
///
/// # Errors
/// If there is no answer.
pub(super) async fn read<E: Error + 'static>(
    answer: impl Future<Output = Result<Response<Incoming>, E>>,
    limit: Duration,
) -> Result<Response<String>, AdminUnreachable> {
    let request = async {
        let (head, body) = answer.await.map_err(|error| unreachable(&error))?.into_parts();
        let body = axum::body::to_bytes(Body::new(body), MAX_BODY).await.map_err(|error| unreachable(&error))?;
        Ok(Response::from_parts(head, String::from_utf8_lossy(&body).into_owned()))
    };
    match tokio::time::timeout(limit, request).await {
        Ok(result) => result,
        Err(_) => Err(AdminUnreachable::NoAnswer(format!("timeout after {} s", limit.as_secs()))),
    }
}

fn unreachable(error: &(dyn Error + 'static)) -> AdminUnreachable {
    let innermost = std::iter::successors(Some(error), |error| (*error).source()).last().unwrap_or(error);
    if innermost.is::<LengthLimitError>() {
        return AdminUnreachable::TooLong;
    }
    // The process ended before it had read the request.
    let io = innermost.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    if matches!(io, Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)) {
        return AdminUnreachable::Closed;
    }
    match innermost.downcast_ref::<hyper::Error>() {
        Some(error) if error.is_closed() || error.is_incomplete_message() || error.is_canceled() => {
            AdminUnreachable::Closed
        }
        _ => AdminUnreachable::NoAnswer(RootCause::of(error).with_remedy(OtherSide::AdminListener)),
    }
}

/// Returns the error of a command.
pub(super) fn command_error(exit: Exit, subject: String, problem: String, remedy: &str) -> CommandError {
    let report = Report::of(Phase::Command, Fault::new(exit, subject, problem, remedy));
    CommandError { report, format: LogFormat::Pretty }
}
