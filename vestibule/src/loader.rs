//! The loader: one attempt to get from a configuration to a generation. A start and a reload run the same function.
//!
//! ```text
//! configuration ─► fetch ─► resolve ─► (nothing new? stop) ─► build and prove ─► generation
//!                              ▲                                    │
//!                              └── the pending version, if the current one is rejected
//! ```

pub(crate) mod build;
pub(crate) mod load_error;
pub(crate) mod retry_class;

mod candidates;
mod doubts;
mod renewals;
mod unusable;

pub(crate) use self::doubts::Unrefreshed;
use self::{
    candidates::Candidates, doubts::Doubts, load_error::LoadError, retry_class::RetryClass, unusable::UnusableValues,
};
use crate::{
    application::{Application, BackgroundMetrics, Generation, WorkerWakes},
    auth::{AuthMetrics, Authenticator},
    backoff::Backoff,
    blocking_reads::FileReads,
    caught::caught_future,
    config::Config,
    credentials::all_secrets::AllSecrets,
    debug_tokens::DebugTokenUses,
    exit::{Exit, Fault, Phase, Report},
    http::request_metrics::RequestMetrics,
    last_uses::LastUses,
    metrics::MetricsRegistry,
    reload_requests::ReloadRequests,
    request_history::RequestHistory,
    resources::{
        breaker::{Breakers, ProbeReason},
        build_error::BuildError,
    },
    secrets::{
        credential::Name,
        fetch::{self, FetchContext, FetchOutcome, ManagerStage},
        held::HeldCredentials,
        id::SecretId,
        lease::LeaseMetrics,
        regions::Regions,
        resolver::Resolver,
        set::{self, Resolved, SecretSet},
        source::{Source, SourceError},
        spec::CredentialSpec,
    },
    telemetry::live_secrets,
    traces::{Exporter, Tracer},
};
use std::{
    collections::BTreeMap,
    marker::PhantomData,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::Instant;

/// The time that a load which replaces a credential waits for the other ones. They can stay as held, and requests wait for
/// this load.
pub(crate) const WAIT_FOR_OTHERS: Duration = Duration::from_secs(2);

/// The longest time for trying rejected credentials again, at the beginning of a reload.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The parts that all loads of a process share.
pub(crate) struct Loader<A> {
    pub(crate) regions: Arc<Regions>,
    /// `true` unless the profile is `dev`.
    is_strict: bool,
    files: FileReads,
    pub(crate) reload_requests: Arc<ReloadRequests>,
    pub(crate) metrics: Arc<MetricsRegistry>,
    request_metrics: Arc<RequestMetrics>,
    breakers: Breakers,
    candidates: Candidates,
    unusable: UnusableValues,
    lease_metrics: LeaseMetrics,
    pub(crate) last_uses: Arc<LastUses>,
    pub(crate) background_metrics: BackgroundMetrics,
    auth_metrics: AuthMetrics,
    debug_token_uses: Arc<DebugTokenUses>,
    pub(crate) tracer: Tracer,
    pub(crate) worker_wakes: Arc<WorkerWakes>,
    pub(crate) request_history: Arc<RequestHistory>,
    application: PhantomData<fn() -> A>,
}

/// A request for one load.
pub(crate) struct LoadRequest<'a, A: Application> {
    pub(crate) config: Arc<Config<A::Settings>>,
    /// The generation in service. `None` during a start.
    pub(crate) in_service: Option<&'a Generation<A>>,
    pub(crate) deadline: Instant,
    pub(crate) probe_reason: ProbeReason,
    pub(crate) scope: LoadScope,
}

/// The credentials for which a load asks the manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoadScope {
    All,
    /// Those in service that are doubtful, and those that come from the same secrets. The others stay as held, and do not
    /// count as verified.
    Doubted,
}

