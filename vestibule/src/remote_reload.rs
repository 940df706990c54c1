//! Reloads over the admin listener: `POST /reload`, which `reload --fleet` sends to each replica.
//!
//! ```text
//! request ─► admin.reload ─► token: key, time, process, first use ─► reload actor ─► outcome and versions
//! ```
//!
//! The request has no body: whatever is sent is not read.

pub(crate) mod token;

use self::token::{Refused, UsedTokens};
use crate::{
    application::{Application, Live},
    config::settings::ReloadAccess,
    credentials::signing_keys::SigningKeys,
    http::{connection_info::PeerAddress, problem::Problem},
    last_uses::LastUses,
    metrics::{Counter, MetricsRegistry},
    reload_requests::ReloadRequests,
    secrets::id::VersionId,
    status::{ReloadAnswer, Status, writer::StatusWriter},
};
use axum::{
    Extension, Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use prometheus_client::metrics::family::Family;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

/// The route of the admin listener.
pub(crate) const ROUTE: &str = "/reload";

/// The shortest time between two log lines about requests that are refused. Anybody can send some.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// The time beyond two deadlines that two reloads may take: one may be under way.
const WAIT_GRACE: Duration = Duration::from_secs(5);

/// Returns the longest time from a request for a reload to its end, with this `secrets.deadline`.
pub(crate) fn longest_reload(deadline: Duration) -> Duration {
    deadline * 2 + WAIT_GRACE
}

/// The state of the route.
struct RemoteReload<A: Application> {
    live: Live<A>,
    status: watch::Receiver<Status>,
    requests: Arc<ReloadRequests>,
    last_uses: Arc<LastUses>,
    used: UsedTokens,
    outcomes: Family<[(&'static str, &'static str); 1], Counter>,
    last_warning: Mutex<Option<Instant>>,
}

/// Returns the route. Registers its metric: call it once per process.
pub(crate) fn router<A: Application>(
    live: Live<A>,
    status: &StatusWriter,
    requests: Arc<ReloadRequests>,
    last_uses: Arc<LastUses>,
    metrics: &MetricsRegistry,
) -> Router {
    let outcomes = Family::default();
    let help = "Requests for a reload on the admin listener, by what became of them";
    metrics.register("vestibule_reload_requests", help, outcomes.clone());
    let (status, used, last_warning) = (status.read(), UsedTokens::default(), Mutex::default());
    let state = RemoteReload { live, status, requests, last_uses, used, outcomes, last_warning };
    for outcome in Refused::ALL.map(Refused::label).into_iter().chain([ACCEPTED]) {
        drop(state.outcomes.get_or_create(&[("outcome", outcome)]));
    }
    Router::new().route(ROUTE, post(reload::<A>)).with_state(Arc::new(state))
}

const ACCEPTED: &str = "accepted";

async fn reload<A: Application>(
    State(state): State<Arc<RemoteReload<A>>>,
    peer: Option<Extension<PeerAddress>>,
    headers: HeaderMap,
) -> Result<Json<ReloadAnswer>, Problem> {
    let client = peer.map(|Extension(PeerAddress(peer))| peer);
    let accepted =
        state.accept(&headers).and_then(|key| Ok((key, state.requests.request_by_operator().ok_or(Refused::Busy)?)));
    let (key, answer) = match accepted {
        Ok(accepted) => accepted,
        Err(refused) => {
            state.report(refused, client);
            return Err(refused.into());
        }
    };
    state.count(ACCEPTED);
    tracing::info!(
        client.address = client.map(tracing::field::display),
        key.version = %key,
        "a reload was requested on the admin listener"
    );
    let limit = longest_reload(state.live.generation().config.secrets.deadline);
    match timeout(limit, answer).await {
        Ok(Ok(answer)) => Ok(Json(answer)),
        Ok(Err(_)) => Err(Problem::busy("the process is stopping, so there is no reload")),
        Err(_) => {
            let detail = format!("the reload did not end within {} s", limit.as_secs());
            Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, detail))
        }
    }
}

impl<A: Application> RemoteReload<A> {
    /// Returns the key that has signed a request which is allowed.
    fn accept(&self, headers: &HeaderMap) -> Result<VersionId, Refused> {
        let generation = self.live.generation();
        match generation.config.admin.reload {
            ReloadAccess::Off => return Err(Refused::Off),
            ReloadAccess::Signed => (),
        }
        let max_stale = generation.config.secrets.max_stale;
        let signer = generation
            .credentials
            .first_of::<SigningKeys>()
            .map(|(name, keys)| token::signer(A::PACKAGE.name, name, keys, max_stale, self.last_uses.clone()));
        let instance = self.status.borrow().instance;
        token::verify(headers, signer, instance, &self.used)
    }

    fn count(&self, outcome: &'static str) {
        self.outcomes.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Counts a request that is refused. Logs one in [`WARNING_INTERVAL`].
    fn report(&self, refused: Refused, client: Option<SocketAddr>) {
        self.count(refused.label());
        let mut last = self.last_warning.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= WARNING_INTERVAL) {
            *last = Some(Instant::now());
            tracing::warn!(
                client.address = client.map(tracing::field::display),
                reason = refused.label(),
                "a request for a reload is refused; the metric counts each, and the log has one in 10 s"
            );
        }
    }
}

impl Refused {
    const ALL: [Self; 7] = [
        Self::Off,
        Self::Unsigned,
        Self::OutOfTime,
        Self::BadSignature,
        Self::OtherProcess,
        Self::Replayed,
        Self::Busy,
    ];

    /// Returns the label in the metric and in the log.
    fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Unsigned => "unsigned",
            Self::OutOfTime => "out_of_time",
            Self::BadSignature => "bad_signature",
            Self::OtherProcess => "other_process",
            Self::Replayed => "replayed",
            Self::Busy => "busy",
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let unauthorized =
            |detail: &'static str| Self::new(StatusCode::UNAUTHORIZED, detail).challenge(token::SCHEME.into());
        match refused {
            Refused::Off => Self::not_found("reloads over the admin listener are off: admin.reload is \"off\""),
            Refused::Unsigned => unauthorized("the request is not signed: send it with `reload --fleet`"),
            Refused::OutOfTime => {
                unauthorized("the request has expired, or is from the future: compare the clocks of both machines")
            }
            Refused::BadSignature => unauthorized("no signing key of this replica has signed the request"),
            Refused::OtherProcess => {
                Self::new(StatusCode::FORBIDDEN, "the request is for another process: its instance is not this one's")
            }
            Refused::Replayed => Self::new(StatusCode::FORBIDDEN, "the request was used before"),
            Refused::Busy => Self::new(StatusCode::TOO_MANY_REQUESTS, "too many operators wait for a reload already")
                .retry_after(Duration::from_secs(5)),
        }
    }
}
