//! Debug tokens: a request that bears one is logged at debug.
//!
//! ```text
//! `debug-token` ─► command socket ─► DebugTokens::issue ─► token ─► header of a request ─► DebugTokens::take ─► log filter
//! ```

use crate::{
    application::{Application, Live},
    credentials::signing_keys::SigningKeys,
    http::command_socket::CommandUser,
    last_uses::LastUses,
    metrics::{Counter, MetricsRegistry},
    request_context::RequestContext,
    resources::signer::Signer,
    secrets::held::HeldCredentials,
};
use axum::{
    Extension, Router,
    extract::{Query, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    routing::post,
};
use prometheus_client::metrics::family::Family;
use serde::Deserialize;
use std::{
    ops::RangeInclusive,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// The route of the command socket that issues tokens.
pub(crate) const ROUTE: &str = "/debug-token";

/// The lifetimes that a token may have.
pub(crate) const LIFETIMES: RangeInclusive<Duration> = Duration::from_secs(60)..=MAX_LIFETIME;

const MAX_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// The header of a request that bears a token. It is one of its own: `Authorization` is for clients, and what carries a
/// trace context is passed on to other services.
pub(crate) const X_DEBUG_TOKEN: HeaderName = HeaderName::from_static("x-debug-token");

/// The largest token, in bytes. A longer one is refused before anything is computed.
const MAX_TOKEN: usize = 256;

/// The shortest time between two log lines about refused tokens.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// The debug tokens of one generation. They are signed with the first signing key of the service, by name.
pub(crate) struct DebugTokens {
    service: &'static str,
    /// `None` if the service has no signing key.
    signer: Option<Signer>,
    uses: Arc<DebugTokenUses>,
}

/// The uses of debug tokens, in all generations of a process.
pub(crate) struct DebugTokenUses {
    outcomes: Family<[(&'static str, &'static str); 1], Counter>,
    last_warning: Mutex<Option<Instant>>,
}

impl DebugTokens {
    pub(crate) fn new(
        service: &'static str,
        credentials: &HeldCredentials,
        max_stale: Duration,
        last_uses: &Arc<LastUses>,
        uses: &Arc<DebugTokenUses>,
    ) -> Self {
        let signer = credentials.first_of::<SigningKeys>().map(|(name, keys)| {
            // Nobody reads these requests for a reload: a client that invents the id of a key must cause none.
            let requests = Arc::default();
            Signer::new(name, keys, service, MAX_LIFETIME, max_stale, requests, last_uses.clone()).for_debug_tokens()
        });
        Self { service, signer, uses: uses.clone() }
    }

    /// Returns a new token, which expires after `lifetime`. `None` if the service has no signing key.
    pub(crate) fn issue(&self, lifetime: Duration) -> Option<String> {
        Some(self.signer.as_ref()?.seal_for(lifetime.min(MAX_LIFETIME), self.service.as_bytes()))
    }

    /// Takes the token out of a request, so that no handler sees it. Returns `true` if it is valid.
    pub(crate) fn take(&self, headers: &mut HeaderMap, context: RequestContext) -> bool {
        if !headers.contains_key(X_DEBUG_TOKEN) {
            return false;
        }
        let token = headers.remove(X_DEBUG_TOKEN);
        let is_valid = token.is_some_and(|token| self.is_valid(&token));
        self.uses.count(is_valid, context);
        is_valid
    }

    fn is_valid(&self, token: &HeaderValue) -> bool {
        let (Some(signer), Ok(token)) = (&self.signer, token.to_str()) else { return false };
        token.len() <= MAX_TOKEN && signer.open(token).is_ok_and(|service| service == self.service.as_bytes())
    }
}

impl DebugTokenUses {
    /// Registers the metric. Call it once per process.
    pub(crate) fn register(metrics: &MetricsRegistry) -> Arc<Self> {
        let outcomes = Family::default();
        let help = "Requests with a debug token, by the outcome of its verification";
        metrics.register("vestibule_debug_tokens", help, outcomes.clone());
        let uses = Self { outcomes, last_warning: Mutex::default() };
        for outcome in ["accepted", "refused"] {
            drop(uses.outcomes.get_or_create(&[("outcome", outcome)]));
        }
        Arc::new(uses)
    }

    fn count(&self, is_valid: bool, context: RequestContext) {
        let outcome = if is_valid { "accepted" } else { "refused" };
        self.outcomes.get_or_create(&[("outcome", outcome)]).inc();
        if is_valid {
            let context = RequestContext { debug: true, ..context };
            context.within(|| tracing::debug!("the request has a debug token; it is logged at debug"));
        } else if self.may_warn() {
            context.within(|| {
                tracing::warn!(
                    "a debug token is refused: it has expired, or no key of this service has signed it; its request is \
                     logged as any other"
                );
            });
        }
    }

    /// Returns `true` at most once in [`WARNING_INTERVAL`].
    fn may_warn(&self) -> bool {
        let mut last = self.last_warning.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < WARNING_INTERVAL) {
            return false;
        }
        *last = Some(Instant::now());
        true
    }
}

/// The query of [`ROUTE`].
#[derive(Deserialize)]
struct IssueQuery {
    seconds: u64,
}

/// Returns the route that issues tokens. It is for the command socket alone: the kernel says who asks there.
pub(crate) fn router<A: Application>(live: Live<A>) -> Router {
    Router::new().route(ROUTE, post(issue::<A>)).with_state(live)
}

async fn issue<A: Application>(
    State(live): State<Live<A>>,
    user: Option<Extension<CommandUser>>,
    Query(query): Query<IssueQuery>,
) -> Result<String, StatusCode> {
    if !user.is_some_and(|user| user.may_command()) {
        return Err(StatusCode::FORBIDDEN);
    }
    let lifetime = Duration::from_secs(query.seconds);
    if !LIFETIMES.contains(&lifetime) {
        return Err(StatusCode::BAD_REQUEST);
    }
    let token = live.generation().debug_tokens.issue(lifetime).ok_or(StatusCode::CONFLICT)?;
    tracing::info!(lifetime_s = query.seconds, "issued a debug token");
    Ok(token)
}

#[cfg(test)]
mod tests;
