//! The loader: one attempt to get from a configuration to a generation. A start and a reload run the same function.
//!
//! ```text
//! configuration ─► fetch ─► resolve ─► (nothing new? stop) ─► build and prove ─► generation
//!                              ▲                                    │
//!                              └── the pending version, if the current one is rejected
//! ```

use crate::{
    application::{Application, Build, Generation},
    backoff::Backoff,
    config::Config,
    credentials::all_secrets::AllSecrets,
    exit::{Exit, Fault, Phase, Report},
    http::{self, tls::Tls},
    metrics::MetricsRegistry,
    reload_requests::ReloadRequests,
    resources::{
        breaker::{Breakers, ProbeReason},
        build_error::BuildError,
        context::LoadContext,
    },
    secrets::{
        credential::Name,
        fetch::{self, FetchContext, FetchOutcome, ManagerStage},
        held::HeldCredentials,
        id::SecretId,
        regions::Regions,
        resolver::Resolver,
        set::{self, Resolved, SecretSet},
        source::Source,
        spec::CredentialSpec,
    },
};
use futures_util::FutureExt;
use std::{
    collections::{BTreeMap, BTreeSet},
    marker::PhantomData,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Semaphore, time::Instant};

/// The time that `build` may run past the deadline. The steps that it takes through its context end by the deadline, and
/// their errors say more than a timeout does.
const BUILD_GRACE: Duration = Duration::from_millis(250);

/// The time that a load which replaces a rejected credential waits for the other ones. They can stay as held, and requests
/// wait for this load.
const WAIT_FOR_OTHERS: Duration = Duration::from_secs(2);

/// The parts that all loads of a process share.
pub(crate) struct Loader<A> {
    regions: Regions,
    pub(crate) reload_requests: Arc<ReloadRequests>,
    pub(crate) metrics: Arc<MetricsRegistry>,
    breakers: Breakers,
    application: PhantomData<fn() -> A>,
}

/// A request for one load.
pub(crate) struct LoadRequest<'a, A: Application> {
    pub(crate) config: Arc<Config<A::Settings>>,
    /// The generation in service. `None` during a start.
    pub(crate) in_service: Option<&'a Generation<A>>,
    pub(crate) deadline: Instant,
    pub(crate) probe_reason: ProbeReason,
}

impl<A: Application> LoadRequest<'_, A> {
    /// Returns the deadline of the other credentials, if one has to be replaced. The others can stay as held.
    fn deadline_of_others(&self) -> Instant {
        let now = Instant::now();
        match self.probe_reason {
            ProbeReason::Operator => now + self.deadline.saturating_duration_since(now) / 2,
            ProbeReason::Scheduled | ProbeReason::CurrentRejected => now + WAIT_FOR_OTHERS,
        }
    }

    /// Returns the names of the credentials that must be replaced: the other side rejects the version in service, or
    /// `secrets.revoked` names it.
    fn to_replace(&self) -> BTreeSet<Name> {
        let Some(in_service) = self.in_service else { return BTreeSet::new() };
        let revoked = &self.config.secrets.revoked;
        let mut names: BTreeSet<Name> =
            in_service.resources.rejections().into_iter().map(|rejection| rejection.credential).collect();
        for (name, held) in in_service.credentials.iter() {
            if held.has_any(revoked) {
                names.insert(name);
            }
        }
        names
    }
}

/// The result of one load.
pub(crate) struct FinishedLoad<A: Application> {
    /// The place where the manager has each version in service now. A name is absent if the manager did not say.
    pub(crate) seen: BTreeMap<Name, ManagerStage>,
    pub(crate) result: Result<LoadOutcome<A>, LoadError>,
}

/// A load that succeeded.
pub(crate) enum LoadOutcome<A: Application> {
    /// There is something new. Nobody has seen the generation yet.
    Built {
        generation: Box<Generation<A>>,
        /// The faults of credentials that the generation holds as before.
        carried_over: Vec<(Name, Fault)>,
    },
    /// Everything is as held, and was verified.
    Unchanged,
}

/// A load that failed.
pub(crate) struct LoadError {
    pub(crate) report: Report,
    pub(crate) retry: RetryClass,
}

/// The change that another load needs to succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryClass {
    /// The manager and the other side have different versions. A rotation ends this by itself.
    Rejected,
    /// The manager or the database does not answer.
    Unavailable,
    /// Somebody must mend something.
    Permanent,
}

impl From<Report> for LoadError {
    fn from(report: Report) -> Self {
        let retry = match report.exit() {
            Exit::Unavailable | Exit::Deadline => RetryClass::Unavailable,
            _ => RetryClass::Permanent,
        };
        Self { report, retry }
    }
}

