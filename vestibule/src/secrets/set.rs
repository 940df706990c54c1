//! The traits of a set of credentials and of its fields. Resolves all fields, and all of them again with a pending version.

use super::{
    credential::{Credential, Name},
    fetch::{self, FetchContext},
    held::HeldCredentials,
    kind::Kind,
    resolver::Resolver,
    spec::CredentialSpec,
    version::Stage,
};
use crate::exit::{Exit, Fault, Phase, Report};
use tokio::time::Instant;

/// The credentials of a service: a struct with `#[derive(SecretSet)]`, one field per credential. The
/// [derive](macro@crate::SecretSet) shows an example.
pub trait SecretSet: Sized + Send + Sync + 'static {
    /// Returns the description of each credential that is to be fetched.
    fn specs() -> Vec<CredentialSpec>;

    /// Resolves every field. Returns `None` if one failed; the resolver keeps the faults.
    fn resolve(resolver: &mut Resolver<'_>) -> Option<Self>;
}

/// A field of a [`SecretSet`]: `Credential<K>`, or `Option<Credential<K>>` for a credential that is on only if its id is
/// configured.
pub trait CredentialField: Sized {
    /// Returns the description of the credential of the field `name`.
    fn spec(name: Name) -> CredentialSpec;

    /// Resolves the field's credential. Returns `None` if that failed; the resolver keeps the fault.
    fn resolve(name: Name, resolver: &mut Resolver<'_>) -> Option<Self>;
}

impl<K: Kind> CredentialField for Credential<K> {
    fn spec(name: Name) -> CredentialSpec {
        CredentialSpec { name, kind: K::NAME, stages: K::STAGES, optional: false }
    }

    fn resolve(name: Name, resolver: &mut Resolver<'_>) -> Option<Self> {
        resolver.resolve::<K>(name)
    }
}

impl<K: Kind> CredentialField for Option<Credential<K>> {
    fn spec(name: Name) -> CredentialSpec {
        CredentialSpec { optional: true, ..Credential::<K>::spec(name) }
    }

    fn resolve(name: Name, resolver: &mut Resolver<'_>) -> Option<Self> {
        if !resolver.was_fetched(name) {
            return Some(None);
        }
        let credential = resolver.resolve::<K>(name)?;
        Some(Some(credential))
    }
}

/// A set of credentials that was resolved.
pub(crate) struct Resolved<S> {
    pub(crate) secrets: S,
    pub(crate) credentials: HeldCredentials,
    /// The faults of credentials that are held as before.
    pub(crate) carried_over: Vec<(Name, Fault)>,
}

/// A set of credentials that could not be resolved.
pub(crate) struct ResolveError {
    pub(crate) report: Report,
    /// The faults of credentials that would have been held as before.
    pub(crate) carried_over: Vec<(Name, Fault)>,
}

/// Resolves a whole set. A version that `held` has already keeps the time at which it was loaded first.
///
/// # Errors
/// Every fault of every credential.
pub(crate) fn resolve<S: SecretSet>(
    mut resolver: Resolver<'_>,
    held: &HeldCredentials,
) -> Result<Resolved<S>, ResolveError> {
    let set = S::resolve(&mut resolver);
    let Resolver { resolved: mut credentials, faults, carried_over, .. } = resolver;
    if !faults.is_empty() {
        return Err(ResolveError { report: Report { phase: Phase::Secrets, faults }, carried_over });
    }
    let Some(secrets) = set else {
        let fault = Fault::new(
            Exit::Bug,
            "SecretSet::resolve",
            "it returned no set, and the resolver has no fault",
            "derive SecretSet instead of writing it",
        );
        return Err(ResolveError { report: Report::of(Phase::Secrets, fault), carried_over });
    };
    credentials.keep_load_times(held);
    Ok(Resolved { secrets, credentials, carried_over })
}

/// Resolves the set again with the version of one credential that is held. Returns `None` if none is held, or if that is
/// the version that was resolved.
pub(crate) fn resolve_with_held<S: SecretSet>(
    resolved: &Resolved<S>,
    name: Name,
    held: &HeldCredentials,
) -> Option<Resolved<S>> {
    let new = resolved.credentials.named(name)?;
    let before = held.get(name, &new.id)?;
    if new.same_as(before) {
        return None;
    }
    let mut credentials = resolved.credentials.clone();
    credentials.insert(name, before.clone());
    resolve(Resolver::of_resolved(&credentials), held).ok()
}

/// Resolves the set again with the pending version of one credential. Returns `None` if there is no pending version that
/// can be used in place of the current one.
pub(crate) async fn resolve_with_pending<S: SecretSet>(
    resolved: &Resolved<S>,
    name: Name,
    context: &FetchContext<'_>,
    deadline: Instant,
) -> Option<Resolved<S>> {
    let current = resolved.credentials.named(name)?;
    if current.stage != Stage::Current {
        return None;
    }
    let pending = fetch::pending(context, &current.id, deadline).await?;
    let resolver = Resolver::of_resolved(&resolved.credentials).with_pending(name, pending);
    let set: Resolved<S> = resolve(resolver, context.held).ok()?;
    let is_pending = set.credentials.named(name)?.stage == Stage::Pending;
    if is_pending { Some(set) } else { None }
}
