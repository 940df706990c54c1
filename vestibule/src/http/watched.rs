//! A service whose requests and responses the watchdog sees.

use super::{
    bad_head::BadHead, client::ClientCertificate, command_socket::CommandUser, connection::WatchedConnection,
    connection_info::ConnectionInfo, end_reason::EndReason, exchange::Exchange, long_lived::LongLived,
    serve::ListenerService,
};
use axum::{
    body::Bytes,
    http::{HeaderValue, Method, Request, Response, StatusCode, header::CONNECTION},
};
use http_body::{Body, Frame, SizeHint};
use hyper::body::{Buf, Incoming};
use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

/// The largest piece of a response that is handed out at a time. hyper takes a piece as soon as there is room for one byte
/// of it, so a larger one would hide that the client takes nothing.
const LARGEST_PIECE: usize = 16 * 1024;

/// The service of one connection. It gives each request the client's certificate.
pub(super) struct WatchedService<S> {
    pub(super) inner: S,
    pub(super) connection: Arc<WatchedConnection>,
    /// The address at the other end. `None` at the command socket.
    pub(super) peer: Option<SocketAddr>,
    pub(super) is_tls: bool,
    pub(super) client: Option<ClientCertificate>,
    /// The user at the other end of the command socket.
    pub(super) user: Option<CommandUser>,
}

impl<S: ListenerService> hyper::service::Service<Request<Incoming>> for WatchedService<S> {
    type Response = Response<ResponseBody<S::Body>>;
    type Error = Infallible;
    type Future = ResponseFuture<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let exchange = self.connection.begin(request.version());
        let guard = Arc::new(ExchangeGuard { exchange: exchange.clone(), connection: self.connection.clone() });
        if let Some(bad_head) = BadHead::of(&request) {
            self.connection.ends_for(EndReason::Malformed);
            if !request.body().is_end_stream() {
                self.connection.leaves_body_unread();
            }
            let source = ResponseSource::Refused { bad_head };
            return ResponseFuture { source, is_connect: false, guard: Some(guard) };
        }
        let mut request = request.map(|body| {
            // An empty body needs no box.
            if body.is_end_stream() {
                axum::body::Body::empty()
            } else {
                axum::body::Body::new(WatchedRequestBody::new(body, &exchange, &self.connection))
            }
        });
        let info = self.peer.map(|peer| ConnectionInfo { peer, tls: self.is_tls, exchange });
        if let Some(client) = &self.client {
            request.extensions_mut().insert(client.clone());
        }
        if let Some(user) = self.user {
            request.extensions_mut().insert(user);
        }
        let is_connect = request.method() == Method::CONNECT;
        let source = ResponseSource::Routed { routed: self.inner.answer(request, info) };
        ResponseFuture { source, is_connect, guard: Some(guard) }
    }
}

/// A request whose response is not out.
struct ExchangeGuard {
    connection: Arc<WatchedConnection>,
    exchange: Arc<Exchange>,
}

impl Drop for ExchangeGuard {
    fn drop(&mut self) {
        self.connection.finish(&self.exchange);
    }
}

/// The body of a request.
struct WatchedRequestBody {
    body: Incoming,
    exchange: Arc<Exchange>,
    connection: Arc<WatchedConnection>,
    /// `true` if its end was handed out. The length of a chunked body does not say it.
    has_ended: bool,
}

impl WatchedRequestBody {
    fn new(body: Incoming, exchange: &Arc<Exchange>, connection: &Arc<WatchedConnection>) -> Self {
        Self { body, exchange: exchange.clone(), connection: connection.clone(), has_ended: false }
    }
}

impl Drop for WatchedRequestBody {
    fn drop(&mut self) {
        if !self.has_ended && !self.body.is_end_stream() {
            self.exchange.body_given_up();
            self.connection.leaves_body_unread();
        }
    }
}

impl Body for WatchedRequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            self.exchange.waits_for_body();
            return Poll::Pending;
        };
        let bytes = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) => 0,
            None => {
                self.has_ended = true;
                0
            }
        };
        self.exchange.body_came(bytes);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

pin_project_lite::pin_project! {
    /// The future of a response.
    pub(super) struct ResponseFuture<F> {
        #[pin]
        source: ResponseSource<F>,
        is_connect: bool,
        guard: Option<Arc<ExchangeGuard>>,
    }
}

