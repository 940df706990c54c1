//! The body of a request, within its limit.

use super::request_record::{BodyState, RequestRecord};
use axum::{
    BoxError,
    body::{Body, Bytes, HttpBody},
};
use futures_util::FutureExt;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full, Limited};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

/// The body of a request. It fails if it is longer than the limit of the request's route, and tells the record if the
/// handler waits for it.
///
/// The limit is asked for when the body is read, because a layer of the route may set it.
pub(super) struct RequestBody {
    body: Body,
    read: u64,
    record: Arc<RequestRecord>,
}

impl RequestBody {
    pub(super) fn new(body: Body, record: Arc<RequestRecord>) -> Self {
        Self { body, read: 0, record }
    }

    fn too_long(&self) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.record.set_body(BodyState::TooLong);
        Poll::Ready(Some(Err(length_limit_error())))
    }
}

/// Returns the error by which axum's extractors know that a body is too long: their rejections are 413 then. Only a body can
/// make one.
fn length_limit_error() -> BoxError {
    let mut too_long = Limited::new(Full::new(Bytes::from_static(b"1")), 0);
    match too_long.frame().now_or_never() {
        Some(Some(Err(error))) => error,
        other => unreachable!("one byte is more than none: {other:?}"),
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if self.record.is_body(BodyState::Awaited) {
            self.record.set_body(BodyState::Idle);
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let limit = self.record.body_limit();
        // Before the first bytes: a client that waits for `100 Continue` does not send a body in vain.
        if self.read.saturating_add(self.body.size_hint().lower()) > limit {
            return self.too_long();
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            self.record.set_body(BodyState::Awaited);
            return Poll::Pending;
        };
        self.record.set_body(BodyState::Idle);
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.read = self.read.saturating_add(data.len() as u64);
            if self.read > limit {
                return self.too_long();
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
