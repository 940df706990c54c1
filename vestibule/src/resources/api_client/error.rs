//! The error of a call.

use axum::http::StatusCode;
use std::{error::Error, io, time::Duration};

/// The error of a call without a complete response. Its texts name the host at most: no query, no header, no body.
///
/// In a handler, `?` turns it into a [`Problem`](crate::Problem) for the client, and logs it.
///
/// ```
/// use axum::{body::Bytes, http::Request};
/// use vestibule::{ApiClient, CallError, Problem};
///
/// /// Returns the rates, or `None` if they take too long.
/// async fn rates(client: &ApiClient) -> Result<Option<Bytes>, Problem> {
///     let request = Request::get("/rates").body(Bytes::new()).expect("it is a path");
///     match client.send(request).await {
///         Ok(response) => Ok(Some(response.into_body())),
///         Err(CallError::Timeout(_)) => Ok(None),
///         Err(error) => Err(error.into()),
///     }
/// }
/// ```
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The request names a scheme or a host, or has no path. Nothing was sent.
    #[error("a call takes a path below the base URL, and got something else")]
    OutsideBaseUrl,
    /// There was no connection. Nothing was sent.
    #[error("no connection to {host}: {reason}")]
    NotConnected {
        /// The host, and the port if one is configured.
        host: String,
        /// The error and its causes, the innermost last.
        reason: String,
    },
    /// The connection broke before the response. The other side may have received the request.
    #[error("the connection to {host} broke: {reason}")]
    ConnectionBroken {
        /// The host, and the port if one is configured.
        host: String,
        /// The error and its causes, the innermost last.
        reason: String,
    },
    /// The other side responded, but the body of the response broke off, was late, or is larger than 1 MiB.
    #[error("the answer of {host}, {}, could not be read to its end: {reason}", status.as_u16())]
    BodyIncomplete {
        /// The host, and the port if one is configured.
        host: String,
        /// The status of the response.
        status: StatusCode,
        /// The error and its causes, the innermost last.
        reason: String,
    },
    /// There was no response in time. The other side may have received the request.
    #[error("no answer came within {0:?}")]
    Timeout(Duration),
}

/// Returns an error and its causes in one line. Stops at an error of hyper unless its cause is an I/O error: in HTTP/2 the
/// other side may write any text into the frame that ends a connection.
pub(crate) fn reasons(mut error: &(dyn Error + 'static)) -> String {
    let mut reasons = error.to_string();
    while let Some(cause) = error.source() {
        if error.is::<hyper::Error>() && !cause.is::<io::Error>() {
            break;
        }
        reasons = format!("{reasons}: {cause}");
        error = cause;
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use hyper_util::{client::legacy::Client, rt::TokioExecutor};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_text_of_the_other_side_in_the_frame_that_ends_a_connection_is_not_shown() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.expect("a connection");
            // RFC 9113, sections 6.5 and 6.8: SETTINGS, and GOAWAY for stream 0 and on, ENHANCE_YOUR_CALM.
            let frames =
                [b"\0\0\0\x04\0\0\0\0\0\0\0\x10\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0b".as_slice(), b"sentinel"].concat();
            connection.write_all(&frames).await.expect("somebody reads");
            while connection.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
        });
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Body>();
        let error = client.get(url.parse().unwrap()).await.unwrap_err();
        let mut deepest: &dyn Error = &error;
        while let Some(cause) = deepest.source() {
            deepest = cause;
        }
        assert!(deepest.to_string().contains("sentinel"), "this tests nothing: {deepest}");
        let shown = reasons(&error);
        assert!(shown.contains("http2") && !shown.contains("sentinel"), "{shown}");
    }
}
