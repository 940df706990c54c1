//! The secrets that this process holds now, for the thread that writes the log: no line may contain one.
//!
//! It is a net under the types, not a reason to log a credential.

use super::{buffer::LogLines, json::CUT, secret_filter::SecretFilter};
use crate::secrets::{credential::Name, secret_parts::SecretParts};
use slab::Slab;
use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak},
};
use zeroize::Zeroize;

/// The secrets of all credentials that are alive in this process. There is one list per process, as there is one log.
/// Many can search at once: a request must not wait for the thread that searches a batch of lines.
static LIVE: RwLock<LiveSecrets> = RwLock::new(LiveSecrets::new());

/// A list of secrets that are alive. It keeps none of them alive.
///
/// A process can hold thousands of credentials, as that of a test with many services does. So the end of one walks neither the
/// list nor the filter.
struct LiveSecrets {
    secrets: Slab<LiveSecret>,
    /// The keys of entries without a guard, whose credentials something else still held.
    unguarded: Vec<usize>,
    filter: SecretFilter,
    /// `true` if the filter still has secrets that were wiped. The next search makes it anew.
    is_filter_stale: bool,
}

struct LiveSecret {
    credential: Name,
    /// The credential. When it has been dropped, the parts are wiped.
    value: Weak<dyn Any + Send + Sync>,
    parts: SecretParts,
}

/// A guard of a credential's entry in the list, by its key. Drop it after the credential: then the entry is wiped at once. If
/// something else still holds the credential, the next line of the log, or the end of another one, wipes it later.
pub(crate) struct LiveSecretGuard(usize);

/// Withholds lines that contain `parts` while `value` is alive.
pub(crate) fn watch(credential: Name, value: &Arc<dyn Any + Send + Sync>, parts: SecretParts) -> LiveSecretGuard {
    LiveSecretGuard(write().add(LiveSecret { credential, value: Arc::downgrade(value), parts }))
}

/// Returns the numbers of the lines that contain a secret, each with the credential's name.
pub(super) fn find_in(lines: &LogLines) -> BTreeMap<usize, Name> {
    let live = prepared();
    let (text, mut found) = (lines.text(), BTreeMap::new());
    live.filter.starts(text).for_each(|range| {
        found.extend(range.filter_map(|start| {
            let line = lines.line_at(start);
            Some((line, live.at_start_of(&text[start..], lines.is_cut(line))?))
        }));
    });
    found
}

/// Returns `true` if a text contains a secret. For what leaves the machine without the log.
pub(crate) fn is_in(text: &str) -> bool {
    let live = prepared();
    let text = text.as_bytes();
    live.filter.starts(text).flatten().any(|start| live.at_start_of(&text[start..], false).is_some())
}

/// Replaces an error that contains a secret. Returns `true` if it does.
pub(crate) fn withhold(error: &mut String) -> bool {
    let has_secret = is_in(error);
    if has_secret {
        error.zeroize();
        error.push_str("the error contained a secret; it is withheld");
    }
    has_secret
}

impl LiveSecrets {
    const fn new() -> Self {
        Self { secrets: Slab::new(), unguarded: Vec::new(), filter: SecretFilter::new(), is_filter_stale: false }
    }

    /// Returns the key of the new entry.
    fn add(&mut self, secret: LiveSecret) -> usize {
        secret.parts.forms().for_each(|form| self.filter.add(form));
        self.secrets.insert(secret)
    }

    /// Wipes an entry that loses its guard, unless something still holds its credential.
    fn release(&mut self, key: usize) {
        self.unguarded.push(key);
        self.wipe_unguarded();
    }

    /// Wipes the entries without a guard whose credentials have been dropped.
    fn wipe_unguarded(&mut self) {
        self.unguarded.retain(|&key| {
            let is_alive = self.secrets[key].value.strong_count() > 0;
            if !is_alive {
                self.secrets.remove(key);
                self.is_filter_stale = true;
            }
            is_alive
        });
    }

    fn is_prepared(&self) -> bool {
        self.unguarded.is_empty() && !self.is_filter_stale
    }

    /// Prepares a search: only credentials that are alive are found.
    fn prepare(&mut self) {
        self.wipe_unguarded();
        if self.is_filter_stale {
            self.filter.clear();
            let forms = self.secrets.iter().flat_map(|(_, secret)| secret.parts.forms());
            forms.for_each(|form| self.filter.add(form));
            self.is_filter_stale = false;
        }
    }

    /// Returns the credential of the secret that a text begins with. `is_cut` says that the text is of a line of which the log
    /// left something out.
    fn at_start_of(&self, text: &[u8], is_cut: bool) -> Option<Name> {
        let begins_with = |form: &[u8]| text.starts_with(form) || (is_cut && begins_with_part(text, form));
        let (_, found) = self.secrets.iter().find(|(_, secret)| secret.parts.forms().any(begins_with))?;
        Some(found.credential)
    }
}

/// Returns `true` if a text begins with what is left of a secret where the log has cut a long value. Apply it to lines that
/// were cut: a client can send the mark of a cut, and the beginnings of many secrets are no secret.
fn begins_with_part(text: &[u8], secret: &[u8]) -> bool {
    let shown = text.iter().zip(secret).take_while(|(shown, of_secret)| shown == of_secret).count();
    shown >= SecretParts::SHORTEST && text[shown..].starts_with(CUT.as_bytes())
}

