//! The circuit breaker of one resource: it asks before the resource tries its credential, and requests a reload when the
//! other side rejects it.

use super::{
    breaker::{Breaker, Permit, ProbeReason},
    context::LoadContext,
    rejection::{REMEDY_OF_TOKEN, Rejection},
};
use crate::{
    reload_requests::ReloadRequests,
    secrets::credential::{Credential, Name},
};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// The circuit breaker of a resource: one version of a credential at one place. Clones are the same breaker.
///
/// The resource asks [`allow`](Self::allow) before it uses the credential to log in, and reports the result. If the other
/// side rejects the version in service, the breaker logs it once, and requests a reload that looks for another version.
///
/// [`Build::circuit_breaker`](crate::Build::circuit_breaker) makes it, and
/// [`Resource::circuit_breaker`](super::Resource::circuit_breaker) shows it to the framework.
///
/// ```
/// use vestibule::{BuildError, resources::{CircuitBreaker, ProbeReason}};
///
/// async fn log_in(breaker: &CircuitBreaker, reason: ProbeReason) -> Result<(), BuildError> {
///     let attempt = breaker.allow(reason)?;
///     // An error here drops the attempt, which is inconclusive then.
///     if ask_the_other_side().await? == "who?" {
///         return Err(attempt.rejected("it does not know this login").into());
///     }
///     attempt.accepted();
///     Ok(())
/// }
/// # async fn ask_the_other_side() -> Result<&'static str, BuildError> { Ok("welcome") }
/// ```
#[derive(Clone)]
pub struct CircuitBreaker(Arc<ResourceBreaker>);

struct ResourceBreaker {
    /// The state of the version, which resources of other loads share.
    version: Arc<Breaker>,
    /// The rejection to report, without its reason.
    template: Rejection,
    reload_requests: Arc<ReloadRequests>,
    was_published: AtomicBool,
    was_retired: AtomicBool,
}

impl CircuitBreaker {
    pub(crate) fn new<K>(credential: &Credential<K>, place: &str, context: &LoadContext<'_>) -> Self {
        let origin = format!("{} {} {place}", credential.subject(), credential.version());
        let version = context.breakers.of(&origin, context.secrets.probe_every, Instant::now());
        Self::with(version, Rejection::of(credential, ""), context.reload_requests.clone())
    }

    fn with(version: Arc<Breaker>, template: Rejection, reload_requests: Arc<ReloadRequests>) -> Self {
        Self(Arc::new(ResourceBreaker {
            version,
            template,
            reload_requests,
            was_published: AtomicBool::new(false),
            was_retired: AtomicBool::new(false),
        }))
    }

    /// Allows or denies one attempt to use the version at the other side.
    ///
    /// Every attempt is allowed while the version is not rejected. After a rejection, one attempt is allowed at the end of
    /// each pause, `secrets.probe_every`; during the pause, `reason` decides.
    ///
    /// # Errors
    /// The last rejection, if the attempt is denied. Its reason says when the next try is.
    pub fn allow(&self, reason: ProbeReason) -> Result<Attempt, Rejection> {
        let permit = self.0.version.allow(reason, Instant::now())?;
        Ok(Attempt { permit, breaker: self.clone() })
    }

    /// Reports that the other side rejected the version outside of an attempt: in a session that was open, for example.
    /// Begins a pause, and requests a reload if the version is in service. Returns the rejection.
    ///
    /// People read `reason`, so it must not quote the credential.
    pub fn report_rejected(&self, reason: impl Into<String>) -> Rejection {
        let rejection = self.rejection_for(reason);
        let is_first = self.0.version.reject(rejection.clone(), Instant::now());
        self.tell(&rejection, is_first);
        rejection
    }

    /// Returns the last rejection, while the other side rejects the version.
    pub fn rejection(&self) -> Option<Rejection> {
        self.0.version.rejection()
    }

    /// Returns `true` if the generation in service uses the resource: from its publication until it is retired.
    pub fn is_in_service(&self) -> bool {
        self.was_published() && !self.0.was_retired.load(Ordering::Acquire)
    }

    pub(crate) fn was_published(&self) -> bool {
        self.0.was_published.load(Ordering::Acquire)
    }

    pub(crate) fn publish(&self) {
        self.0.was_published.store(true, Ordering::Release);
    }

    pub(crate) fn retire(&self) {
        self.0.was_retired.store(true, Ordering::Release);
    }

    pub(crate) fn credential(&self) -> Name {
        self.0.template.credential
    }

