//! The last step of a load: builds the service from its credentials, and the parts of the framework beside it.

use super::{LoadRequest, Loader, Unrefreshed, WAIT_FOR_OTHERS, doubts::Doubts};
use crate::{
    application::{Application, Build, Generation, GenerationParts, ReadinessChecks},
    auth::{Authenticator, AuthenticatorParts},
    credentials::all_secrets::AllSecrets,
    debug_tokens::DebugTokens,
    exit::{Exit, Fault},
    generation_usage::GenerationUsage,
    http::{frame::Frame, routes, tls::Tls},
    resources::{
        build_error::BuildError, context::LoadContext, database::DatabaseSections, registry::ResourceRegistry,
    },
    secrets::{
        credential::{Name, OTLP},
        held::HeldCredentials,
        set::{self, Resolved, SecretSet},
    },
    traces::{Exporter, Sampler},
};
use std::{
    collections::BTreeSet,
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

/// The time that `build` may run past the deadline. The steps that it takes through its context end by the deadline, and
/// their errors say more than a timeout does.
pub(crate) const BUILD_GRACE: Duration = Duration::from_millis(250);

/// The name of the section `[auth]` among the credentials that stay as held. No field can have it.
const AUTH: Name = "[auth]";

/// The name of the section `[traces]` there.
const TRACES: Name = "[traces]";

impl<A: Application> Loader<A> {
    /// Builds the service. The database proves its login on the way. Returns what is wrong with the sections that stay as
    /// held.
    pub(super) async fn build(
        &self,
        request: &LoadRequest<'_, A>,
        resolved: &Resolved<AllSecrets<A::Secrets>>,
        doubts: &Doubts,
        made: &Mutex<ResourceRegistry>,
    ) -> Result<(Generation<A>, impl IntoIterator<Item = Unrefreshed>), BuildFailure> {
        let LoadRequest { config, in_service, deadline, probe_reason, .. } = request;
        let replaced = match in_service {
            Some(in_service) => doubts.replaced(&resolved.credentials, &in_service.credentials),
            None => BTreeSet::new(),
        };
        let (authenticator, auth_as_held) = self.open_authenticator(request, &resolved.credentials, doubts).await?;
        let tls = Tls::build(&resolved.secrets, &config.server, &config.admin, in_service.map(|held| &held.tls));
        let context = LoadContext {
            package: &A::PACKAGE,
            secrets: &config.secrets,
            is_strict: self.is_strict,
            files: &self.files,
            databases: DatabaseSections::of(&A::PACKAGE, config),
            request_timeout: config.server.request_timeout,
            in_service: in_service.map(|in_service| &in_service.resources),
            made,
            replaced: &replaced,
            deadline: *deadline,
            deadline_of_others: request.deadline_of_build(doubts),
            probe_reason: *probe_reason,
            metrics: &self.metrics,
            reload_requests: &self.reload_requests,
            breakers: &self.breakers,
            last_uses: &self.last_uses,
            worker_wakes: &self.worker_wakes,
            tracer: &self.tracer,
        };
        let cx = Build::<A>::new(&config.service, &resolved.secrets.service, &context);
        // In a box, so that the author's future may be nested as deeply as the compiler bears.
        let building = timeout_at(*deadline + BUILD_GRACE, Box::pin(A::build(&cx)));
        let service = match building.await {
            Ok(Ok(service)) => Arc::new(service),
            Ok(Err(error)) => {
                let has_database_failed = cx.has_database_failed();
                return Err(BuildFailure { error, credential: cx.failed(), has_database_failed });
            }
            Err(_) => return Err(BuildFailure::of_fault(overdue())),
        };
        let checks = match ReadinessChecks::of(&service) {
            Ok(checks) => checks,
            Err(error) => return Err(BuildFailure { error, credential: None, has_database_failed: false }),
        };
        let (exporter, traces_as_held) = self.open_exporter(&cx, request, resolved, doubts).await?;
        let (routes, document) =
            routes::router(&service, &config.server, authenticator.as_ref()).map_err(BuildFailure::of_fault)?;
        let resources = cx.into_resources();

        let held = in_service.map(|held| (held.config.server.max_in_flight, &held.in_flight));
        let in_flight = places(config.server.max_in_flight, held);
        let held = in_service.map(|held| (held.config.server.max_long_lived, &held.frame.long_lived_places));
        let long_lived_places = places(config.server.max_long_lived, held);
        let number = in_service.map_or(1, |in_service| in_service.number + 1);
        let usage = Arc::new(GenerationUsage::recorded_in(self.request_history.clone()));
        let debug_tokens = DebugTokens::new(
            A::PACKAGE.name,
            &resolved.credentials,
            config.secrets.max_stale,
            &self.last_uses,
            &self.debug_token_uses,
        );
        let sampler = exporter.as_ref().map(|_| Sampler::new(&config.traces, &self.tracer));
        let frame = Frame::new(&config.server, number, &usage, long_lived_places, sampler, &self.request_metrics);
        let router = frame.router(routes);
        let generation = Generation::new(GenerationParts {
            number,
            router,
            frame,
            debug_tokens,
            document,
            own_handles: Arc::strong_count(&service),
            usage,
            service,
            in_flight,
            tls,
            authenticator,
            exporter,
            config: config.clone(),
            credentials: resolved.credentials.clone(),
            resources,
            checks,
        });
        Ok((generation, auth_as_held.into_iter().chain(traces_as_held)))
    }

    /// Opens the authenticator. If the issuer's keys cannot be had, the one in service may stay, with its fault.
    async fn open_authenticator(
        &self,
        request: &LoadRequest<'_, A>,
        credentials: &HeldCredentials,
        doubts: &Doubts,
    ) -> Result<(Option<Arc<Authenticator>>, Option<Unrefreshed>), BuildFailure> {
        let LoadRequest { config, in_service, .. } = request;
        let mut deadline = request.deadline_of_build(doubts);
        if in_service.is_some_and(|held| doubts.is_any_replaced(credentials, &held.credentials)) {
            deadline = deadline.min(Instant::now() + WAIT_FOR_OTHERS);
        }
        let opened = Authenticator::open(AuthenticatorParts {
            config: &config.auth,
            in_service: in_service.and_then(|held| held.authenticator.as_ref()),
            metrics: &self.auth_metrics,
            deadline,
            files: &self.files,
        });
        let fault = match opened.await {
            Ok(authenticator) => return Ok((authenticator, None)),
            Err(fault) => fault,
        };
        match in_service {
            Some(held) if may_stay(request, held, credentials, doubts, held.config.auth == config.auth) => {
                Ok((held.authenticator.clone(), Some((AUTH, fault).into())))
            }
            _ => Err(BuildFailure::of_fault(fault)),
        }
    }

    /// Opens the exporter of traces. If the authorities for a changed section cannot be had, the one in service may stay,
    /// with its fault, unless its key has a new version: then that must stay as held first.
    async fn open_exporter(
        &self,
        cx: &Build<'_, A>,
        request: &LoadRequest<'_, A>,
        resolved: &Resolved<AllSecrets<A::Secrets>>,
        doubts: &Doubts,
    ) -> Result<(Option<Arc<Exporter>>, Option<Unrefreshed>), BuildFailure> {
        let LoadRequest { config, in_service, .. } = request;
        let (key, before) = (resolved.secrets.otlp.as_ref(), in_service.and_then(|held| held.exporter.as_ref()));
        let error = match Exporter::open(cx, &config.traces, key, before, &self.tracer).await {
            Ok(exporter) => return Ok((exporter, None)),
            Err(error) => error,
        };
        match (error, in_service) {
            (BuildError::Fault(fault), Some(held))
                if !resolved.credentials.has_new_version(OTLP, &held.credentials)
                    && may_stay(request, held, &resolved.credentials, doubts, held.config.traces == config.traces) =>
            {
                Ok((before.cloned(), Some((TRACES, fault).into())))
            }
            (error, _) => Err(BuildFailure { error, credential: cx.failed(), has_database_failed: false }),
        }
    }
}

/// Returns `true` if a section of the configuration stays as held although it has a fault: while a credential that must be
/// replaced waits for this load, and if the section has stayed before and something else is new.
fn may_stay<A: Application>(
    request: &LoadRequest<'_, A>,
    held: &Generation<A>,
    credentials: &HeldCredentials,
    doubts: &Doubts,
    has_stayed_before: bool,
) -> bool {
    let is_anything_new = !Arc::ptr_eq(&held.config, &request.config) || !credentials.same_as(&held.credentials);
    doubts.is_any_replaced(credentials, &held.credentials) || has_stayed_before && is_anything_new
}

/// A build that failed.
pub(super) struct BuildFailure {
    pub(super) error: BuildError,
    /// The credential whose resource could not be made. `None` if something else failed.
    credential: Option<Name>,
    pub(super) has_database_failed: bool,
}

impl BuildFailure {
    /// Returns the failure of something that is not made from a credential.
    fn of_fault(fault: Fault) -> Self {
        Self { error: BuildError::Fault(fault), credential: None, has_database_failed: false }
    }

    /// Returns the credential that failed, if it is known.
    pub(super) fn name(&self) -> Option<Name> {
        match &self.error {
            BuildError::Rejected(rejection) => Some(rejection.credential),
            BuildError::Fault(_) => self.credential,
        }
    }

    /// Returns the credential that the other side rejects, or that lacks rights there. No answer, and a fault of
    /// something else, say nothing against it.
    pub(super) fn rejected_credential(&self) -> Option<Name> {
        match &self.error {
            BuildError::Rejected(rejection) => Some(rejection.credential),
            BuildError::Fault(fault) if fault.exit == Exit::Denied => self.credential,
            BuildError::Fault(_) => None,
        }
    }

    /// Returns the credential that failed, and the set with the version of it that is held. Returns `None` if there is no
    /// other version to go on with.
    pub(super) fn as_held<S: SecretSet>(
        &self,
        resolved: &Resolved<S>,
        held: &HeldCredentials,
    ) -> Option<(Name, Resolved<S>)> {
        let name = self.name()?;
        Some((name, set::resolve_with_held(resolved, name, held)?))
    }

    pub(super) fn unrefreshed(self, name: Name) -> Unrefreshed {
        match self.error {
            BuildError::Rejected(rejection) => rejection.into(),
            BuildError::Fault(fault) => (name, fault).into(),
        }
    }
}

/// Returns this many places: those that are held, with their limit, if it is the same.
fn places(max: NonZeroU32, held: Option<(NonZeroU32, &Arc<Semaphore>)>) -> Arc<Semaphore> {
    match held {
        Some((of_held, places)) if of_held == max => places.clone(),
        _ => Arc::new(Semaphore::new(max.get() as usize)),
    }
}

fn overdue() -> Fault {
    Fault::new(
        Exit::Deadline,
        "Application::build",
        "it did not end before secrets.deadline",
        "find out what it waits for; raise secrets.deadline if it is only slow",
    )
}
