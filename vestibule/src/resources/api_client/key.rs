//! The key that a client sends: one version of it, and the cell with the version in service.

use super::{
    endpoint::{ApiEndpoint, KeyHeader},
    retry::TRANSIENT,
};
use crate::{
    credentials::api_key::ApiKey,
    reload_requests::ReloadRequests,
    resources::rejection::Rejection,
    secrets::{credential::Name, id::VersionId, lease::SecretLease},
};
use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
};
use secrecy::ExposeSecret;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};
use zeroize::Zeroizing;

/// The time for which one rejected version requests no further reload. The manager has no other version, or it will take
/// a while until it has.
const RELOAD_INTERVAL: Duration = Duration::from_secs(30);

/// The time after the last 401 from which on a rejection does not count in a reload any more. A client that sends nothing
/// cannot know whether the other side accepts the key again.
const REMEMBERED: Duration = Duration::from_secs(5 * 60);

/// One version of a key, in the form in which it is sent. It is wiped when the last request with it is done.
pub(super) struct VersionedKey {
    /// The value that the header has a copy of. While it is held here, `/status` shows the version as held.
    _credential: Arc<ApiKey>,
    pub(super) version: VersionId,
    name: HeaderName,
    value: HeaderValue,
    lease: Option<Arc<SecretLease>>,
    /// `true` if a 403 rejects the key too.
    is_rejected_with_403: bool,
}

impl VersionedKey {
    pub(super) fn new(
        version: VersionId,
        key: Arc<ApiKey>,
        lease: Option<Arc<SecretLease>>,
        endpoint: &ApiEndpoint,
        name: HeaderName,
    ) -> Arc<Self> {
        let scheme = match &endpoint.key_header {
            KeyHeader::Bearer => "Bearer ",
            KeyHeader::Named(_) => "",
            KeyHeader::Configured(header) => header.scheme(),
        };
        // Has its final size from the start, because a vector that grows leaves copies behind.
        let mut text = Zeroizing::new(Vec::with_capacity(scheme.len() + key.expose_secret().len()));
        text.extend_from_slice(scheme.as_bytes());
        text.extend_from_slice(key.expose_secret().as_bytes());
        let mut value =
            HeaderValue::from_maybe_shared(Bytes::from_owner(text)).expect("an ApiKey is valid in a header");
        value.set_sensitive(true);
        let is_rejected_with_403 = endpoint.rejects_key_with_403;
        Arc::new(Self { _credential: key, version, name, value, lease, is_rejected_with_403 })
    }

    /// Returns `true` if its lease has ended. Until a reload brings another version, no call is made.
    pub(super) fn has_ended(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.has_ended())
    }

    fn is_rejected_with(&self, status: StatusCode) -> bool {
        status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN && self.is_rejected_with_403
    }

    /// Sets the header that carries the key.
    pub(super) fn put_on(&self, headers: &mut HeaderMap) {
        headers.insert(self.name.clone(), self.value.clone());
    }
}

/// The key of one client. Until the client is published, that is its own version. Afterwards it is the version in
/// service, which it shares with the clients of all generations that send it to the same place.
pub(super) struct ClientKey {
    in_service: Arc<KeyInService>,
    /// The rejection to report if the other side rejects this client's own version.
    rejection: Rejection,
    /// The version of a client that is not published yet.
    unpublished: Mutex<Option<Arc<VersionedKey>>>,
}

/// The key in service, shared by clients of several generations.
struct KeyInService {
    credential: Name,
    key: watch::Sender<Arc<VersionedKey>>,
    last_request: Mutex<Option<RequestedReload>>,
    /// The version that the other side rejected in its last answer, and the time of that answer.
    rejected: Mutex<Option<(VersionId, Instant)>>,
    reload_requests: Arc<ReloadRequests>,
}

/// A reload that was requested because the other side rejects a version of the key.
struct RequestedReload {
    rejected: VersionId,
    at: Instant,
    /// The number of the reload.
    number: u64,
}

impl ClientKey {
    /// Makes the key of a client that is not published yet. `before` is the key of a client that sends to the same
    /// place: both share the key in service.
    pub(super) fn new(
        key: Arc<VersionedKey>,
        before: Option<&Self>,
        rejection: Rejection,
        reload_requests: &Arc<ReloadRequests>,
    ) -> Self {
        let in_service = match before {
            Some(before) => before.in_service.clone(),
            None => Arc::new(KeyInService {
                credential: rejection.credential,
                key: watch::Sender::new(key.clone()),
                last_request: Mutex::default(),
                rejected: Mutex::default(),
                reload_requests: reload_requests.clone(),
            }),
        };
        Self { in_service, rejection, unpublished: Mutex::new(Some(key)) }
    }

