//! Fetching: all credentials concurrently, compared with what is held. [`Regions`] retries until the deadline.

use super::{
    credential::{Name, subject},
    held::{HeldCredential, HeldCredentials},
    id::{SecretId, VersionId},
    regions::{Regions, SecretQuery},
    source::{Fetched, Operation, SourceError},
    spec::CredentialSpec,
    version::{SecretValue, SecretValues, Stage, Versions},
};
use crate::{
    exit::{Exit, Fault},
    loader::WAIT_FOR_OTHERS,
    moment::Moment,
};
use futures_util::future::{BoxFuture, join_all, try_join_all};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The pause before the current version is read for the second time, if the first answer was an older or a revoked one.
const SECOND_READ: Duration = Duration::from_secs(1);

/// The values that the fetches of one load share.
pub(crate) struct FetchContext<'a> {
    pub(crate) regions: &'a Regions,
    /// `secrets.revoked`: versions that are never used.
    pub(crate) revoked: &'a BTreeSet<VersionId>,
    /// The credentials of the generation in service.
    pub(crate) held: &'a HeldCredentials,
    /// The credentials whose version in use is rejected or revoked. They are read again even if their version is
    /// unchanged.
    pub(crate) doubted: BTreeSet<Name>,
    /// The credentials that the manager made for a load which failed.
    pub(crate) candidates: HeldCredentials,
    /// Those that it made before and that could not be used.
    pub(crate) unusable: BTreeMap<(Name, SecretId), UnusableValue>,
    /// `server.drain`: a lease must last for longer than that.
    pub(crate) drain: Duration,
    /// The deadline of the other credentials, if one is doubted. The others can stay as held.
    pub(crate) deadline_of_others: Instant,
    pub(crate) deadline: Instant,
    /// `true` if nothing is in service yet. Then a denial is no final answer: identities and policies propagate.
    pub(crate) is_start: bool,
}

impl<'a> FetchContext<'a> {
    /// Makes the context of a first load: `nothing` is held.
    pub(crate) fn of_first_load(
        regions: &'a Regions,
        revoked: &'a BTreeSet<VersionId>,
        nothing: &'a HeldCredentials,
        drain: Duration,
        deadline: Instant,
    ) -> Self {
        Self {
            regions,
            revoked,
            held: nothing,
            doubted: BTreeSet::new(),
            candidates: HeldCredentials::default(),
            unusable: BTreeMap::new(),
            drain,
            deadline_of_others: deadline,
            deadline,
            is_start: true,
        }
    }
}

impl FetchContext<'_> {
    /// Returns `true` if a credential that is held from this id is doubted.
    pub(crate) fn is_doubted(&self, id: &SecretId) -> bool {
        self.doubted.iter().any(|name| self.held.get(name, id).is_some())
    }

    fn is_revoked(&self, value: &SecretValue) -> bool {
        self.revoked.contains(&value.version)
    }

    /// Returns what the manager made before for a credential that it makes at each read, if that can still be used. The
    /// renewal of its lease has verified it.
    fn made_before(&self, name: Name, id: &SecretId, may_stay: bool) -> Option<FetchOutcome> {
        if !self.regions.is_made_at_each_read(id) {
            return None;
        }
        if may_stay {
            return Some(FetchOutcome::Same);
        }
        if let Some(candidate) = self.candidates.get(name, id)
            && candidate.lease.as_ref().is_some_and(|lease| !lease.is_due(self.drain))
            && !candidate.has_any(self.revoked)
        {
            return Some(FetchOutcome::Candidate(candidate.clone()));
        }
        match self.unusable.get(&(name, id.clone()))? {
            UnusableValue::Malformed(fault) => Some(FetchOutcome::Failed(fault.clone())),
            UnusableValue::TooEarly(values) => {
                let current = values.current();
                let lasts = current.lease.as_ref().is_some_and(|lease| !lease.is_due(self.drain));
                if lasts && !self.is_revoked(current) { Some(FetchOutcome::New(values.clone())) } else { None }
            }
        }
    }
}

/// A value that the manager made for a load before, and that could not be used.
#[derive(Clone)]
pub(crate) enum UnusableValue {
    /// No other one is made yet.
    Malformed(Fault),
    /// It is not valid yet by this machine's clock. Another one would not be valid earlier.
    TooEarly(Arc<SecretValues>),
}

/// The result of fetching one credential.
pub(crate) enum FetchOutcome {
    /// Every stage is as held.
    Same,
    New(Arc<SecretValues>),
    /// The manager made it for a load before, which failed.
    Candidate(HeldCredential),
    Failed(Fault),
}

