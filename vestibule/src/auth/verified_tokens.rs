//! The tokens that were verified a moment ago: verifying one again costs 16 to 100 µs.

use super::{access_token::AccessToken, key_set::KeySet};
use aws_lc_rs::digest::{self, SHA256};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// The largest number of tokens.
const MAX_TOKENS: usize = 4096;

/// Claims of verified tokens, by the SHA-256 of the token.
pub(super) struct VerifiedTokens {
    lifetime: Duration,
    verified: Mutex<VerifiedBySet>,
}

/// The tokens that one set of keys has verified.
#[derive(Default)]
struct VerifiedBySet {
    keys: Option<Arc<KeySet>>,
    tokens: HashMap<[u8; 32], (AccessToken, Instant)>,
}

impl VerifiedTokens {
    pub(super) fn new(lifetime: Duration) -> Self {
        Self { lifetime, verified: Mutex::default() }
    }

    /// Returns the claims of a token, if these keys have verified it a moment ago.
    pub(super) fn get(&self, token: &str, keys: &Arc<KeySet>) -> Option<AccessToken> {
        let verified = self.verified_by(keys);
        let (token, until) = verified.tokens.get(&hash(token))?;
        if Instant::now() < *until && !token.has_expired() { Some(token.clone()) } else { None }
    }

    /// Adds a token that these keys have verified.
    pub(super) fn add(&self, token: &str, claims: &AccessToken, keys: &Arc<KeySet>) {
        if self.lifetime.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut verified = self.verified_by(keys);
        if verified.tokens.len() >= MAX_TOKENS {
            verified.tokens.retain(|_, (_, until)| now < *until);
        }
        if verified.tokens.len() >= MAX_TOKENS {
            verified.tokens.clear();
        }
        verified.tokens.insert(hash(token), (claims.clone(), now + self.lifetime));
    }

    /// Forgets all tokens if the keys have changed: the key of one may be among those that are gone.
    fn verified_by(&self, keys: &Arc<KeySet>) -> MutexGuard<'_, VerifiedBySet> {
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if !verified.keys.as_ref().is_some_and(|held| Arc::ptr_eq(held, keys)) {
            *verified = VerifiedBySet { keys: Some(keys.clone()), tokens: HashMap::new() };
        }
        verified
    }
}

fn hash(token: &str) -> [u8; 32] {
    digest::digest(&SHA256, token.as_bytes()).as_ref().try_into().expect("SHA-256 has 32 bytes")
}