    /// Puts this client's version in service. A rejection of another one is forgotten: that version may come back later.
    pub(super) fn publish(&self) {
        let version = {
            let mut unpublished = self.unpublished.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(key) = unpublished.take() else { return };
            let version = key.version.clone();
            self.in_service.key.send_replace(key);
            version
        };
        self.in_service.rejected().take_if(|(rejected, _)| *rejected != version);
    }

    fn unpublished(&self) -> Option<Arc<VersionedKey>> {
        self.unpublished.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the version to send now.
    pub(super) fn current(&self) -> Arc<VersionedKey> {
        match self.unpublished() {
            Some(key) => key,
            None => self.in_service.key.borrow().clone(),
        }
    }

    /// Records what an answer says about this version, and returns `true` if it rejects it. An answer that may come from
    /// somebody else than the other service says nothing, and neither does one to a version that was replaced meanwhile.
    pub(super) fn answered(&self, sent: &VersionedKey, status: StatusCode) -> bool {
        let mut rejected = self.in_service.rejected();
        let is_rejected = sent.is_rejected_with(status);
        if sent.version != self.current().version {
            return is_rejected;
        }
        if is_rejected {
            *rejected = Some((sent.version.clone(), Instant::now()));
        } else if !status.is_server_error()
            && !TRANSIENT.contains(&status)
            && rejected.as_ref().is_some_and(|(rejected, _)| *rejected == sent.version)
        {
            *rejected = None;
        }
        is_rejected
    }

    pub(super) fn credential(&self) -> Name {
        self.rejection.credential
    }

    /// Returns the rejection of this client's own version, if the other side has rejected that in its last answer, and
    /// less than five minutes ago.
    pub(super) fn rejection(&self) -> Option<Rejection> {
        let rejected_at = self.rejected_at()?;
        if rejected_at.elapsed() < REMEMBERED { Some(self.rejection.clone()) } else { None }
    }

    /// Returns `true` if the other side has rejected this client's own version in its last answer, however long ago.
    pub(super) fn is_rejected(&self) -> bool {
        self.rejected_at().is_some()
    }

    fn rejected_at(&self) -> Option<Instant> {
        match &*self.in_service.rejected() {
            Some((rejected, at)) if *rejected == self.rejection.version => Some(*at),
            _ => None,
        }
    }

    /// Requests a reload, and waits until another version than `rejected` is in service. Returns `false` if the reload
    /// ends without one, or at `until`.
    pub(super) async fn wait_for_other_version(&self, rejected: &VersionId, until: Instant) -> bool {
        // The load that builds this client cannot wait for a reload.
        if self.unpublished().is_some() {
            return false;
        }
        let mut key = self.in_service.key.subscribe();
        let is_other = |key: &Arc<VersionedKey>| key.version != *rejected;
        if is_other(&key.borrow()) {
            return true;
        }
        let reload = self.in_service.request_reload(rejected);
        tokio::select! {
            biased;
            changed = key.wait_for(is_other) => return changed.is_ok(),
            () = self.in_service.reload_requests.end_of_reload(reload) => (),
            () = tokio::time::sleep_until(until) => (),
        }
        is_other(&key.borrow())
    }
}

impl KeyInService {
    fn rejected(&self) -> MutexGuard<'_, Option<(VersionId, Instant)>> {
        self.rejected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests a reload, unless one was requested for this version in the last 30 s. Returns the number of the reload.
    fn request_reload(&self, rejected: &VersionId) -> u64 {
        let mut last = self.last_request.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last.as_ref().filter(|last| last.rejected == *rejected);
        if let Some(before) = before
            && before.at.elapsed() < RELOAD_INTERVAL
        {
            return before.number;
        }
        let newly = before.is_none();
        tracing::warn!(
            credential = self.credential,
            credential.version = %rejected,
            "the other side rejects the key; asking the manager for another version"
        );
        let number = self.reload_requests.request_for_rejected_key(self.credential, rejected.clone(), newly);
        *last = Some(RequestedReload { rejected: rejected.clone(), at: Instant::now(), number });
        number
    }
}