/// The place where the manager has a version that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ManagerStage {
    /// At this stage, so it may be used.
    At(Stage),
    /// At no stage from which it may be used: another version is current.
    Unlabelled,
}

impl FetchOutcome {
    /// Returns `true` if it has another version at the current stage than the one in use.
    fn is_other_than(&self, held: Option<&HeldCredential>) -> bool {
        match self {
            Self::New(values) => held.is_some_and(|held| *held.in_use() != values.current().version),
            Self::Candidate(_) => true,
            Self::Same | Self::Failed(_) => false,
        }
    }

    /// Returns where the manager has the version in use now. Returns `None` if the manager did not say.
    pub(crate) fn seen(&self, held: &HeldCredential) -> Option<ManagerStage> {
        match self {
            Self::Same => Some(ManagerStage::At(held.stage)),
            Self::New(values) => {
                for stage in [Stage::Current, Stage::Pending] {
                    if values.at(stage).is_some_and(|value| value.version == *held.in_use()) {
                        return Some(ManagerStage::At(stage));
                    }
                }
                Some(ManagerStage::Unlabelled)
            }
            Self::Candidate(_) => Some(ManagerStage::Unlabelled),
            Self::Failed(_) => None,
        }
    }
}

/// Fetches all these credentials, concurrently. None waits for another one that is denied or unavailable. As soon as
/// the successor of a credential that is doubted is there, all others have 2 s more, doubted or not.
pub(crate) async fn all(
    context: &FetchContext<'_>,
    specs: &[(CredentialSpec, SecretId)],
) -> Vec<(CredentialSpec, SecretId, FetchOutcome)> {
    let has_successor = CancellationToken::new();
    let fetches: Vec<BoxFuture<'_, _>> =
        specs.iter().map(|(spec, id)| Box::pin(fetch_unless_late(context, spec, id, &has_successor)) as _).collect();
    join_all(fetches).await
}

/// Fetches a credential. Gives up 2 s after the successor of another one is there.
async fn fetch_unless_late(
    context: &FetchContext<'_>,
    spec: &CredentialSpec,
    id: &SecretId,
    has_successor: &CancellationToken,
) -> (CredentialSpec, SecretId, FetchOutcome) {
    let started = Instant::now();
    let late = async {
        has_successor.cancelled().await;
        tokio::time::sleep(WAIT_FOR_OTHERS).await;
    };
    tokio::select! {
        biased;
        fetched = fetch_credential(context, spec, id) => {
            let (_, _, outcome) = &fetched;
            if context.doubted.contains(spec.name) && outcome.is_other_than(context.held.get(spec.name, id)) {
                has_successor.cancel();
            }
            fetched
        }
        () = late => {
            let problem = "the new version of another credential came first, and waited for 2 s";
            let error = SourceError::Unanswered(problem.into());
            (*spec, id.clone(), FetchOutcome::Failed(fault(context, spec, id, &error.into(), started.elapsed())))
        }
    }
}

/// Fetches the pending version of a secret. Returns `None` if there is none that can be read until the deadline.
pub(crate) async fn pending(context: &FetchContext<'_>, id: &SecretId, deadline: Instant) -> Option<SecretValue> {
    // Does not wait for access: the current version may be accepted before that.
    let query = SecretQuery { id, may_stay: false, since: None, waits_for_access: false, deadline };
    match fetch_stage(context, &query, Stage::Pending, None).await {
        Ok(Fetched::New(value)) => Some(value),
        _ => None,
    }
}

async fn fetch_credential(
    context: &FetchContext<'_>,
    spec: &CredentialSpec,
    id: &SecretId,
) -> (CredentialSpec, SecretId, FetchOutcome) {
    let held = context.held.get(spec.name, id);
    let may_stay = held.is_some() && !context.doubted.contains(spec.name);
    let another_is_doubted = may_stay && !context.doubted.is_empty();
    let query = SecretQuery {
        id,
        may_stay,
        since: held.and_then(|held| held.created),
        waits_for_access: context.is_start,
        deadline: if another_is_doubted { context.deadline.min(context.deadline_of_others) } else { context.deadline },
    };
    let started = Instant::now();
    let outcome = match context.made_before(spec.name, id, may_stay) {
        Some(outcome) => outcome,
        None => match compare_with_held(context, &query, spec, held).await {
            Ok(outcome) => outcome,
            Err(error) => FetchOutcome::Failed(fault(context, spec, id, &error, started.elapsed())),
        },
    };
    (*spec, id.clone(), outcome)
}

