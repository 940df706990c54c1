//! Generations that were replaced, and what still holds something of them.

use crate::{
    application::{Application, Generation},
    generation_usage::GenerationUsage,
    last_uses::LastUses,
    moment::Moment,
    resources::connection_counter::{ConnectionCounter, OpenConnections},
    secrets::{credential::Name, id::VersionId},
};
use serde::Serialize;
use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Weak},
};

/// A handle that tells whether something is still alive, and does not keep it alive.
type Observer = Weak<dyn Any + Send + Sync>;

/// A generation that was replaced. Nothing of it is kept alive here.
#[derive(Clone)]
pub(crate) struct DrainingGeneration {
    pub(crate) number: u64,
    /// The time at which it was replaced.
    pub(crate) since: Moment,
    usage: Arc<GenerationUsage>,
    generation: Observer,
    service: Observer,
    /// The number of handles of the service that the generation itself has, in its routes.
    own_handles: usize,
    /// The connections of the resources that the successor did not carry over.
    connections: Vec<(Name, ConnectionCounter)>,
    /// The versions that the successor has replaced or dropped.
    versions: Vec<HeldVersion>,
}

#[derive(Clone)]
struct HeldVersion {
    credential: Name,
    version: VersionId,
    value: Observer,
}

/// The holders of a generation that was replaced.
#[derive(Default, Serialize)]
pub(crate) struct Holders {
    /// The requests whose response has not ended.
    pub(crate) requests: usize,
    /// The long-lived responses, by route. Those that the request still carries are among the requests too.
    pub(crate) long_lived: BTreeMap<String, usize>,
    /// The pieces of background work, by the name of their worker.
    pub(crate) work: BTreeMap<&'static str, usize>,
    /// The handles of the service or of the generation in tasks. They are counted only if there are no requests: requests
    /// have such handles too.
    pub(crate) handles: usize,
    /// The open connections, by credential.
    pub(crate) connections: BTreeMap<Name, usize>,
    /// The replaced versions whose values somebody holds, by credential.
    pub(crate) versions: BTreeMap<Name, BTreeSet<VersionId>>,
}

/// A draining generation as `/status` shows it.
#[derive(Serialize)]
struct DrainingStatus {
    generation: u64,
    since: Moment,
    reason: String,
    #[serde(flatten)]
    holders: Holders,
}

impl Serialize for DrainingGeneration {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let holders = self.holders();
        let status =
            DrainingStatus { generation: self.number, since: self.since, reason: holders.to_string(), holders };
        status.serialize(serializer)
    }
}

impl DrainingGeneration {
    /// Returns the entry of a generation that `successor` replaces.
    pub(super) fn new<A: Application>(replaced: &Arc<Generation<A>>, successor: &Generation<A>, since: Moment) -> Self {
        let carried_over: Vec<_> = successor.resources.connections().map(|(_, counter)| counter).collect();
        let mut connections: Vec<_> = replaced.resources.connections().collect();
        connections.retain(|(_, counter)| !carried_over.iter().any(|other| other.is_same_as(counter)));
        let mut versions = Vec::new();
        for (credential, held) in replaced.credentials.iter() {
            let next = successor.credentials.get(credential, &held.id);
            for version in held.versions_replaced_by(next) {
                versions.push(HeldVersion { credential, version: version.clone(), value: held.observer() });
            }
        }
        Self {
            number: replaced.number,
            since,
            usage: replaced.usage.clone(),
            generation: Arc::<Generation<A>>::downgrade(replaced),
            service: Arc::<A>::downgrade(&replaced.service),
            own_handles: replaced.own_handles,
            connections,
            versions,
        }
    }

    /// Returns `true` while somebody holds anything of it.
    pub(crate) fn is_in_use(&self) -> bool {
        self.usage.is_any()
            || self.generation.strong_count() > 0
            || self.service.strong_count() > 0
            || self.versions.iter().any(HeldVersion::is_held)
            || self.connections.iter().any(|(_, counter)| counter.count() != OpenConnections::default())
    }

