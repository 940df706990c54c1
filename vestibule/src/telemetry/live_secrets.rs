//! The secrets that this process holds now, for the thread that writes the log: no line may contain one.
//!
//! It is a net under the types, not a reason to log a credential.

use super::buffer::LogLines;
use crate::secrets::{credential::Name, secret_parts::SecretParts};
use memchr::memmem;
use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

/// The secrets of all credentials that are alive in this process. There is one list per process, as there is one log.
static LIVE: LiveSecrets = LiveSecrets(Mutex::new(Vec::new()));

/// A list of secrets that are alive. It keeps none of them alive.
struct LiveSecrets(Mutex<Vec<LiveSecret>>);

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
    LIVE.lock().push(LiveSecret { credential, value: Arc::downgrade(value), parts });
    LiveSecretGuard(())
}

/// Returns the numbers of the lines that contain a secret, each with the credential's name.
pub(super) fn find_in(lines: &LogLines) -> BTreeMap<usize, Name> {
    let mut found = BTreeMap::new();
    for secret in LIVE.sweep().iter() {
        for form in secret.parts.forms() {
            let places = memmem::find_iter(lines.text(), form);
            found.extend(places.map(|place| (lines.line_at(place), secret.credential)));
        }
    }
    found
}

impl LiveSecrets {
    /// Wipes the entries of credentials that have been dropped.
    fn sweep(&self) -> MutexGuard<'_, Vec<LiveSecret>> {
        let mut secrets = self.lock();
        secrets.retain(|secret| secret.value.strong_count() > 0);
        secrets
    }

    fn lock(&self) -> MutexGuard<'_, Vec<LiveSecret>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LiveSecretGuard {
    fn drop(&mut self) {
        drop(LIVE.sweep());
    }
}

impl fmt::Debug for LiveSecretGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LiveSecretGuard")
    }
}