/// Fetches every stage that the credential is made of, and the stage from which it is held. Returns the values if a stage
/// is not as held.
async fn compare_with_held(
    context: &FetchContext<'_>,
    query: &SecretQuery<'_>,
    spec: &CredentialSpec,
    held: Option<&HeldCredential>,
) -> Result<FetchOutcome, FetchError> {
    let mut stages: BTreeSet<Stage> = spec.stages.iter().copied().collect();
    stages.extend(held.map(|held| held.stage));
    let unknown = Versions::new();
    let known = match held {
        Some(held) if query.may_stay => &held.fetched,
        // A credential that is doubted is read again even if its version is unchanged.
        _ => &unknown,
    };
    let answers = fetch_stages(context, query, stages, known).await?;
    if query.may_stay && answers.iter().all(|(stage, answer)| is_as_held(*stage, answer, known)) {
        return Ok(FetchOutcome::Same);
    }
    let mut values = read_values(context, query, answers).await?;
    if let Some(held) = held
        && is_in_use_lost(context, held, &values)
        && Instant::now() + SECOND_READ < query.deadline
    {
        tokio::time::sleep(SECOND_READ).await;
        if let Fetched::New(previous) = fetch_stage(context, query, Stage::Previous, None).await? {
            values.insert(Stage::Previous, previous);
        }
    }
    let Some(current) = values.remove(&Stage::Current) else {
        return Err(SourceError::Unavailable("it did not say which version is current".into()).into());
    };
    if context.is_revoked(&current) {
        return Err(FetchError::Revoked(current.version));
    }
    let current_since = match held {
        Some(held) if *held.in_use() == current.version => held.current_since,
        // This process sees the current version replace another one.
        Some(_) => Some(Moment::now()),
        None => None,
    };
    Ok(FetchOutcome::New(Arc::new(SecretValues::new(current, values, current_since))))
}

/// Fetches these stages, all at the same time. `known` has the versions that need not be read again. If the current
/// version is older than the one held, or revoked, reads it for the second time.
async fn fetch_stages(
    context: &FetchContext<'_>,
    query: &SecretQuery<'_>,
    stages: BTreeSet<Stage>,
    known: &Versions,
) -> Result<BTreeMap<Stage, Fetched>, FetchError> {
    let fetches = stages.into_iter().map(async |stage| {
        let answer = fetch_stage(context, query, stage, known.get(&stage)).await?;
        Ok::<_, FetchError>((stage, answer))
    });
    let mut answers: BTreeMap<Stage, Fetched> = try_join_all(fetches).await?.into_iter().collect();
    if let Fetched::New(current) = &answers[&Stage::Current]
        && (current.older_than(query.since) || context.is_revoked(current))
    {
        let second = second_read(context, query, known.get(&Stage::Current)).await?;
        answers.insert(Stage::Current, second);
    }
    Ok(answers)
}

/// Returns `true` if a credential that keeps its previous version gets another one in place of the version in use. A read
/// may not see the last write: then the version in use is the previous one now, and the read of that still had the one before.
fn is_in_use_lost(context: &FetchContext<'_>, held: &HeldCredential, values: &BTreeMap<Stage, SecretValue>) -> bool {
    values.contains_key(&Stage::Previous)
        && !context.revoked.contains(held.in_use())
        && values.values().all(|value| value.version != *held.in_use())
}

/// Reads the current version for the second time. AWS does not promise that a read sees the last write: an older version
/// is no rollback, and a revoked one is not current, until both reads say so.
async fn second_read(
    context: &FetchContext<'_>,
    query: &SecretQuery<'_>,
    known: Option<&VersionId>,
) -> Result<Fetched, FetchError> {
    if Instant::now() + SECOND_READ >= query.deadline {
        let problem = "its first answer was an old or a revoked version, and there was no time to ask again";
        return Err(SourceError::Unanswered(problem.into()).into());
    }
    tokio::time::sleep(SECOND_READ).await;
    fetch_stage(context, query, Stage::Current, known).await
}

/// Returns the value at each stage that has one. A credential is read from all of its stages if one of them moved, so this
/// reads the values of unchanged stages too.
async fn read_values(
    context: &FetchContext<'_>,
    query: &SecretQuery<'_>,
    answers: BTreeMap<Stage, Fetched>,
) -> Result<BTreeMap<Stage, SecretValue>, FetchError> {
    let mut values = BTreeMap::new();
    for (stage, answer) in answers {
        let answer_with_value = match answer {
            Fetched::Same => fetch_stage(context, query, stage, None).await?,
            Fetched::New(_) | Fetched::Absent => answer,
        };
        if let Fetched::New(value) = answer_with_value {
            values.insert(stage, value);
        }
    }
    Ok(values)
}