    pub(crate) fn holders(&self) -> Holders {
        let mut holders = Holders {
            requests: self.usage.requests(),
            work: self.usage.work(),
            long_lived: self.usage.long_lived_responses(),
            ..Holders::default()
        };
        let pieces: usize = holders.work.values().sum();
        let of_generation = self.generation.strong_count();
        let of_service = self.service.strong_count().saturating_sub(pieces);
        holders.handles = match (holders.requests, of_generation) {
            (0, 0) => of_service,
            (0, _) => of_generation + of_service.saturating_sub(self.own_handles),
            (requests, _) => of_generation.saturating_sub(requests),
        };
        for (credential, counter) in &self.connections {
            let OpenConnections { idle, used } = counter.count();
            if idle + used > 0 {
                *holders.connections.entry(credential).or_default() += idle + used;
            }
        }
        for held in &self.versions {
            if held.is_held() {
                holders.versions.entry(held.credential).or_default().insert(held.version.clone());
            }
        }
        holders
    }

    /// Returns the numbers of its open connections.
    pub(super) fn connections(&self) -> impl Iterator<Item = OpenConnections> {
        self.connections.iter().map(|(_, counter)| counter.count())
    }

    /// Records that the versions which somebody holds are in use now.
    pub(super) fn record_use(&self, last_uses: &LastUses) {
        for held in self.versions.iter().filter(|held| held.is_held()) {
            last_uses.record(held.credential, &held.version);
        }
    }
}

impl HeldVersion {
    fn is_held(&self) -> bool {
        self.value.strong_count() > 0
    }
}

impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.requests > 0 {
            parts.push(counted(self.requests, "request", "requests"));
        }
        for (route, responses) in &self.long_lived {
            parts.push(format!("{} at `{route}`", counted(*responses, "long-lived response", "long-lived responses")));
        }
        for (worker, pieces) in &self.work {
            parts.push(format!("{} of `{worker}`", counted(*pieces, "piece of work", "pieces of work")));
        }
        if self.handles > 0 {
            parts.push(counted(self.handles, "handle in tasks", "handles in tasks"));
        }
        for (credential, connections) in &self.connections {
            parts.push(format!("{} of `{credential}`", counted(*connections, "connection", "connections")));
        }
        if parts.is_empty() {
            parts.push("parts of the service in tasks".into());
        }
        f.write_str(&parts.join(", "))?;
        if self.versions.is_empty() {
            return Ok(());
        }
        let mut held = Vec::new();
        for (credential, versions) in &self.versions {
            held.extend(versions.iter().map(|version| format!("`{credential}` {version}")));
        }
        write!(f, "; versions held: {}", held.join(", "))
    }
}

