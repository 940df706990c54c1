//! The transport: HTTP/1.1 and HTTP/2 connections. TLS trusts the platform's certificate authorities.

use super::error::CallError;
use crate::{
    blocking_reads::FileReads,
    cause::{OtherSide, RootCause},
    config::base_url::BaseUrl,
    exit::Fault,
    trust,
};
use axum::{
    body::{Body, Bytes, HttpBody},
    http::{Request, Response},
};
use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use std::{
    error::Error,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::Instant;
use tower::Service;

/// The timeout of a connection attempt. It is shorter than the default timeout of a call, so there is time for another
/// attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The longest time for which an unused connection stays open. Load balancers close theirs after 60 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

/// The silence after which HTTP/2 sends a ping, and the timeout of its response. Without pings, a connection that died
/// silently would fail every call until TCP gives up, after about 15 min.
const PING: Duration = Duration::from_secs(5);

/// A pool of connections. It adds no key. Clones share it.
#[derive(Clone)]
pub(crate) struct Transport {
    client: Client<HttpsConnector<HttpConnector>, Body>,
    /// The largest body of a response, in bytes.
    max_body: usize,
}

impl Transport {
    /// Makes the transport to the host of `url`.
    ///
    /// # Errors
    /// A fault if `url` asks for TLS and the platform trusts no certificate authority, or their files do not answer.
    pub(crate) async fn new(url: &BaseUrl, max_body: usize, files: &FileReads) -> Result<Self, Fault> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let tls = HttpsConnectorBuilder::new();
        let connector = if url.is_https() {
            tls.with_tls_config(trust::platform_authorities(files).await?).https_only()
        } else {
            tls.with_tls_config(trust::no_authorities()).https_or_http()
        };
        let connector = connector.enable_all_versions().wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PING)
            .build(connector);
        Ok(Self { client, max_body })
    }

    /// Returns the transport for the attempts of one call. The whole response must have come by the deadline.
    pub(crate) fn for_call(&self, deadline: Instant) -> CallTransport {
        CallTransport { transport: self.clone(), deadline }
    }
}

/// The transport for the attempts of one call.
#[derive(Clone)]
pub(crate) struct CallTransport {
    transport: Transport,
    deadline: Instant,
}

impl Service<Request<Bytes>> for CallTransport {
    type Response = Response<Bytes>;
    type Error = CallError;
    type Future = BoxFuture<'static, Result<Response<Bytes>, CallError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let response = self.transport.client.request(request.map(Body::from));
        let (deadline, max_body) = (self.deadline, self.transport.max_body);
        Box::pin(async move {
            let (head, body) = match response.await {
                Ok(response) => response.into_parts(),
                Err(error) if error.is_connect() => {
                    return Err(CallError::NotConnected { host, reason: reason(&error) });
                }
                Err(error) => return Err(CallError::ConnectionBroken { host, reason: reason(&error) }),
            };
            let body = match tokio::time::timeout_at(deadline, read_body(body, max_body)).await {
                Ok(body) => body,
                Err(_) => Err("it was late".into()),
            };
            match body {
                Ok(body) => Ok(Response::from_parts(head, body)),
                Err(reason) => Err(CallError::BodyIncomplete { host, status: head.status, reason }),
            }
        })
    }
}

/// Reads a body to its end.
///
/// # Errors
/// The reason, if the body is larger than `max` bytes or breaks off.
async fn read_body(mut body: Incoming, max: usize) -> Result<Bytes, String> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| reason(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > max {
            return Err(format!("it is larger than {} KiB", max / 1024));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.into())
}

/// Returns the cause of an error, and what helps against it.
fn reason(error: &(dyn Error + 'static)) -> String {
    RootCause::of(error).with_remedy(OtherSide::Api)
}