/// Returns `true` if a stage is as it is held.
fn is_as_held(stage: Stage, answer: &Fetched, known: &Versions) -> bool {
    match answer {
        Fetched::Same => true,
        Fetched::New(_) => false,
        Fetched::Absent => stage != Stage::Current && !known.contains_key(&stage),
    }
}

/// Fetches one stage. At another stage than the current one, a version that cannot be used is treated as absent: a rotation
/// that failed leaves a pending version without a value, and a revoked version is used at no stage.
async fn fetch_stage(
    context: &FetchContext<'_>,
    query: &SecretQuery<'_>,
    stage: Stage,
    known: Option<&VersionId>,
) -> Result<Fetched, FetchError> {
    let answer = context.regions.fetch(query, stage, known).await;
    if stage == Stage::Current {
        return Ok(answer?);
    }
    match answer {
        Ok(Fetched::New(value)) if context.is_revoked(&value) => Ok(Fetched::Absent),
        Err(SourceError::Malformed(_) | SourceError::Missing(_)) => Ok(Fetched::Absent),
        other => Ok(other?),
    }
}

/// A credential that could not be fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("the version that is current, {0}, is revoked: secrets.revoked names it")]
    Revoked(VersionId),
}

/// Returns the fault of a credential in service whose lease could not be renewed.
pub(crate) fn unrenewed(context: &FetchContext<'_>, name: Name, id: &SecretId, error: &SourceError) -> Fault {
    let remedy = context.regions.remedy(id, error, Operation::RenewLease);
    Fault::new(error.exit(), subject(name, id), format!("its lease could not be renewed: {error}"), remedy)
}

/// Returns the fault of a credential that could not be fetched in this time.
fn fault(
    context: &FetchContext<'_>,
    spec: &CredentialSpec,
    id: &SecretId,
    error: &FetchError,
    tried_for: Duration,
) -> Fault {
    let subject = subject(spec.name, id);
    let source_error = match error {
        FetchError::Source(source_error) => source_error,
        FetchError::Revoked(_) => {
            let remedy =
                "rotate first: put a new version at the manager and reload; or take the version out of the list";
            return Fault::new(Exit::Malformed, subject, error.to_string(), remedy);
        }
    };
    let mut remedy = context.regions.remedy(id, source_error, Operation::ReadValue);
    if matches!(source_error, SourceError::Missing(_)) {
        remedy = format!("{remedy}: [secrets.ids] {} = \"…\"", spec.name).into();
    }
    let mut problem = error.to_string();
    if context.is_start && source_error.is_denial() {
        problem = format!("{problem}; tried for {} s", tried_for.as_secs());
    }
    Fault::new(source_error.exit(), subject, problem, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::source::Source;
    use tokio::sync::Notify;

    /// A source that denies access to every secret, and tells when it is asked for the last one.
    struct Denies {
        last: SecretId,
        asked_for_last: Arc<Notify>,
    }

    impl Source for Denies {
        fn fetch<'a>(
            &'a self,
            id: &'a SecretId,
            _: Stage,
            _: Option<&'a VersionId>,
        ) -> BoxFuture<'a, Result<Fetched, SourceError>> {
            if *id == self.last {
                self.asked_for_last.notify_one();
            }
            Box::pin(async { Err(SourceError::Denied("as scripted".into())) })
        }

        fn versions<'a>(&'a self, _: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
            Box::pin(async { Ok(Versions::new()) })
        }
    }

    #[tokio::test]
    async fn a_start_asks_for_every_secret_even_if_many_are_denied() {
        let id = |number: usize| SecretId::parse(&format!("test/{number}")).unwrap();
        let asked_for_last = Arc::new(Notify::new());
        let source = Denies { last: id(99), asked_for_last: asked_for_last.clone() };
        let deadline = Instant::now() + Duration::from_secs(60);
        let regions = Regions::new([(String::new(), Arc::new(source) as Arc<dyn Source>)]);
        let (nothing, none_revoked) = (HeldCredentials::default(), BTreeSet::new());
        let context = FetchContext::of_first_load(&regions, &none_revoked, &nothing, Duration::ZERO, deadline);
        let spec = CredentialSpec { name: "key", kind: "key", stages: &[Stage::Current], optional: false };
        let specs: Vec<_> = (0..100).map(|number| (spec, id(number))).collect();
        tokio::select! {
            _ = all(&context, &specs) => panic!("a denial is tried again until the deadline"),
            () = asked_for_last.notified() => (),
            () = tokio::time::sleep(Duration::from_secs(5)) => panic!("the last secret waits for those before it"),
        }
    }
}
