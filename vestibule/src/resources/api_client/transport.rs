//! Connections: HTTP/1.1 and HTTP/2, TLS by the platform's certificate authorities.

use super::error::{CallError, reasons};
use crate::{config::base_url::BaseUrl, exit::Fault, trust};
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
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::Instant;
use tower::Service;

/// The largest answer, in bytes.
const MOST: usize = 1024 * 1024;

/// How long the other side may take to accept a connection, less than a call may take, so that there is another attempt.
const CONNECTING: Duration = Duration::from_secs(3);

/// How long a connection waits for use; load balancers close theirs after 60 s.
const IDLE: Duration = Duration::from_secs(50);

/// How long HTTP/2 is silent before a ping, and how long an answer to that may take: a connection that died without a
/// word would fail every call for as long as TCP tries, about 15 min.
const PING: Duration = Duration::from_secs(5);

/// A pool of connections, without a key. Clones share it.
#[derive(Clone)]
pub(super) struct Transport(Client<HttpsConnector<HttpConnector>, Body>);

impl Transport {
    pub(super) fn new(url: &BaseUrl) -> Result<Self, Fault> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECTING));
        let tls = HttpsConnectorBuilder::new();
        let connector = if url.is_https() {
            tls.with_tls_config(trust::platform_authorities()?).https_only()
        } else {
            tls.with_tls_config(trust::no_authorities()).https_or_http()
        };
        let connector = connector.enable_all_versions().wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PING)
            .build(connector);
        Ok(Self(client))
    }

    /// For one call, whose answer must have come whole by then.
    pub(super) fn until(&self, deadline: Instant) -> Call {
        Call { transport: self.clone(), deadline }
    }
}

/// The transport for the attempts at one call.
#[derive(Clone)]
pub(super) struct Call {
    transport: Transport,
    deadline: Instant,
}

impl Service<Request<Bytes>> for Call {
    type Response = Response<Bytes>;
    type Error = CallError;
    type Future = BoxFuture<'static, Result<Response<Bytes>, CallError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let answer = self.transport.0.request(request.map(Body::from));
        let deadline = self.deadline;
        Box::pin(async move {
            let answer = answer.await.map_err(|error| {
                if error.is_connect() {
                    CallError::Unconnected { host: host.clone(), why: reasons(&error) }
                } else {
                    CallError::Broken { host: host.clone(), why: reasons(&error) }
                }
            })?;
            let (head, body) = answer.into_parts();
            let body =
                tokio::time::timeout_at(deadline, whole(body)).await.unwrap_or_else(|_| Err("it was late".into()));
            let body = body.map_err(|why| CallError::Unread { host, status: head.status, why })?;
            Ok(Response::from_parts(head, body))
        })
    }
}

/// The body to its end, unless it is too large.
async fn whole(mut body: Incoming) -> Result<Bytes, String> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| reasons(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > MOST {
            return Err("it is larger than 1 MiB".into());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.into())
}
