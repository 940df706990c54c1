//! The body of a request, within its limit.

use super::request_record::{BodyState, RequestRecord};
use axum::{
    BoxError,
    body::{Body, Bytes, HttpBody},
};
use http_body::{Frame, SizeHint};
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

#[derive(Debug, thiserror::Error)]
#[error("the body is longer than the limit")]
struct BodyTooLong;

impl RequestBody {
    pub(super) fn new(body: Body, record: Arc<RequestRecord>) -> Self {
        Self { body, read: 0, record }
    }

    fn too_long(&self) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.record.set_body(BodyState::TooLong);
        Poll::Ready(Some(Err(BodyTooLong.into())))
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
