use axum::http::StatusCode;
use std::{error::Error, io, time::Duration};

/// Why a call has no answer. What is told of causes names hosts at most: no query, no header, no body.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The request names a scheme or a host, or no path. Nothing was sent.
    #[error("a call takes a path below the base URL, and got something else")]
    Elsewhere,
    /// Nothing was sent.
    #[error("no connection to {host}: {why}")]
    Unconnected {
        /// And port, where one is configured.
        host: String,
        /// The reasons, the innermost last.
        why: String,
    },
    /// The request may have been taken.
    #[error("the connection to {host} broke: {why}")]
    Broken {
        /// And port, where one is configured.
        host: String,
        /// The reasons, the innermost last.
        why: String,
    },
    /// The request was answered, but the body of the answer broke, was late, or is larger than 1 MiB.
    #[error("the answer of {host}, {}, could not be read to its end: {why}", status.as_u16())]
    Unread {
        /// And port, where one is configured.
        host: String,
        /// What was answered.
        status: StatusCode,
        /// The reasons, the innermost last.
        why: String,
    },
    /// The request may have been taken.
    #[error("no answer came within {0:?}")]
    Timeout(Duration),
}

/// An error and its causes in one line. Of HTTP itself only hyper's own words: in HTTP/2 the other side may write what
/// it likes into what ends a connection.
pub(super) fn reasons(mut error: &(dyn Error + 'static)) -> String {
    let mut reasons = error.to_string();
    while let Some(cause) = error.source().filter(|cause| !error.is::<hyper::Error>() || cause.is::<io::Error>()) {
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
    async fn what_the_other_side_writes_into_the_end_of_a_connection_is_not_passed_on() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.expect("a connection");
            // RFC 9113, sections 6.5 and 6.8: SETTINGS, and GOAWAY for stream 0 and on, ENHANCE_YOUR_CALM.
            let end =
                [b"\0\0\0\x04\0\0\0\0\0\0\0\x10\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0b".as_slice(), b"sentinel"].concat();
            connection.write_all(&end).await.expect("somebody reads");
            while connection.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
        });
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Body>();
        let error = client.get(url.parse().unwrap()).await.unwrap_err();
        let mut deepest: &dyn Error = &error;
        while let Some(cause) = deepest.source() {
            deepest = cause;
        }
        assert!(deepest.to_string().contains("sentinel"), "this tests nothing: {deepest}");
        let told = reasons(&error);
        assert!(told.contains("http2") && !told.contains("sentinel"), "{told}");
    }
}