fn counted(count: usize, one: &str, many: &str) -> String {
    let unit = if count == 1 { one } else { many };
    format!("{count} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        application::Build,
        config::Config,
        credentials::{api_key::ApiKey, signing_keys::SigningKeys},
        openapi::OpenApiRouter,
        package::Package,
        resources::build_error::BuildError,
        secrets::{credential::Credential, version::Stage},
        testing::{Harness, MemoryManager},
    };
    use axum::{
        Router,
        extract::State,
        middleware::{self, Next},
        routing::get,
    };
    use base64::{Engine, engine::general_purpose::STANDARD};
    use tokio::sync::Semaphore;
    use vestibule_derive::SecretSet;

    #[derive(SecretSet)]
    struct Secrets {
        key: Credential<ApiKey>,
        signing: Credential<SigningKeys>,
    }

    struct Holding {
        key: Arc<ApiKey>,
        signing: Arc<SigningKeys>,
    }

    impl Application for Holding {
        const PACKAGE: Package = Package::new("holding", "0");
        type Settings = ();
        type Secrets = Secrets;

        async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
            Ok(Self { key: cx.secrets.key.shared(), signing: cx.secrets.signing.shared() })
        }

        fn routes() -> OpenApiRouter<Arc<Self>> {
            let handler = async |State(_): State<Arc<Self>>| "";
            OpenApiRouter::new().route("/one", get(handler)).route("/two", get(handler))
        }

        fn layers(service: &Arc<Self>, routes: Router) -> Router {
            let pass = async |State(_): State<Arc<Self>>, request, next: Next| next.run(request).await;
            routes.layer(middleware::from_fn_with_state(service.clone(), pass))
        }
    }

    /// A request, as the door counts it.
    struct Request(Arc<Generation<Holding>>);

    impl Drop for Request {
        fn drop(&mut self) {
            self.0.usage.request_ended();
        }
    }

    /// Returns a signing key of this byte, as the manager has it.
    fn signing_key(byte: u8) -> String {
        STANDARD.encode([byte; 32])
    }

    /// Rotates the key. Returns the entry of the replaced generation, which `keep` holds something of.
    async fn drain<K>(keep: impl FnOnce(Arc<Generation<Holding>>) -> K) -> (DrainingGeneration, K) {
        let manager = MemoryManager::with([("key", "one".to_owned()), ("signing", signing_key(1))]);
        let harness = Harness::<Holding>::start(manager.clone(), Config::default()).await.unwrap();
        let before = harness.live().generation();
        manager.rotate("key", "two");
        assert!(harness.reload().await.unwrap());
        let after = harness.live().generation();
        let entry = DrainingGeneration::new(&before, &after, Moment::now());
        (entry, keep(before))
    }

    /// Checks that the entry says this of the holder, and that nothing is in use once the holder is gone.
    async fn assert_holder<K>(keep: impl FnOnce(Arc<Generation<Holding>>) -> K, says: &str) {
        let (entry, kept) = drain(keep).await;
        let reason = entry.holders().to_string();
        assert!(entry.is_in_use() && reason.starts_with(says), "{reason}");
        drop(kept);
        assert!(!entry.is_in_use(), "{}", entry.holders());
    }

    #[tokio::test]
    async fn nothing_drains_if_nobody_holds_anything() {
        let (entry, ()) = drain(drop).await;
        assert!(!entry.is_in_use());
    }

    #[tokio::test]
    async fn dropped_keys_that_only_verified_are_named_while_somebody_holds_them() {
        let manager = MemoryManager::with([("key", "one")]);
        let dropped = manager.put("signing", signing_key(1));
        let signed = manager.rotate("signing", signing_key(2));
        let harness = Harness::<Holding>::start(manager.clone(), Config::default()).await.unwrap();
        let before = harness.live().generation();
        let entry_after_reload = async || {
            assert!(harness.reload().await.unwrap());
            DrainingGeneration::new(&before, &harness.live().generation(), Moment::now())
        };
        manager.remove_label("signing", Stage::Previous);
        let after_drop = entry_after_reload().await;
        assert_eq!(after_drop.holders().versions, BTreeMap::from([("signing", BTreeSet::from([dropped.clone()]))]));
        manager.rotate("signing", signing_key(3));
        let after_rotation = entry_after_reload().await;
        assert_eq!(after_rotation.holders().versions, BTreeMap::from([("signing", BTreeSet::from([dropped, signed]))]));
        let keys = before.service.signing.clone();
        drop(before);
        assert!(
            after_drop.holders().to_string().starts_with("parts of the service in tasks; versions held: `signing` ")
        );
        drop(keys);
        assert!(!after_drop.is_in_use() && !after_rotation.is_in_use());
    }

    #[tokio::test]
    async fn each_holder_is_named_until_it_is_gone() {
        assert_holder(|generation| generation, "1 handle in tasks; versions held: `key` ").await;
        assert_holder(|generation| generation.service.clone(), "1 handle in tasks").await;
        assert_holder(|generation| generation.service.key.clone(), "parts of the service in tasks; versions held")
            .await;
        let two_handles =
            |generation: Arc<Generation<Holding>>| (generation.service.clone(), generation.service.clone());
        assert_holder(two_handles, "2 handles in tasks").await;
        let work = |generation: Arc<Generation<Holding>>| {
            let pieces = [generation.usage.piece_of_work("mail"), generation.usage.piece_of_work("mail")];
            (generation.service.clone(), generation.service.clone(), pieces)
        };
        assert_holder(work, "2 pieces of work of `mail`; versions held").await;
        let request = |generation: Arc<Generation<Holding>>| {
            generation.usage.request_started();
            Request(generation)
        };
        assert_holder(request, "1 request; versions held").await;
        let work_alone = |generation: Arc<Generation<Holding>>| generation.usage.piece_of_work("mail");
        assert_holder(work_alone, "1 piece of work of `mail`").await;
        let response_alone = |generation: Arc<Generation<Holding>>| {
            let place = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("a free place");
            generation.usage.long_lived("/events", place)
        };
        assert_holder(response_alone, "1 long-lived response at `/events`").await;
    }
}