impl From<BuildError> for LoadError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Rejected(_) => {
                Self { report: Report::of(Phase::Build, error.into_fault()), retry: RetryClass::Rejected }
            }
            BuildError::Fault(fault) => Report::of(Phase::Build, fault).into(),
        }
    }
}

impl LoadError {
    /// Adds the faults of credentials that would have been carried over.
    fn with_carried_over(mut self, others: Vec<(Name, Fault)>) -> Self {
        self.report.faults.extend(others.into_iter().map(|(_, fault)| fault));
        self
    }
}

impl<A: Application> Loader<A> {
    /// Makes a loader of the secrets behind `source`.
    pub(crate) fn new(source: Arc<dyn Source>) -> Self {
        Self::with_regions(Regions::new([(String::new(), source)]))
    }

    pub(crate) fn with_regions(regions: Regions) -> Self {
        Self {
            regions,
            reload_requests: Arc::default(),
            metrics: Arc::new(MetricsRegistry::new(A::PACKAGE.name)),
            breakers: Breakers::default(),
            application: PhantomData,
        }
    }

    /// Loads the first generation. While a login is rejected, loads again until the deadline: a rotation may be under
    /// way. Once, half-way to the deadline, a rejected version is tried before its pause is over.
    ///
    /// # Errors
    /// The report of the last load that failed.
    pub(crate) async fn first_load(
        &self,
        config: Arc<Config<A::Settings>>,
        deadline: Instant,
    ) -> Result<Generation<A>, Report> {
        let start = Instant::now();
        let half_way = start + deadline.saturating_duration_since(start) / 2;
        let mut tried_early = false;
        let mut pauses = Backoff::until(deadline);
        let mut last_rejection: Option<Report> = None;
        loop {
            let mut probe_reason = ProbeReason::Scheduled;
            if !tried_early && Instant::now() >= half_way {
                tried_early = true;
                probe_reason = ProbeReason::Operator;
            }
            let request = LoadRequest { config: config.clone(), in_service: None, deadline, probe_reason };
            let LoadError { report, retry } = match self.load(request).await.result {
                Ok(LoadOutcome::Built { generation, .. }) => return Ok(*generation),
                Ok(LoadOutcome::Unchanged) => unreachable!("nothing was held that could be unchanged"),
                Err(error) => error,
            };
            match retry {
                RetryClass::Rejected => {
                    if last_rejection.is_none() {
                        tracing::warn!("a login is rejected; a rotation may be under way, so this start waits for it");
                    }
                    if !pauses.wait().await {
                        return Err(report);
                    }
                    last_rejection = Some(report);
                }
                RetryClass::Unavailable => {
                    // If the deadline cut this attempt off, the report of the one before it says more.
                    return match last_rejection {
                        Some(rejection) if Instant::now() >= deadline => Err(rejection),
                        _ => Err(report),
                    };
                }
                RetryClass::Permanent => return Err(report),
            }
        }
    }

    /// Loads once. Publishes nothing.
    pub(crate) async fn load(&self, request: LoadRequest<'_, A>) -> FinishedLoad<A> {
        if let Some(in_service) = request.in_service {
            let reason = match request.probe_reason {
                // The version in service was just rejected, so do not probe it early; probe the others.
                ProbeReason::CurrentRejected => ProbeReason::Scheduled,
                reason => reason,
            };
            in_service.resources.probe(reason, request.deadline).await;
        }
        let nothing = HeldCredentials::default();
        let context = FetchContext {
            regions: &self.regions,
            revoked: &request.config.secrets.revoked,
            held: match request.in_service {
                Some(in_service) => &in_service.credentials,
                None => &nothing,
            },
            to_replace: request.to_replace(),
            deadline_of_others: request.deadline_of_others(),
            deadline: request.deadline,
        };
        let mut wanted = Vec::new();
        for spec in AllSecrets::<A::Secrets>::specs() {
            if let Some(id) = request.config.id(&spec) {
                wanted.push((spec, id));
            }
        }
        let fetched = fetch::all(&context, &wanted).await;
        let seen = stages_seen(&fetched, context.held);
        // A revoked version must not stay in use, not even while the others are replaced.
        let not_revoked = context.held.without(context.revoked);
        let resolver =
            Resolver::new(fetched, &not_revoked, &context.to_replace).for_hosts(&request.config.server.tls_names);
        // A panic of the service's code becomes a report: in a reload it must not end the reload actor.
        let building = AssertUnwindSafe(self.resolve_and_build(&request, &context, resolver)).catch_unwind();
        let result = match building.await {
            Ok(result) => result,
            Err(_) => Err(LoadError::from(Report::of(Phase::Build, panicked()))),
        };
        FinishedLoad { seen, result }
    }

