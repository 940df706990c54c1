//! The signer of `reload --fleet`: it has the signing key of the service from the manager.

use crate::{
    application::Application,
    cli::audit::replica::ReplicaStatus,
    config::Config,
    credentials::signing_keys::SigningKeys,
    exit::{Exit, Fault, Phase, Report},
    remote_reload::token,
    resources::signer::Signer,
    secrets::{
        credential::{Credential, Name},
        fetch::{self, FetchContext},
        held::HeldCredentials,
        id::SecretId,
        kind::Kind,
        regions::Regions,
        resolver::Resolver,
        set::{self, CredentialField, Resolved, SecretSet},
        spec::CredentialSpec,
    },
};
use axum::http::HeaderValue;
use std::collections::BTreeSet;
use tokio::time::Instant;

/// The set of the one credential that the command needs.
struct SigningSecret {
    keys: Credential<SigningKeys>,
}

impl SecretSet for SigningSecret {
    fn specs() -> Vec<CredentialSpec> {
        // The name is the service's.
        Vec::new()
    }

    fn resolve(resolver: &mut Resolver<'_>) -> Option<Self> {
        let name = resolver.names().next()?;
        Some(Self { keys: CredentialField::resolve(name, resolver)? })
    }
}

/// A signer with the keys that the manager has now.
pub(super) struct FleetSigner {
    name: Name,
    signer: Signer,
}

impl FleetSigner {
    /// Fetches the [`signing_key`] at all of its stages.
    ///
    /// # Errors
    /// If the service has none, or the manager does not give it.
    pub(super) async fn fetch<A: Application>(regions: &Regions, config: &Config<A::Settings>) -> Result<Self, Report> {
        let (spec, id) = signing_key::<A>(config)?;
        let deadline = Instant::now() + config.secrets.deadline;
        let (nothing, none_revoked) = (HeldCredentials::default(), BTreeSet::new());
        // A replica that still holds a revoked key is one that must be reloaded. One that has dropped it is asked with another
        // key.
        let first = FetchContext::of_first_load(regions, &none_revoked, &nothing, config.server.drain, deadline);
        let context = FetchContext { is_start: false, ..first };
        let fetched = fetch::all(&context, &[(spec, id)]).await;
        let resolver = Resolver::new(fetched, &nothing);
        let resolved: Resolved<SigningSecret> = set::resolve(resolver, &nothing).map_err(|error| error.report)?;
        let keys = resolved.secrets.keys.shared();
        let max_stale = config.secrets.max_stale;
        let signer = token::signer(A::PACKAGE.name, spec.name, keys, max_stale, Default::default());
        Ok(Self { name: spec.name, signer })
    }

    /// Returns the value of `Authorization` for one reload of this replica. It is signed by the key that the replica signs
    /// with, so that the rotation of the key itself can be taken to it.
    ///
    /// # Errors
    /// If the manager does not have that key any more.
    pub(super) fn authorization(&self, replica: &ReplicaStatus, subject: &str) -> Result<HeaderValue, Fault> {
        let held = replica.credentials.iter().find(|held| held.name == self.name);
        let Some(held) = held else {
            let problem = format!("it holds no credential `{}` that could verify the request", self.name);
            let remedy = "run the command with the configuration and the version of the service that runs";
            return Err(Fault::new(Exit::Config, subject, problem, remedy));
        };
        let authorization = token::authorization(&self.signer, &held.version, replica.instance);
        let Some(authorization) = authorization else {
            let problem = format!(
                "it signs with version {} of `{}`, which the manager has at no stage that a key is read from",
                held.version, self.name
            );
            return Err(Fault::new(Exit::Denied, subject, problem, "reload it with `reload --wait` beside it"));
        };
        let mut authorization = HeaderValue::try_from(authorization).expect("a token is visible ASCII");
        authorization.set_sensitive(true);
        Ok(authorization)
    }
}

/// Returns the credential that signs the requests, and its id: the first signing key of the service by name.
///
/// # Errors
/// If the service has none.
pub(in crate::cli) fn signing_key<A: Application>(
    config: &Config<A::Settings>,
) -> Result<(CredentialSpec, SecretId), Report> {
    let mut specs: Vec<_> = A::Secrets::specs();
    specs.retain(|spec| spec.kind == SigningKeys::NAME);
    specs.sort_by_key(|spec| spec.name);
    let first = specs.into_iter().find_map(|spec| Some((spec, config.id(&spec)?)));
    first.ok_or_else(|| {
        let fault = Fault::new(
            Exit::Config,
            "reload --fleet",
            "the service has no signing key that could sign the requests",
            "add a field `Credential<SigningKeys>` to its secrets; if it has an optional one, give its id in [secrets.ids]",
        );
        Report::of(Phase::Command, fault)
    })
}
