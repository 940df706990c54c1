//! One secrets manager in several Regions. The first Region is asked, and the next one if that does not answer.

use super::{
    id::{SecretId, VersionId},
    source::{Fetched, Operation, Source, SourceError},
    version::{Stage, Versions},
};
use crate::{
    backoff::Backoff,
    caught::{caught, caught_future},
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use std::{
    borrow::Cow,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::{Arc, Mutex, Once, PoisonError},
    time::Duration,
};
use time::OffsetDateTime;
use tokio::{sync::Semaphore, time::Instant};

/// The number of secrets that are asked for at a time.
const CONCURRENCY: usize = 16;

/// The timeout of one attempt. The SDK has none.
const ATTEMPT: Duration = Duration::from_secs(5);

/// The timeout of one attempt at a Region that did not answer lately, and is therefore asked after the others.
const ATTEMPT_AT_SILENT: Duration = Duration::from_secs(1);

/// The time that the manager has to take back what it gave to this process.
const CLOSE: Duration = Duration::from_secs(2);

/// The time for which a Region that did not answer is asked after the others.
const SILENT_FOR: Duration = Duration::from_secs(30);

const NO_VALUE: &str = "no such secret, or it has no value yet";

/// The Regions of a secrets manager, in the order in which they are asked.
pub(crate) struct Regions {
    regions: Vec<Region>,
    /// A place for each secret that is asked for. A pause between attempts takes none.
    places: Semaphore,
    /// Done once it is logged that a start waits for access.
    wait_logged: Once,
    /// Done once it is logged that a start waits for an answer.
    silence_logged: Once,
}

struct Region {
    name: String,
    /// The Region that the others are replicas of.
    is_first: bool,
    source: Arc<dyn Source>,
    /// The time at which it last did not answer.
    silent_since: Mutex<Option<Instant>>,
}

/// A secret that is asked for.
pub(crate) struct SecretQuery<'a> {
    pub(crate) id: &'a SecretId,
    /// `true` if the secret is held, at any stage, and may stay as held.
    pub(crate) may_stay: bool,
    /// The time at which the manager got the version in use.
    pub(crate) since: Option<OffsetDateTime>,
    /// `true` if a denial is no final answer: the secret is asked for again until the deadline.
    pub(crate) waits_for_access: bool,
    pub(crate) deadline: Instant,
}

/// An answer of one Region.
enum RegionAnswer<T> {
    Final(T),
    /// The first Region may know better. Used only if the first Region does not answer.
    Tentative(T),
}

/// The result of asking each Region once.
enum Round<T> {
    Done(Result<T, SourceError>),
    /// No Region gave an answer that can be used. The error is the one to report; there is none if no Region was asked.
    Failed(Option<SourceError>),
}

impl Regions {
    /// Makes the Regions of a manager. The first source is the Region that the others are replicas of.
    pub(crate) fn new(sources: impl IntoIterator<Item = (String, Arc<dyn Source>)>) -> Self {
        let mut regions = Vec::new();
        for (name, source) in sources {
            regions.push(Region { name, is_first: regions.is_empty(), source, silent_since: Mutex::default() });
        }
        Self { regions, places: Semaphore::new(CONCURRENCY), wait_logged: Once::new(), silence_logged: Once::new() }
    }

    /// Makes the only Region of a manager.
    pub(crate) fn of(source: Arc<dyn Source>) -> Self {
        Self::new([(String::new(), source)])
    }

    /// Fetches the version of a secret at one stage. `held` is the version that is held at that stage.
    ///
    /// Another Region than the first may lag behind it. An answer that may only be due to that lag is used only if the
    /// first Region does not answer. A version older than `query.since` is not used even then.
    pub(crate) async fn fetch(
        &self,
        query: &SecretQuery<'_>,
        stage: Stage,
        held: Option<&VersionId>,
    ) -> Result<Fetched, SourceError> {
        self.ask(query, || self.in_order(), |region| Box::pin(region.fetch(query, stage, held))).await
    }