    /// Returns the time until an attempt is allowed for any reason. It is zero if the version is not rejected.
    pub(crate) fn time_to_next_probe(&self) -> Duration {
        self.0.version.time_to_next_probe(Instant::now())
    }

    fn rejection_for(&self, reason: impl Into<String>) -> Rejection {
        Rejection { reason: reason.into(), ..self.0.template.clone() }
    }

    /// Logs a rejection if it is the first one, and requests a reload. A load that meets a rejection reports it itself.
    fn tell(&self, rejection: &Rejection, is_first: bool) {
        if !self.was_published() {
            return;
        }
        // A rotation makes the other side reject the old version, so that is no news once there is a successor.
        let newly = is_first && self.is_in_service();
        if rejection.is_of_token {
            if newly {
                tracing::warn!(
                    credential = rejection.credential,
                    reason = rejection.reason,
                    remedy = REMEDY_OF_TOKEN,
                    "the database rejects the token of a log-in; trying another one after each pause"
                );
            }
            return;
        }
        if newly {
            tracing::warn!(
                credential = rejection.credential,
                credential.version = %rejection.version,
                reason = rejection.reason,
                "the other side rejects the login; asking the manager for another version"
            );
        }
        self.0.reload_requests.request_for_rejected_login(newly);
    }
}

impl fmt::Debug for CircuitBreaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rejection { credential, version, .. } = &self.0.template;
        let mut shown = f.debug_struct("CircuitBreaker");
        shown.field("credential", credential).field("version", version).finish_non_exhaustive()
    }
}

/// The permission to try a version once. Report the result: [`accepted`](Self::accepted) or [`rejected`](Self::rejected).
/// An attempt that is dropped without one is inconclusive: it takes no pause, and nothing of the operators' budget.
#[must_use = "an attempt without a result is inconclusive"]
pub struct Attempt {
    permit: Permit,
    breaker: CircuitBreaker,
}

impl Attempt {
    /// Reports that the other side accepted the version. Ends its rejection, unless the version was rejected after this
    /// attempt began: two back ends may disagree.
    pub fn accepted(self) {
        self.permit.accepted();
    }

    /// Reports that the other side rejected the version. Begins a pause, and requests a reload if the version is in
    /// service. Returns the rejection.
    ///
    /// People read `reason`, so it must not quote the credential.
    pub fn rejected(self, reason: impl Into<String>) -> Rejection {
        let rejection = self.breaker.rejection_for(reason);
        let is_first = self.permit.rejected(rejection.clone(), Instant::now());
        self.breaker.tell(&rejection, is_first);
        rejection
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Attempt").field(&self.breaker).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{reload_requests::ReloadRequest, secrets::id::VersionId};
    use futures_util::FutureExt;

    fn breaker() -> CircuitBreaker {
        let template = Rejection {
            credential: "c",
            subject: "s".into(),
            version: VersionId::new("v"),
            reason: String::new(),
            is_of_token: false,
        };
        CircuitBreaker::with(Arc::default(), template, Arc::default())
    }

    /// Returns what the reload actor would get now: `Some(true)` for a version that was accepted until now.
    fn requested(breaker: &CircuitBreaker) -> Option<bool> {
        match breaker.0.reload_requests.next().now_or_never()? {
            ReloadRequest::RejectedLogin { newly } => Some(newly),
            _ => None,
        }
    }

    #[tokio::test]
    async fn a_rejection_requests_a_reload_only_after_the_publication() {
        let breaker = breaker();
        breaker.report_rejected("while it was built");
        assert_eq!(requested(&breaker), None, "the load reports it");
        breaker.allow(ProbeReason::Operator).expect("the budget is whole").accepted();
        breaker.publish();
        assert_eq!(breaker.report_rejected("bye").reason, "bye");
        assert_eq!(requested(&breaker), Some(true));
        assert!(breaker.allow(ProbeReason::Scheduled).is_err(), "the pause has begun");
    }

    #[tokio::test]
    async fn a_rejection_is_news_once_and_not_after_the_retirement() {
        let (again, retired) = (breaker(), breaker());
        again.publish();
        again.report_rejected("first");
        again.allow(ProbeReason::Operator).expect("the budget is whole").rejected("second");
        assert_eq!(requested(&again), Some(true), "both are one request");
        again.report_rejected("third");
        tokio::time::timeout(Duration::from_secs(5), async {
            let next = again.0.reload_requests.next().await;
            assert!(matches!(next, ReloadRequest::RejectedLogin { newly: false }));
        })
        .await
        .expect("a request a second later");
        retired.publish();
        retired.retire();
        retired.report_rejected("as expected");
        assert_eq!(requested(&retired), Some(false));
    }
}