    /// Resolves what was fetched and builds from it. If the other side rejects a current version, tries the pending one.
    async fn resolve_and_build(
        &self,
        request: &LoadRequest<'_, A>,
        context: &FetchContext<'_>,
        resolver: Resolver<'_>,
    ) -> Result<LoadOutcome<A>, LoadError> {
        let mut resolved: Resolved<AllSecrets<A::Secrets>> = match set::resolve(resolver, context.held) {
            Ok(resolved) => resolved,
            Err(error) => return Err(LoadError::from(error.report).with_carried_over(error.carried_over)),
        };
        let carried_over = std::mem::take(&mut resolved.carried_over);
        // A reload that changes no setting gets the same `Arc` as the generation in service.
        let same_config = request.in_service.is_some_and(|in_service| Arc::ptr_eq(&in_service.config, &request.config));
        loop {
            if same_config && context.to_replace.is_empty() && resolved.credentials.same_as(context.held) {
                return Ok(LoadOutcome::Unchanged);
            }
            let error = match self.build(request, &resolved).await {
                Ok(generation) => return Ok(LoadOutcome::Built { generation: Box::new(generation), carried_over }),
                Err(error) => error,
            };
            let fallback = match &error {
                BuildError::Rejected(rejection) => {
                    set::resolve_with_pending(&resolved, rejection.credential, context).await
                }
                BuildError::Fault(_) => None,
            };
            match fallback {
                Some(fallback) => resolved = fallback,
                None => return Err(LoadError::from(error).with_carried_over(carried_over)),
            }
        }
    }

    /// Builds the service. The database proves its login on the way.
    async fn build(
        &self,
        request: &LoadRequest<'_, A>,
        resolved: &Resolved<AllSecrets<A::Secrets>>,
    ) -> Result<Generation<A>, BuildError> {
        let LoadRequest { config, in_service, deadline, probe_reason } = request;
        let tls = Tls::build(&resolved.secrets, &config.server, &config.admin, in_service.map(|held| &held.tls));
        let context = LoadContext {
            package: &A::PACKAGE,
            secrets: &config.secrets,
            database: &config.database,
            in_service: in_service.map(|in_service| &in_service.resources),
            deadline: *deadline,
            probe_reason: *probe_reason,
            metrics: &self.metrics,
            reload_requests: &self.reload_requests,
            breakers: &self.breakers,
        };
        let cx = Build::<A>::new(&config.service, &resolved.secrets.service, &context);
        let building = tokio::time::timeout_at(*deadline + BUILD_GRACE, A::build(&cx));
        let service = match building.await {
            Ok(result) => Arc::new(result?),
            Err(_) => return Err(BuildError::Fault(overdue())),
        };
        let resources = cx.into_resources();

        let max_in_flight = config.server.max_in_flight;
        let in_flight = match in_service {
            Some(in_service) if in_service.config.server.max_in_flight == max_in_flight => in_service.in_flight.clone(),
            _ => Arc::new(Semaphore::new(max_in_flight.get() as usize)),
        };
        Ok(Generation {
            number: in_service.map_or(1, |in_service| in_service.number + 1),
            router: http::router(A::routes().with_state(service.clone()), &config.server),
            service,
            in_flight,
            tls,
            config: config.clone(),
            credentials: resolved.credentials.clone(),
            resources,
        })
    }
}

/// Returns where the manager has each version that is held. A name is absent if the manager did not say.
fn stages_seen(
    fetched: &[(CredentialSpec, SecretId, FetchOutcome)],
    in_service: &HeldCredentials,
) -> BTreeMap<Name, ManagerStage> {
    let mut seen = BTreeMap::new();
    for (spec, id, outcome) in fetched {
        if let Some(held) = in_service.get(spec.name, id)
            && let Some(stage) = outcome.seen(held)
        {
            seen.insert(spec.name, stage);
        }
    }
    seen
}

fn panicked() -> Fault {
    Fault::new(Exit::Bug, "the service's code", "it panicked", "see the panic's event in the log: this is a bug")
}

fn overdue() -> Fault {
    Fault::new(
        Exit::Deadline,
        "Application::build",
        "it did not end before secrets.deadline",
        "find out what it waits for; raise secrets.deadline if it is only slow",
    )
}
