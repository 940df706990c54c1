//! The key in service, shared by the clients of all generations that send it to the same place.

use super::KeyHeader;
use crate::{
    credentials::api_key::ApiKey,
    reload_requests::ReloadRequests,
    secrets::{credential::Name, id::VersionId},
};
use axum::{
    body::Bytes,
    http::{HeaderName, HeaderValue, Request, Response},
};
use futures_util::future::BoxFuture;
use secrecy::ExposeSecret;
use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};
use tower::Service;
use zeroize::Zeroizing;

/// How long a trip for one refused version keeps others from being asked for: the manager has no other one, or it will
/// take a while.
const ASKED: Duration = Duration::from_secs(30);

/// One version of a key, as it is sent. Wiped when the last request that bears it is done.
pub(super) struct VersionedKey {
    version: VersionId,
    name: HeaderName,
    value: HeaderValue,
}

impl VersionedKey {
    pub(super) fn new(version: VersionId, key: &ApiKey, key_header: KeyHeader, name: HeaderName) -> Arc<Self> {
        let scheme = match key_header {
            KeyHeader::Bearer => "Bearer ",
            KeyHeader::Named(_) => "",
        };
        // Of its final size from the start: what grows leaves copies behind.
        let mut text = Zeroizing::new(Vec::with_capacity(scheme.len() + key.expose_secret().len()));
        text.extend_from_slice(scheme.as_bytes());
        text.extend_from_slice(key.expose_secret().as_bytes());
        let mut value =
            HeaderValue::from_maybe_shared(Bytes::from_owner(text)).expect("an ApiKey is what a header can carry");
        value.set_sensitive(true);
        Arc::new(Self { version, name, value })
    }
}

/// What a client bears: the key in service, once it is published.
pub(super) struct Keys {
    shared: Arc<Shared>,
    /// Not in service yet.
    next: Mutex<Option<Arc<VersionedKey>>>,
}

struct Shared {
    credential: Name,
    held: watch::Sender<Arc<VersionedKey>>,
    asked: Mutex<Option<PendingRequest>>,
    reload_requests: Arc<ReloadRequests>,
}

/// A trip that was asked for.
struct PendingRequest {
    refused: VersionId,
    at: Instant,
    trip: u64,
}

impl Keys {
    /// `before` is who shares what is in service with this one from now on.
    pub(super) fn new(
        held: Arc<VersionedKey>,
        before: Option<&Self>,
        reload_requests: &Arc<ReloadRequests>,
        credential: Name,
    ) -> Self {
        let shared = before.map_or_else(
            || {
                let (held, asked, reload_requests) =
                    (watch::Sender::new(held.clone()), Mutex::default(), reload_requests.clone());
                Arc::new(Shared { credential, held, asked, reload_requests })
            },
            |before| before.shared.clone(),
        );
        Self { shared, next: Mutex::new(Some(held)) }
    }

    pub(super) fn publish(&self) {
        if let Some(held) = self.next.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.shared.held.send_replace(held);
        }
    }

    fn next(&self) -> Option<Arc<VersionedKey>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn current(&self) -> Arc<VersionedKey> {
        self.next().unwrap_or_else(|| self.shared.held.borrow().clone())
    }

    /// Waits until another version than the one that was refused is in service: for the end of a trip, and `until` then
    /// at most. `false`: there is none.
    pub(super) async fn renewed(&self, refused: &VersionId, until: Instant) -> bool {
        // The trip that builds this client cannot wait for another.
        if self.next().is_some() {
            return false;
        }
        let mut held = self.shared.held.subscribe();
        let is_other = |held: &Arc<VersionedKey>| held.version != *refused;
        if is_other(&held.borrow()) {
            return true;
        }
        let trip = self.shared.ask(refused);
        tokio::select! {
            biased;
            changed = held.wait_for(is_other) => return changed.is_ok(),
            () = self.shared.reload_requests.end_of_reload(trip) => (),
            () = tokio::time::sleep_until(until) => (),
        }
        is_other(&held.borrow())
    }
}

impl Shared {
    /// Asks for a trip, unless one was asked for a moment ago. Returns which one to wait for.
    fn ask(&self, refused: &VersionId) -> u64 {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        match &*asked {
            Some(asked) if asked.refused == *refused && asked.at.elapsed() < ASKED => asked.trip,
            _ => {
                tracing::warn!(
                    credential = self.credential,
                    credential.version = %refused,
                    "the other side refuses the key: asking the manager for another version"
                );
                let trip = self.reload_requests.request_for_rejected_key(self.credential, refused.clone());
                *asked = Some(PendingRequest { refused: refused.clone(), at: Instant::now(), trip });
                trip
            }
        }
    }
}

/// The version that a request was sent with: an extension of its response.
#[derive(Clone)]
pub(super) struct SentVersion(pub(super) VersionId);

/// Puts the key in service on each attempt.
#[derive(Clone)]
pub(super) struct AddKey<S> {
    inner: S,
    keys: Arc<Keys>,
}

impl<S> AddKey<S> {
    pub(super) fn new(inner: S, keys: Arc<Keys>) -> Self {
        Self { inner, keys }
    }
}

impl<S> Service<Request<Bytes>> for AddKey<S>
where
    S: Service<Request<Bytes>, Response = Response<Bytes>, Future: Send + 'static>,
{
    type Response = Response<Bytes>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Bytes>) -> Self::Future {
        let held = self.keys.current();
        request.headers_mut().insert(held.name.clone(), held.value.clone());
        let bore = SentVersion(held.version.clone());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            response.extensions_mut().insert(bore);
            Ok(response)
        })
    }
}