    /// Returns the version of a secret at each stage, the current one at least. Only the first Region knows for sure.
    pub(crate) async fn versions(&self, id: &SecretId, deadline: Instant) -> Result<Versions, SourceError> {
        let query = SecretQuery { id, may_stay: false, since: None, waits_for_access: false, deadline };
        self.ask(&query, || self.regions.iter().take(1).collect(), |region| Box::pin(region.versions(id))).await
    }

    /// Does the work for which the manager was set up, and closes the Regions, also if the work panics.
    pub(crate) async fn close_after<T>(&self, work: impl Future<Output = T>) -> T {
        // Boxed, because the compiler gives up on a future that is nested too deep.
        let ended = AssertUnwindSafe(Box::pin(work)).catch_unwind().await;
        self.close().await;
        ended.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Gives back what the manager gave to this process, in 2 s at most. Nothing is fetched after that. A source may be of a
    /// service's own: a panic of one is as no answer.
    async fn close(&self) {
        let closing = self.regions.iter().map(|region| caught_future(async { region.source.close().await }));
        let closed = tokio::time::timeout(CLOSE, join_all(closing)).await;
        if !closed.is_ok_and(|all| all.iter().all(Option::is_some)) {
            tracing::warn!("could not give back to the manager what it gave to this process; it ends by itself");
        }
    }

    /// Returns `true` if the manager makes a credential at each read of `id`.
    pub(crate) fn is_made_at_each_read(&self, id: &SecretId) -> bool {
        self.first_source().is_made_at_each_read(id)
    }

    /// Returns the time at which the token of this process at the manager ends, if it has one that ends. `None` too if
    /// the source panics: the status is no reason to end the reload actor.
    pub(crate) fn token_end(&self) -> Option<OffsetDateTime> {
        caught(|| self.first_source().token_end()).flatten()
    }

    /// Returns `true` if the last log-in of this process at the manager failed. `None` if it does not log in, and if the
    /// source panics.
    pub(crate) fn login_failed(&self) -> Option<bool> {
        caught(|| self.first_source().login_failed()).flatten()
    }

    /// Returns the manager's own word for a stage.
    pub(crate) fn stage_label(&self, stage: Stage) -> &'static str {
        self.first_source().stage_label(stage)
    }

    /// Returns what somebody can do about an error of an operation on `id`.
    pub(crate) fn remedy(&self, id: &SecretId, error: &SourceError, operation: Operation) -> Cow<'static, str> {
        self.first_source().remedy(id, error, operation)
    }

    fn first_source(&self) -> &dyn Source {
        &*self.regions.first().expect("a manager has one Region at least").source
    }

    /// Asks until an answer can be used or the deadline is near: each Region once, then all again after a pause.
    async fn ask<'a, T>(
        &'a self,
        query: &SecretQuery<'_>,
        order: impl Fn() -> Vec<&'a Region>,
        attempt: impl Fn(&'a Region) -> BoxFuture<'a, Result<RegionAnswer<T>, SourceError>>,
    ) -> Result<T, SourceError> {
        let mut backoff = Backoff::until(query.deadline);
        let mut earlier: Option<SourceError> = None;
        loop {
            let round = match tokio::time::timeout_at(query.deadline, self.places.acquire()).await {
                Ok(_place) => ask_each(query.id, query.deadline, &order(), &attempt).await,
                Err(_) => Round::Failed(None),
            };
            let error = match round {
                Round::Done(Err(denial)) if query.waits_for_access && denial.is_denial() => {
                    self.log_wait(query.id, &denial);
                    denial
                }
                Round::Done(result) => return result,
                Round::Failed(Some(error)) => {
                    if query.waits_for_access {
                        self.log_silence(&error);
                    }
                    error
                }
                Round::Failed(None) => SourceError::Unanswered("there was no time to ask".into()),
            };
            // Silence says least. But a manager that denied access and then gets silent may be down, and a restart helps then:
            // a denial stays only if the deadline cut the next attempt off.
            let is_silence = matches!(error, SourceError::Unanswered(_));
            let was_cut_off = Instant::now() >= query.deadline;
            let error = match earlier {
                Some(earlier) if is_silence && (was_cut_off || earlier.is_transient()) => earlier,
                _ => error,
            };
            if !backoff.wait().await {
                return Err(error);
            }
            earlier = Some(error);
        }
    }

    /// Logs that a start waits for access. Logs it once: the report has the denial of each secret.
    fn log_wait(&self, id: &SecretId, denial: &SourceError) {
        self.wait_logged.call_once(|| {
            tracing::warn!(
                secret.id = %id,
                error = %denial,
                "access is denied; identities and policies may still propagate, so this start tries until \
                 secrets.deadline"
            );
        });
    }

    /// Logs that a start waits for an answer. Logs it once, as a wait for access.
    fn log_silence(&self, error: &SourceError) {
        self.silence_logged.call_once(|| {
            tracing::warn!(%error, "a secret could not be fetched; this start tries until secrets.deadline");
        });
    }

    /// Returns the Regions as configured, but those that did not answer lately come last.
    fn in_order(&self) -> Vec<&Region> {
        let mut order: Vec<_> = self.regions.iter().collect();
        order.sort_by_key(|region| region.is_silent());
        order
    }
}

