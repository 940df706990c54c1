//! The secrets that this process holds now, for the thread that writes the log: no line may contain one.
//!
//! It is a net under the types, not a reason to log a credential.

use super::{buffer::LogLines, secret_filter::SecretFilter};
use crate::secrets::{credential::Name, secret_parts::SecretParts};
use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

/// The secrets of all credentials that are alive in this process. There is one list per process, as there is one log.
static LIVE: Mutex<LiveSecrets> = Mutex::new(LiveSecrets { secrets: Vec::new(), filter: SecretFilter::new() });

/// A list of secrets that are alive. It keeps none of them alive.
struct LiveSecrets {
    secrets: Vec<LiveSecret>,
    filter: SecretFilter,
}

struct LiveSecret {
    credential: Name,
    /// The credential. When it has been dropped, the parts are wiped.
    value: Weak<dyn Any + Send + Sync>,
    parts: SecretParts,
}

/// A guard of a credential's entry in the list. Drop it after the credential: then the entry is wiped at once. If
/// something else still holds the credential, the next line of the log wipes it later.
pub(crate) struct LiveSecretGuard(());

/// Withholds lines that contain `parts` while `value` is alive.
pub(crate) fn watch(credential: Name, value: &Arc<dyn Any + Send + Sync>, parts: SecretParts) -> LiveSecretGuard {
    lock().add(LiveSecret { credential, value: Arc::downgrade(value), parts });
    LiveSecretGuard(())
}

/// Returns the numbers of the lines that contain a secret, each with the credential's name.
pub(super) fn find_in(lines: &LogLines) -> BTreeMap<usize, Name> {
    let mut live = lock();
    live.sweep();
    let (text, mut found) = (lines.text(), BTreeMap::new());
    live.filter.starts(text).for_each(|range| {
        found.extend(range.filter_map(|start| Some((lines.line_at(start), live.at_start_of(&text[start..])?))));
    });
    found
}

/// Returns `true` if a text contains a secret. For what leaves the machine without the log.
pub(crate) fn is_in(text: &str) -> bool {
    let mut live = lock();
    live.sweep();
    let text = text.as_bytes();
    live.filter.starts(text).flatten().any(|start| live.at_start_of(&text[start..]).is_some())
}

impl LiveSecrets {
    fn add(&mut self, secret: LiveSecret) {
        secret.parts.forms().for_each(|form| self.filter.add(form));
        self.secrets.push(secret);
    }

    /// Wipes the entries of credentials that have been dropped.
    fn sweep(&mut self) {
        let count = self.secrets.len();
        self.secrets.retain(|secret| secret.value.strong_count() > 0);
        if self.secrets.len() == count {
            return;
        }
        self.filter.clear();
        self.secrets.iter().flat_map(|secret| secret.parts.forms()).for_each(|form| self.filter.add(form));
    }

    /// Returns the credential of the secret that a text begins with.
    fn at_start_of(&self, text: &[u8]) -> Option<Name> {
        let mut secrets = self.secrets.iter();
        let found = secrets.find(|secret| secret.parts.forms().any(|form| text.starts_with(form)))?;
        Some(found.credential)
    }
}

fn lock() -> MutexGuard<'static, LiveSecrets> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for LiveSecretGuard {
    fn drop(&mut self) {
        lock().sweep();
    }
}

impl fmt::Debug for LiveSecretGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LiveSecretGuard")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        application::{Application, Build},
        config::Config,
        credentials::api_key::ApiKey,
        openapi::OpenApiRouter,
        package::Package,
        resources::build_error::BuildError,
        secrets::{credential::Credential, kind::Kind, resolver::Resolver, set::SecretSet, spec::CredentialSpec},
        testing::{Harness, MemoryManager},
    };

    /// The name of a credential that no other test has: they share the list.
    const KEY: Name = "key_in_the_log";

    struct Secrets {
        key: Credential<ApiKey>,
    }

    impl SecretSet for Secrets {
        fn specs() -> Vec<CredentialSpec> {
            vec![CredentialSpec { name: KEY, kind: ApiKey::NAME, stages: ApiKey::STAGES, optional: false }]
        }

        fn resolve(resolver: &mut Resolver<'_>) -> Option<Self> {
            Some(Self { key: resolver.resolve(KEY)? })
        }
    }

    /// A service that holds its key.
    struct KeyHolder(#[expect(dead_code, reason = "it only holds it")] Arc<ApiKey>);

    impl Application for KeyHolder {
        const PACKAGE: Package = Package::new("key-holder", "0");
        type Settings = ();
        type Secrets = Secrets;

        async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
            Ok(Self(cx.secrets.key.shared()))
        }

        fn routes() -> OpenApiRouter<Arc<Self>> {
            OpenApiRouter::new()
        }
    }

    fn count() -> usize {
        lock().secrets.iter().filter(|secret| secret.credential == KEY).count()
    }

    #[tokio::test]
    async fn a_secret_is_forgotten_with_its_last_generation_without_a_line_of_the_log() {
        let manager = MemoryManager::with([(KEY, "the-first-key")]);
        let harness = Harness::<KeyHolder>::start(manager.clone(), Config::default()).await.unwrap();
        assert_eq!(count(), 1);
        assert!(is_in("/hooks/the-first-key") && !is_in("/hooks/the-second-key"));
        let before = harness.live().generation();
        manager.rotate(KEY, "the-second-key");
        assert!(harness.reload().await.unwrap());
        assert_eq!(count(), 2, "a request may still hold the older generation");
        drop(before);
        assert_eq!(count(), 1);
        manager.rotate(KEY, "a malformed key");
        harness.reload().await.unwrap_err();
        assert_eq!(count(), 1);
        harness.stop().await;
        assert_eq!(count(), 0);
    }
}