impl<A: Application> LoadRequest<'_, A> {
    /// Returns the deadline for trying rejected credentials again. It leaves time for the load itself.
    fn deadline_of_probes(&self) -> Instant {
        let now = Instant::now();
        now + PROBE_TIMEOUT.min(self.deadline.saturating_duration_since(now) / 2)
    }

    /// Returns the deadline of what is built: that of the others, if a credential is doubted.
    fn deadline_of_build(&self, doubts: &Doubts) -> Instant {
        if doubts.names.is_empty() { self.deadline } else { self.deadline.min(self.deadline_of_others()) }
    }

    /// Returns the deadline of the other credentials, if one is doubted. The others can stay as held.
    fn deadline_of_others(&self) -> Instant {
        let now = Instant::now();
        match self.probe_reason {
            ProbeReason::Operator => now + self.deadline.saturating_duration_since(now) / 2,
            ProbeReason::Scheduled | ProbeReason::CurrentRejected => now + WAIT_FOR_OTHERS,
        }
    }
}

/// The result of one load.
pub(crate) struct FinishedLoad<A: Application> {
    /// The credentials that were tried. While they are held, an error that quotes one of them can be withheld.
    pub(crate) tried: Vec<HeldCredentials>,
    /// The place where the manager has each version in service now. A name is absent if the manager did not say.
    pub(crate) seen: BTreeMap<Name, ManagerStage>,
    pub(crate) result: Result<LoadOutcome<A>, LoadError>,
}

/// A load that succeeded.
pub(crate) enum LoadOutcome<A: Application> {
    /// There is something new. Nobody has seen the generation yet.
    Built {
        generation: Box<Generation<A>>,
        /// The credentials that the generation holds as before, although they have a fault.
        carried_over: Vec<Unrefreshed>,
    },
    /// Everything is as held. What the manager was asked for was verified.
    Unchanged,
}

impl<A: Application> Loader<A> {
    /// Makes a loader of the secrets behind `source`.
    pub(crate) fn new(source: Arc<dyn Source>) -> Self {
        Self::with_regions(Arc::new(Regions::of(source)), true)
    }

    /// Makes a loader of the secrets in these Regions. `is_strict` is [`Sources::is_strict`](crate::config::Sources::is_strict).
    pub(crate) fn with_regions(regions: Arc<Regions>, is_strict: bool) -> Self {
        let metrics = MetricsRegistry::new(A::PACKAGE.name);
        Self {
            regions,
            is_strict,
            files: FileReads::default(),
            reload_requests: Arc::default(),
            request_metrics: RequestMetrics::register(&metrics),
            background_metrics: BackgroundMetrics::register(&metrics),
            auth_metrics: AuthMetrics::register(&metrics),
            debug_token_uses: DebugTokenUses::register(&metrics),
            tracer: Tracer::register(&metrics),
            lease_metrics: LeaseMetrics::register(&metrics),
            metrics: Arc::new(metrics),
            breakers: Breakers::default(),
            candidates: Candidates::default(),
            unusable: UnusableValues::default(),
            last_uses: Arc::default(),
            worker_wakes: Arc::default(),
            request_history: Arc::default(),
            application: PhantomData,
        }
    }

