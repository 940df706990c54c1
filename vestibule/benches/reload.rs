//! The cost of a reload with 1, 10 and 100 credentials, without the time that a secrets manager takes to answer.
//!
//! `cargo bench --bench reload` prints the calls of the manager, and then the times. `one_rotated` builds a generation
//! and publishes it.

use divan::Bencher;
use futures_util::future::BoxFuture;
use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicUsize, Ordering},
};
use tokio::runtime::Runtime;
use vestibule::testing::Harness;
use vestibule::{
    Application, Build, BuildError, Credential, OpenApiRouter, Package,
    config::Config,
    credentials::ApiKey,
    secrets::{
        CredentialField, CredentialSpec, Fetched, Resolver, SecretId, SecretSet, SecretValue, Source, SourceError,
        Stage, VersionId, Versions,
    },
};

/// The numbers of credentials.
const COUNTS: [usize; 3] = [1, 10, 100];

/// The names of credentials. The first one is rotated.
static NAMES: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| (0..COUNTS[2]).map(|index| &*format!("key_{index}").leak()).collect());

fn main() {
    print_calls::<1>();
    print_calls::<10>();
    print_calls::<100>();
    divan::main();
}

fn print_calls<const N: usize>() {
    let reloads = Reloads::<N>::start();
    let unchanged = reloads.calls(false);
    let rotated = reloads.calls(true);
    println!("{N} credentials: {unchanged} calls of the manager if nothing changed, {rotated} if one was rotated");
}

#[divan::bench(consts = COUNTS)]
fn unchanged<const N: usize>(bencher: Bencher<'_, '_>) {
    let reloads = Reloads::<N>::start();
    bencher.bench_local(|| reloads.reload(false));
}

#[divan::bench(consts = COUNTS)]
fn one_rotated<const N: usize>(bencher: Bencher<'_, '_>) {
    let reloads = Reloads::<N>::start();
    bencher.with_inputs(|| reloads.manager.rotate()).bench_local_values(|()| reloads.reload(true));
}

/// A service that can be reloaded, and its manager.
struct Reloads<const N: usize> {
    runtime: Runtime,
    manager: Arc<MemoryManager>,
    harness: Harness<KeyService<N>>,
}

impl<const N: usize> Reloads<N> {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let manager = Arc::new(MemoryManager::default());
        let starting = Harness::start(manager.clone(), Config::default());
        let harness = runtime.block_on(starting).expect("every key is there");
        Self { runtime, manager, harness }
    }

    fn reload(&self, is_new: bool) {
        let reloaded = self.runtime.block_on(self.harness.reload()).expect("every key is there");
        assert_eq!(reloaded, is_new);
    }

    /// Reloads once. Returns the number of calls of the manager.
    fn calls(&self, rotated: bool) -> usize {
        if rotated {
            self.manager.rotate();
        }
        let before = self.manager.calls.load(Ordering::Relaxed);
        self.reload(rotated);
        self.manager.calls.load(Ordering::Relaxed) - before
    }
}

/// A service with API keys and no routes.
struct KeyService<const N: usize>;

impl<const N: usize> Application for KeyService<N> {
    const PACKAGE: Package = Package::new("keys", "0");
    type Settings = ();
    type Secrets = Keys<N>;

    async fn build(_: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self)
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new()
    }
}

/// As many API keys as the number says. The derive cannot repeat a field.
struct Keys<const N: usize> {
    _keys: Vec<Credential<ApiKey>>,
}

impl<const N: usize> SecretSet for Keys<N> {
    fn specs() -> Vec<CredentialSpec> {
        NAMES[..N].iter().map(|name| Credential::<ApiKey>::spec(name)).collect()
    }

    fn resolve(resolver: &mut Resolver<'_>) -> Option<Self> {
        let keys: Vec<_> = NAMES[..N].iter().map(|name| CredentialField::resolve(name, resolver)).collect();
        Some(Self { _keys: keys.into_iter().collect::<Option<_>>()? })
    }
}

/// A secrets manager in memory that has every key, and answers at once.
#[derive(Default)]
struct MemoryManager {
    calls: AtomicUsize,
    /// The number of rotations of the first key.
    rotations: AtomicUsize,
}

impl MemoryManager {
    fn rotate(&self) {
        self.rotations.fetch_add(1, Ordering::Relaxed);
    }
}

impl Source for MemoryManager {
    fn fetch<'a>(
        &'a self,
        id: &'a SecretId,
        stage: Stage,
        held: Option<&'a VersionId>,
    ) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        Box::pin(async move {
            self.calls.fetch_add(1, Ordering::Relaxed);
            if stage != Stage::Current {
                return Ok(Fetched::Absent);
            }
            let is_first = id.as_str().ends_with(NAMES[0]);
            let rotations = if is_first { self.rotations.load(Ordering::Relaxed) } else { 0 };
            let version = VersionId::new(format!("00000000-0000-0000-0000-{rotations:012}"));
            if held == Some(&version) {
                return Ok(Fetched::Same);
            }
            Ok(Fetched::New(SecretValue {
                text: format!("key-{rotations}").into(),
                version,
                created: None,
                lease: None,
            }))
        })
    }

    fn versions<'a>(&'a self, _: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
        Box::pin(async {
            self.calls.fetch_add(1, Ordering::Relaxed);
            Ok(Versions::new())
        })
    }
}