pin_project_lite::pin_project! {
    #[project = ResponseSourceProjection]
    enum ResponseSource<F> {
        Routed { #[pin] routed: F },
        Refused { bad_head: BadHead },
    }
}

impl<F, B> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, Infallible>>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<ResponseBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = match this.source.project() {
            ResponseSourceProjection::Routed { routed } => {
                ready!(routed.poll(cx))?.map(|body| (Some(body), Bytes::new()))
            }
            ResponseSourceProjection::Refused { bad_head } => bad_head.response().map(|text| (None, text.into())),
        };
        let guard = this.guard.take().expect(POLLED_ONCE);
        let mut response = response.map(|(body, rest)| ResponseBody { body, rest, guard });
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS || (*this.is_connect && status.is_success()) {
            // The `Connection` of a 101 says `upgrade`, and no request follows anyway.
            response.body().guard.connection.upgraded();
        } else if response.body().guard.connection.ends_with_response() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let exchange = &response.body().guard.exchange;
        exchange.responds(response.extensions().get::<LongLived>().is_some());
        Poll::Ready(Ok(response))
    }
}

/// The promise of hyper.
const POLLED_ONCE: &str = "a future is not polled after it was ready";

pin_project_lite::pin_project! {
    /// The body of a response, in pieces.
    pub(super) struct ResponseBody<B> {
        // `None` for a bad head, whose text is all in `rest`.
        #[pin]
        body: Option<B>,
        // What is left of a frame that is larger than a piece.
        rest: Bytes,
        guard: Arc<ExchangeGuard>,
    }
}

/// A piece of a response. hyper drops it when it went to the socket. Until then the exchange goes on: h2 takes tens of KiB per
/// response before the client has room for them.
pub(super) struct Piece {
    bytes: Bytes,
    guard: Arc<ExchangeGuard>,
}

// In place of `Bytes::from_owner`, which needs a box.
impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // The last one ends the exchange. Then nobody asks for how long it waited.
        if Arc::strong_count(&self.guard) > 1 {
            self.guard.exchange.went_out();
        }
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Piece;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, B::Error>>> {
        let this = self.project();
        let exchange = &this.guard.exchange;
        let piece = |bytes| Piece { bytes, guard: this.guard.clone() };
        if this.rest.is_empty() {
            exchange.asked_for_more();
            let Some(body) = this.body.as_pin_mut() else { return Poll::Ready(None) };
            match ready!(body.poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => *this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers.map_data(piece)))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let bytes = this.rest.split_to(this.rest.len().min(LARGEST_PIECE));
        exchange.handed_out(bytes.len());
        Poll::Ready(Some(Ok(Frame::data(piece(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.as_ref().is_none_or(B::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let mut hint = self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), B::size_hint);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::connections::ConnectionsConfig;
    use axum::http::Version;
    use http_body_util::BodyExt;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn the_last_response_of_a_connection_says_so_unless_it_is_an_upgrade() {
        for (is_connect, status, says, reason) in [
            (false, StatusCode::OK, "close", EndReason::MaxAge),
            (false, StatusCode::SWITCHING_PROTOCOLS, "upgrade", EndReason::Upgraded),
            (true, StatusCode::OK, "upgrade", EndReason::Upgraded),
            (true, StatusCode::FORBIDDEN, "close", EndReason::MaxAge),
        ] {
            let connection = Arc::new(WatchedConnection::new(&ConnectionsConfig::default()));
            let exchange = connection.begin(Version::HTTP_11);
            connection.retire(EndReason::MaxAge);
            let guard = Some(Arc::new(ExchangeGuard { connection: connection.clone(), exchange }));
            let response = Response::builder().status(status).header(CONNECTION, "upgrade");
            let routed = std::future::ready(Ok(response.body(axum::body::Body::empty()).unwrap()));
            let source = ResponseSource::Routed { routed };
            let Ok(response) = (ResponseFuture { source, is_connect, guard }).await;
            assert_eq!(response.headers()[CONNECTION], says);
            assert_eq!(connection.end_reason(), reason);
        }
    }

    #[tokio::test]
    async fn a_request_keeps_its_place_until_the_last_piece_of_its_response_is_written() {
        let connection = Arc::new(WatchedConnection::new(&ConnectionsConfig::default()));
        let exchange = connection.begin(Version::HTTP_2);
        let places = Arc::new(Semaphore::new(1));
        exchange.hold(places.clone().try_acquire_owned().unwrap());
        let guard = Arc::new(ExchangeGuard { connection, exchange });
        let text = Bytes::from(vec![0; LARGEST_PIECE + 1]);
        let mut body = ResponseBody { body: None::<axum::body::Body>, rest: text, guard };
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            pieces.extend(frame.unwrap().into_data().ok());
        }
        drop(body);
        assert_eq!((pieces.len(), places.available_permits()), (2, 0));
        pieces.remove(0);
        assert_eq!(places.available_permits(), 0, "h2 has the last piece");
        drop(pieces);
        assert_eq!(places.available_permits(), 1);
    }
}