    /// Loads the first generation. While a login is rejected, loads again until the deadline: a rotation may be under
    /// way. Does the same while something that the service opens itself is unavailable, or a certificate is not valid yet.
    /// Once, half-way to the deadline, a rejected version is tried before its pause is over.
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
        let mut pauses = Backoff::for_successor().before(deadline);
        let mut last_rejection: Option<Report> = None;
        let mut is_logged = false;
        loop {
            let mut probe_reason = ProbeReason::Scheduled;
            if !tried_early && Instant::now() >= half_way {
                tried_early = true;
                probe_reason = ProbeReason::Operator;
            }
            let scope = LoadScope::All;
            let request = LoadRequest { config: config.clone(), in_service: None, deadline, probe_reason, scope };
            let FinishedLoad { tried, result, .. } = self.load(request).await;
            let LoadError { mut report, retry, may_pass_soon } = match result {
                Ok(LoadOutcome::Built { generation, .. }) => return Ok(*generation),
                Ok(LoadOutcome::Unchanged) => unreachable!("nothing was held that could be unchanged"),
                Err(error) => error,
            };
            for Fault { subject, problem, remedy, .. } in &mut report.faults {
                _ = [subject, problem, remedy].map(live_secrets::withhold);
            }
            drop(tried);
            match retry {
                RetryClass::Rejected | RetryClass::NoSuccessor => {
                    if last_rejection.is_none() {
                        tracing::warn!("a login is rejected; a rotation may be under way, so this start waits for it");
                    }
                    if !pauses.wait().await {
                        return Err(report);
                    }
                    last_rejection = Some(report);
                }
                RetryClass::Unavailable if may_pass_soon => {
                    if !is_logged {
                        tracing::warn!(error = %report, "something is not available yet; trying until secrets.deadline");
                        is_logged = true;
                    }
                    if !pauses.wait().await {
                        return Err(report);
                    }
                }
                RetryClass::Unavailable => {
                    // If the deadline cut this attempt off, the report of the one before it says more.
                    return match last_rejection {
                        Some(rejection) if Instant::now() >= deadline => Err(rejection),
                        _ => Err(report),
                    };
                }
                RetryClass::Unreadable | RetryClass::HalfWritten | RetryClass::Permanent => return Err(report),
            }
        }
    }

    /// Loads once. Publishes nothing.
    pub(crate) async fn load(&self, request: LoadRequest<'_, A>) -> FinishedLoad<A> {
        let (candidates, nothing) = (self.candidates.all(), HeldCredentials::default());
        let mut unrenewed = BTreeMap::new();
        if let Some(in_service) = request.in_service {
            let reason = match request.probe_reason {
                // The version in service was just rejected, so do not probe it early; probe the others.
                ProbeReason::CurrentRejected => ProbeReason::Scheduled,
                reason => reason,
            };
            let deadline = request.deadline_of_probes();
            let soon = deadline.min(Instant::now() + WAIT_FOR_OTHERS);
            let probing = in_service.resources.probe(reason, deadline);
            let drain = request.config.server.drain;
            let to_renew = if request.scope == LoadScope::All { &in_service.credentials } else { &nothing };
            let renewing = renewals::renew_leases(to_renew, drain, soon);
            ((), unrenewed, _) = tokio::join!(probing, renewing, renewals::renew_leases(&candidates, drain, soon));
        }
        let next_doubt = self.reload_requests.next_doubt();
        let doubts = match request.in_service {
            Some(in_service) => Doubts::of(in_service, &request.config.secrets.revoked),
            None => Doubts::default(),
        };
        if request.probe_reason == ProbeReason::Operator {
            // Somebody who asks for a reload may have corrected the role at the manager, or a clock.
            self.unusable.forget();
        }
        let context = FetchContext {
            regions: &self.regions,
            revoked: &request.config.secrets.revoked,
            held: match request.in_service {
                Some(in_service) => &in_service.credentials,
                None => &nothing,
            },
            doubted: doubts.names.clone(),
            candidates,
            unusable: self.unusable.take(),
            drain: request.config.server.drain,
            deadline_of_others: request.deadline_of_others(),
            deadline: request.deadline,
            is_start: request.in_service.is_none(),
        };
        let (mut seen, mut tried) = (BTreeMap::new(), Vec::new());
        // A panic of the service's code becomes a report: in a reload it must not end the reload actor.
        let loading = caught_future(async {
            let resolver = self.fetch(&request, &context, &mut seen).await;
            self.resolve_and_build(&request, &context, &doubts, &unrenewed, resolver, &mut tried).await
        });
        let overtaken = async {
            next_doubt.await;
            tokio::time::sleep_until(context.deadline_of_others).await;
        };
        let result = tokio::select! {
            biased;
            loaded = loading => match loaded {
                Some(result) => result,
                None => Err(LoadError::from(Report::of(Phase::Build, panicked()))),
            },
            // This load does not know what must be replaced now, and the next one does. A load that knows of another doubt
            // waits for no other credential either.
            () = overtaken, if request.in_service.is_some() && doubts.names.is_empty() => Err(LoadError::of_overtaken()),
        };
        let settled = match (&result, request.in_service) {
            (Ok(LoadOutcome::Built { generation, .. }), _) => Some(&generation.credentials),
            (Ok(LoadOutcome::Unchanged), Some(in_service)) => Some(&in_service.credentials),
            _ => None,
        };
        if let Some(credentials) = settled {
            self.candidates.settle(credentials, request.config.server.drain);
        }
        seen.retain(|name, _| !unrenewed.contains_key(name));
        FinishedLoad { tried, seen, result }
    }

    /// Forgets the candidates that this configuration does not name. Call it with the one in service while no other one
    /// waits for its publication.
    pub(crate) fn forget_candidates_beside(&self, config: &Config<A::Settings>) {
        let named: Vec<_> = AllSecrets::<A::Secrets>::to_fetch(config).map(|(spec, id)| (spec.name, id)).collect();
        self.candidates.retain(&named);
    }

    /// Fetches all credentials, or those of the request's scope. In a start, those that the manager makes at each read come
    /// last: if another one has a fault, none is made. In a reload, one that must be replaced does not wait for the others.
    async fn fetch<'a>(
        &self,
        request: &'a LoadRequest<'_, A>,
        context: &FetchContext<'a>,
        seen: &mut BTreeMap<Name, ManagerStage>,
    ) -> Resolver<'a> {
        let (mut kept_there, mut made_at_read, mut not_asked_for) = (Vec::new(), Vec::new(), Vec::new());
        for (spec, id) in AllSecrets::<A::Secrets>::to_fetch(&request.config) {
            if request.scope == LoadScope::Doubted
                && !context.is_doubted(&id)
                && context.held.get(spec.name, &id).is_some()
            {
                not_asked_for.push((spec, id, FetchOutcome::Same));
                continue;
            }
            let comes_last = self.regions.is_made_at_each_read(&id) && !context.doubted.contains(spec.name);
            let list = if comes_last { &mut made_at_read } else { &mut kept_there };
            list.push((spec, id));
        }
        let fetched = fetch::all(context, &kept_there).await;
        seen.extend(stages_seen(&fetched, context.held));
        let hosts = &request.config.server.tls_names;
        let are_hosts_new = request.in_service.is_none_or(|held| held.config.server.tls_names != *hosts);
        let mut resolver = Resolver::new(fetched, context.held).for_hosts(hosts, are_hosts_new);
        resolver.add(not_asked_for);
        AllSecrets::<A::Secrets>::resolve(&mut resolver);
        if !resolver.has_fault() && !made_at_read.is_empty() {
            let fetched = fetch::all(context, &made_at_read).await;
            seen.extend(stages_seen(&fetched, context.held));
            resolver.add(fetched);
            AllSecrets::<A::Secrets>::resolve(&mut resolver);
        }
        self.candidates.keep(&resolver.resolved, context.held);
        self.unusable.add(std::mem::take(&mut resolver.unusable));
        for (name, credential) in resolver.resolved.iter() {
            if let Some(lease) = &credential.lease {
                lease.count_in(&self.lease_metrics, name);
            }
        }
        resolver
    }

    /// Resolves what was fetched and builds from it. A credential whose new version has a fault stays as held, if another
    /// one that must be replaced has a new version.
    async fn resolve_and_build(
        &self,
        request: &LoadRequest<'_, A>,
        context: &FetchContext<'_>,
        doubts: &Doubts,
        unrenewed: &BTreeMap<Name, SourceError>,
        resolver: Resolver<'_>,
        tried: &mut Vec<HeldCredentials>,
    ) -> Result<LoadOutcome<A>, LoadError> {
        let mut resolved: Resolved<AllSecrets<A::Secrets>> = match set::resolve(resolver, context.held) {
            Ok(resolved) => resolved,
            Err(error) => {
                let others = error.carried_over.into_iter().map(Into::into).collect();
                let error = LoadError::from(error.report);
                // What the manager did not answer was tried until the deadline. A credential may be valid soon.
                let may_pass_soon = error.report.exit() == Exit::Unavailable;
                return Err(LoadError { may_pass_soon, ..error }.with_unrefreshed(others));
            }
        };
        let mut unrefreshed: Vec<Unrefreshed> =
            std::mem::take(&mut resolved.carried_over).into_iter().map(Into::into).collect();
        for rejection in &doubts.rejected {
            let is_faulty = unrefreshed.iter().any(|stays| stays.name == rejection.credential);
            if is_faulty || resolved.credentials.has_new_version(rejection.credential, context.held) {
                continue;
            }
            let deadline = doubts.deadline_beside(rejection.credential, &resolved.credentials, context);
            if let Some(fallback) = set::resolve_with_pending(&resolved, rejection.credential, context, deadline).await
            {
                resolved = fallback;
            }
        }
        if !unrefreshed.is_empty() && !doubts.is_any_replaced(&resolved.credentials, context.held) {
            let unrefreshed = doubts.add_still_rejected(unrefreshed, &resolved.credentials, context.held);
            return Err(LoadError::of_unrefreshed(Phase::Secrets, unrefreshed));
        }
        // A reload that changes no setting gets the same `Arc` as the generation in service.
        let same_config = request.in_service.is_some_and(|in_service| Arc::ptr_eq(&in_service.config, &request.config));
        let made = Mutex::default();
        loop {
            tried.push(resolved.credentials.clone());
            let same_sections = request.in_service.is_some_and(|in_service| {
                Authenticator::is_of(in_service.authenticator.as_ref(), &request.config.auth)
                    && Exporter::is_of(in_service.exporter.as_ref(), &request.config.traces)
            });
            if same_config && same_sections && resolved.credentials.same_as(context.held) {
                unrefreshed = doubts.add_still_rejected(unrefreshed, &resolved.credentials, context.held);
                unrefreshed.extend(renewals::unrefreshed_of(unrenewed, &resolved.credentials, context));
                if unrefreshed.is_empty() {
                    return Ok(LoadOutcome::Unchanged);
                }
                return Err(LoadError::of_unrefreshed(Phase::Build, unrefreshed));
            }
            let failure = match self.build(request, &resolved, doubts, &made).await {
                Ok((generation, sections_as_held)) => {
                    unrefreshed.extend(sections_as_held);
                    unrefreshed.extend(renewals::unrefreshed_of(unrenewed, &resolved.credentials, context));
                    let carried_over = doubts.add_still_rejected(unrefreshed, &resolved.credentials, context.held);
                    return Ok(LoadOutcome::Built { generation: Box::new(generation), carried_over });
                }
                Err(failure) => failure,
            };
            if let Some(name) = failure.rejected_credential() {
                self.candidates.rejected(name);
            }
            if let BuildError::Rejected(rejection) = &failure.error {
                let name = rejection.credential;
                let deadline = doubts.deadline_beside(name, &resolved.credentials, context);
                if let Some(fallback) = set::resolve_with_pending(&resolved, name, context, deadline).await {
                    resolved = fallback;
                    continue;
                }
            }
            // With the version that is held, `build` gets the resource in service.
            let Some((name, as_held)) = failure.as_held(&resolved, context.held) else {
                let has_database_failed = failure.has_database_failed;
                let error = LoadError::from(failure.error);
                let may_pass_soon = error.report.exit() == Exit::Unavailable && !has_database_failed;
                return Err(LoadError { may_pass_soon, ..error }.with_unrefreshed(unrefreshed));
            };
            resolved = as_held;
            unrefreshed.push(failure.unrefreshed(name));
            // The rest of `build` is judged too, if it may still bring a replacement.
            if !doubts.is_any_replaced(&resolved.credentials, context.held) {
                let unrefreshed = doubts.add_still_rejected(unrefreshed, &resolved.credentials, context.held);
                return Err(LoadError::of_unrefreshed(Phase::Build, unrefreshed));
            }
        }
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

/// Returns the fault of a panic in the code of the service.
pub(crate) fn panicked() -> Fault {
    Fault::new(Exit::Bug, "the service's code", "it panicked", "see the panic's event in the log: this is a bug")
}

#[cfg(test)]
mod tests;