/// Asks each Region once, until an answer can be used. If the first Region says no, the others are not asked. If another
/// Region says no, the next one is asked, because that Region may not have the secret.
async fn ask_each<'a, T>(
    id: &SecretId,
    deadline: Instant,
    regions: &[&'a Region],
    attempt: &impl Fn(&'a Region) -> BoxFuture<'a, Result<RegionAnswer<T>, SourceError>>,
) -> Round<T> {
    let mut tentative = None;
    let mut to_report: Option<SourceError> = None;
    for (asked, region) in regions.iter().enumerate() {
        let others = regions.len() - asked - 1;
        // A Region that swallows requests must leave time for the next one.
        let share = deadline.saturating_duration_since(Instant::now()) / (others as u32 + 1);
        if share.is_zero() {
            break;
        }
        let timeout = if asked > 0 && region.is_silent() { ATTEMPT_AT_SILENT } else { ATTEMPT };
        let result = match tokio::time::timeout(share.min(timeout), attempt(region)).await {
            Ok(result) => result,
            Err(_) => Err(SourceError::Unanswered("no answer in time".into())),
        };
        match &result {
            Err(error) if error.is_transient() => region.did_not_answer(error, others),
            _ => region.answered(),
        }
        let error = match result {
            Ok(RegionAnswer::Final(answer)) => return Round::Done(Ok(answer)),
            Ok(RegionAnswer::Tentative(answer)) => {
                tentative = Some(answer);
                continue;
            }
            Err(error) if region.is_first && !error.is_transient() => return Round::Done(Err(error)),
            Err(error) => error,
        };
        tracing::debug!(secret.id = %id, region = region.name, %error, "an attempt failed");
        if to_report.as_ref().is_none_or(|earlier| weight(&error) > weight(earlier)) {
            to_report = Some(error);
        }
    }
    match tentative {
        Some(answer) => Round::Done(Ok(answer)),
        None => Round::Failed(to_report),
    }
}

/// Returns how much an error says, if several Regions gave one. An answer says more than silence: the last attempt may just
/// have had no time. A "no" says least: that Region may not have the secret.
fn weight(error: &SourceError) -> u8 {
    match error {
        SourceError::Unanswered(_) => 1,
        error if error.is_transient() => 2,
        _ => 0,
    }
}

impl Region {
    async fn fetch(
        &self,
        query: &SecretQuery<'_>,
        stage: Stage,
        held: Option<&VersionId>,
    ) -> Result<RegionAnswer<Fetched>, SourceError> {
        let fetched = self.source.fetch(query.id, stage, held).await?;
        if stage == Stage::Current && matches!(fetched, Fetched::Absent) {
            return Err(SourceError::Missing(NO_VALUE.into()));
        }
        if self.is_first {
            return Ok(RegionAnswer::Final(fetched));
        }
        match fetched {
            // The version that is held may be gone, or this Region has not heard of it yet. Keeping it is safe in both cases.
            Fetched::Absent if held.is_some() => Ok(RegionAnswer::Final(Fetched::Same)),
            // The secret is new, or must be replaced. The first Region may have a version that is not here yet.
            Fetched::Absent if !query.may_stay => Ok(RegionAnswer::Tentative(Fetched::Absent)),
            // The version that is held is newer, so this Region lags behind. As an error, because the next Region is asked
            // after an error.
            Fetched::New(value) if stage == Stage::Current && value.older_than(query.since) => {
                Err(SourceError::Missing("this Region has an older version than the one held".into()))
            }
            Fetched::Same | Fetched::New(_) | Fetched::Absent => Ok(RegionAnswer::Final(fetched)),
        }
    }

    async fn versions(&self, id: &SecretId) -> Result<RegionAnswer<Versions>, SourceError> {
        let versions = self.source.versions(id).await?;
        if versions.contains_key(&Stage::Current) {
            Ok(RegionAnswer::Final(versions))
        } else {
            Err(SourceError::Missing(NO_VALUE.into()))
        }
    }

    fn is_silent(&self) -> bool {
        let silent_since = *self.silent_since.lock().unwrap_or_else(PoisonError::into_inner);
        silent_since.is_some_and(|at| at.elapsed() < SILENT_FOR)
    }

    fn answered(&self) {
        *self.silent_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Records that the Region did not answer. Logs it the first time, if there are other Regions to ask.
    fn did_not_answer(&self, error: &SourceError, others: usize) {
        let before = self.silent_since.lock().unwrap_or_else(PoisonError::into_inner).replace(Instant::now());
        if before.is_none() && others > 0 {
            tracing::warn!(
                cloud.region = self.name,
                %error,
                "the secrets manager of a Region does not answer; asking the next one"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryManager;
    use futures_util::future::join_all;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A source that records that it was closed, and panics if it is asked for its token.
    #[derive(Default)]
    struct ClosedSource {
        is_closed: AtomicBool,
        panics_then: bool,
    }

    impl Source for ClosedSource {
        fn fetch<'a>(
            &'a self,
            _: &'a SecretId,
            _: Stage,
            _: Option<&'a VersionId>,
        ) -> BoxFuture<'a, Result<Fetched, SourceError>> {
            Box::pin(async { Ok(Fetched::Absent) })
        }

        fn versions<'a>(&'a self, _: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
            Box::pin(async { Ok(Versions::new()) })
        }

        fn close(&self) -> BoxFuture<'_, ()> {
            self.is_closed.store(true, Ordering::SeqCst);
            assert!(!self.panics_then, "as scripted");
            Box::pin(async {})
        }

        fn token_end(&self) -> Option<OffsetDateTime> {
            panic!("as scripted")
        }

        fn login_failed(&self) -> Option<bool> {
            panic!("as scripted")
        }
    }

    #[test]
    fn a_panic_of_the_source_does_not_end_whoever_asks_for_the_status() {
        let regions = Regions::of(Arc::new(ClosedSource::default()));
        assert_eq!((regions.token_end(), regions.login_failed()), (None, None));
    }

    #[tokio::test]
    async fn a_manager_gets_back_what_it_gave_also_if_the_work_panics() {
        let source = Arc::new(ClosedSource::default());
        let regions = Regions::of(source.clone());
        let work = AssertUnwindSafe(regions.close_after(async { panic!("a bug of the service") }));
        let panic = work.catch_unwind().await.unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"a bug of the service"), "it goes on");
        assert!(source.is_closed.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn a_panic_of_a_source_that_is_closed_ends_neither_the_stop_nor_the_others() {
        let panicking = Arc::new(ClosedSource { panics_then: true, ..ClosedSource::default() });
        let sources = [panicking, Arc::new(ClosedSource::default())];
        let regions = Regions::new(sources.clone().map(|source| (String::new(), source as Arc<dyn Source>)));
        assert_eq!(regions.close_after(async { "stopped" }).await, "stopped");
        assert!(sources.iter().all(|source| source.is_closed.load(Ordering::SeqCst)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_of_a_region_that_answers_is_reported_and_not_the_silence_of_another() {
        let overloaded = SourceError::Unavailable("overloaded".into());
        let (answering, silent) = (MemoryManager::new(), MemoryManager::new());
        answering.fail_next("test/key", usize::MAX, overloaded.clone());
        silent.delay(Duration::from_secs(60));
        let named = |name: &str, manager: Arc<MemoryManager>| (name.to_owned(), manager as Arc<dyn Source>);
        let regions = Regions::new([named("first", answering), named("second", silent)]);
        let id = SecretId::parse("test/key").unwrap();
        let deadline = Instant::now() + Duration::from_secs(8);
        let query = SecretQuery { id: &id, may_stay: false, since: None, waits_for_access: false, deadline };
        let mut order: Vec<_> = regions.regions.iter().collect();
        for _ in 0..2 {
            let round =
                ask_each(&id, deadline, &order, &|region| Box::pin(region.fetch(&query, Stage::Current, None))).await;
            let Round::Failed(error) = round else { panic!("no Region gives the secret") };
            assert_eq!(error.as_ref(), Some(&overloaded));
            order.reverse();
        }
    }

    /// Returns the error of a start with this much time. The manager gives it an error, and then no more answers.
    async fn error_of_start(first: &SourceError, time: Duration) -> SourceError {
        let manager = MemoryManager::new();
        manager.fail_next("test/key", 1, first.clone());
        let regions = Regions::of(manager.clone());
        let id = SecretId::parse("test/key").unwrap();
        let deadline = Instant::now() + time;
        let query = SecretQuery { id: &id, may_stay: false, since: None, waits_for_access: true, deadline };
        let fetching = regions.fetch(&query, Stage::Current, None);
        let hanging = async {
            manager.delay(Duration::from_secs(60));
        };
        let (fetched, ()) = tokio::join!(fetching, hanging);
        fetched.err().expect("the manager is silent")
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_is_reported_also_if_all_later_attempts_got_no_answer() {
        let overloaded = SourceError::Unavailable("overloaded".into());
        assert_eq!(error_of_start(&overloaded, Duration::from_secs(20)).await, overloaded);
    }

    #[tokio::test(start_paused = true)]
    async fn a_denial_is_reported_if_the_next_attempt_had_no_time_and_not_after_a_long_silence() {
        for denial in [SourceError::Denied("d".into()), SourceError::NoIdentity("n".into())] {
            assert_eq!(error_of_start(&denial, Duration::from_secs(1)).await, denial);
            let error = error_of_start(&denial, Duration::from_secs(20)).await;
            assert_eq!(error.exit() as u8, 75, "{error}");
        }
    }

    #[tokio::test]
    async fn a_region_that_answers_until_the_deadline_is_never_called_silent() {
        let overloaded = SourceError::Unavailable("overloaded".into());
        let manager = MemoryManager::new();
        manager.fail_next("test/key", usize::MAX, overloaded.clone());
        manager.delay(Duration::from_millis(100));
        let regions = Regions::of(manager);
        let id = SecretId::parse("test/key").unwrap();
        let deadline = Instant::now() + Duration::from_secs(2);
        let query = SecretQuery { id: &id, may_stay: false, since: None, waits_for_access: false, deadline };
        for fetched in join_all((0..64).map(|_| regions.fetch(&query, Stage::Current, None))).await {
            assert_eq!(fetched.err().as_ref(), Some(&overloaded));
        }
    }
}