fn read() -> RwLockReadGuard<'static, LiveSecrets> {
    LIVE.read().unwrap_or_else(PoisonError::into_inner)
}

fn write() -> RwLockWriteGuard<'static, LiveSecrets> {
    LIVE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the list for a search.
fn prepared() -> RwLockReadGuard<'static, LiveSecrets> {
    let live = read();
    if live.is_prepared() {
        return live;
    }
    drop(live);
    write().prepare();
    read()
}

impl Drop for LiveSecretGuard {
    fn drop(&mut self) {
        write().release(self.0);
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
        secrets::credential::Credential,
        testing::{Harness, MemoryManager},
    };
    use secrecy::ExposeSecret;
    use vestibule_derive::SecretSet;

    /// The name of a credential that no other test has: they share the list.
    const KEY: Name = "key_in_the_log";

    #[derive(SecretSet)]
    struct Secrets {
        key_in_the_log: Credential<ApiKey>,
    }

    /// A service that holds its key.
    struct KeyHolder(#[expect(dead_code, reason = "it only holds it")] Arc<ApiKey>);

    impl Application for KeyHolder {
        const PACKAGE: Package = Package::new("key-holder", "0");
        type Settings = ();
        type Secrets = Secrets;

        async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
            Ok(Self(cx.secrets.key_in_the_log.shared()))
        }

        fn routes() -> OpenApiRouter<Arc<Self>> {
            OpenApiRouter::new()
        }
    }

    fn count() -> usize {
        read().secrets.iter().filter(|(_, secret)| secret.credential == KEY).count()
    }

    #[test]
    fn the_end_of_a_secret_wipes_its_entry_alone_and_hides_no_other_one() {
        let mut list = LiveSecrets::new();
        let mut watch = |secret: &str| {
            let (value, mut parts): (Arc<dyn Any + Send + Sync>, _) = (Arc::new(()), SecretParts::default());
            parts.add(secret);
            (list.add(LiveSecret { credential: KEY, value: Arc::downgrade(&value), parts }), value)
        };
        let [ends, outlives_its_guard, _stays] =
            ["the-one-that-ends", "the-one-of-a-task", "one-that-stays"].map(&mut watch);
        let count_in = |list: &mut LiveSecrets| {
            list.prepare();
            let text: &[u8] = b"the-one-that-ends, the-one-of-a-task, one-that-stays";
            list.filter
                .starts(text)
                .flatten()
                .filter(|start| list.at_start_of(&text[*start..], false).is_some())
                .count()
        };
        assert_eq!(count_in(&mut list), 3);
        drop(ends.1);
        list.release(ends.0);
        assert_eq!(list.secrets.len(), 2, "it is wiped at once");
        list.release(outlives_its_guard.0);
        assert_eq!(count_in(&mut list), 2, "a task still holds one of them");
        drop(outlives_its_guard.1);
        assert_eq!((count_in(&mut list), list.secrets.len()), (1, 1));
        assert!(list.unguarded.is_empty());
    }

    #[test]
    fn the_beginning_of_a_secret_is_found_where_a_value_was_cut() {
        let (text, secret) = (|end: &str| format!("the-secret{end}"), b"the-secret-of-a-long-line");
        for (end, is_found) in [("…", true), ("-of…\"}", true), ("-on", false), ("-of", false)] {
            assert_eq!(begins_with_part(text(end).as_bytes(), secret), is_found, "{end}");
        }
        assert!(!begins_with_part("the-sec…".as_bytes(), secret), "shorter than a secret");
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

    #[derive(SecretSet)]
    struct QuotedSecrets {
        quoted_key: Credential<ApiKey>,
    }

    /// A service that quotes a key which it does not like.
    struct Quoting;

    impl Application for Quoting {
        const PACKAGE: Package = Package::new("quoting", "0");
        type Settings = ();
        type Secrets = QuotedSecrets;

        async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
            let key = cx.secrets.quoted_key.expose_secret();
            if key.starts_with("bad") {
                Err(BuildError::setting(&format!("of {key}"), &format!("403 for {key}")))
            } else {
                Ok(Self)
            }
        }

        fn routes() -> OpenApiRouter<Arc<Self>> {
            OpenApiRouter::new()
        }
    }

    #[tokio::test]
    async fn an_error_that_quotes_a_new_secret_is_withheld_in_a_start_and_in_a_reload() {
        let manager = MemoryManager::with([("quoted_key", "bad-first-key")]);
        let report = Harness::<Quoting>::start(manager.clone(), Config::default()).await.map(drop).unwrap_err();
        let report = report.to_string();
        assert!(report.contains("contained a secret") && !report.contains("first"), "{report}");
        manager.rotate("quoted_key", "a-good-key");
        let harness = Harness::<Quoting>::start(manager.clone(), Config::default()).await.unwrap();
        manager.rotate("quoted_key", "bad-second-key");
        harness.reload().await.unwrap_err();
        let status = serde_json::to_value(&*harness.reloader.status.read().borrow()).unwrap();
        assert_eq!(status["last_reload"]["error"], "the error contained a secret; it is withheld");
    }
}
