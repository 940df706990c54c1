//! Signing what a client carries for us and must not change.

pub use crate::credentials::BadSignature;
use crate::{bell::Bell, credentials::SigningKeys};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use std::{fmt, sync::Arc};

/// Signs tokens for one purpose. Tokens are authentic, not confidential.
#[derive(Clone)]
pub struct Signer {
    keys: Arc<SigningKeys>,
    purpose: &'static str,
    bell: Arc<Bell>,
}

impl Signer {
    pub(super) fn new(keys: Arc<SigningKeys>, purpose: &'static str, bell: Arc<Bell>) -> Self {
        Self { keys, purpose, bell }
    }

    /// A token that carries `payload`: `<key id>.<payload>.<signature>`, safe in a URL.
    pub fn seal(&self, payload: &[u8]) -> String {
        let (key_id, signature) = self.keys.sign(&self.message(payload));
        format!("{key_id}.{}.{}", URL_SAFE_NO_PAD.encode(payload), URL_SAFE_NO_PAD.encode(signature))
    }

    /// The payload of a token that was sealed for this purpose with a key that is still held. A key that is not held
    /// yet sets off a reload, once in 30 s: replicas do not turn at the same instant.
    ///
    /// # Errors
    /// [`BadSignature`], whatever is wrong with it.
    pub fn open(&self, token: &str) -> Result<Vec<u8>, BadSignature> {
        // From the right: a key id may have dots, base64 has none.
        let mut parts = token.rsplitn(3, '.');
        let mut decoded = || URL_SAFE_NO_PAD.decode(parts.next()?).ok();
        let signature = decoded().ok_or(BadSignature)?;
        let payload = decoded().ok_or(BadSignature)?;
        let key_id = parts.next().ok_or(BadSignature)?;
        if self.keys.could_come(key_id) {
            self.bell.unknown_key();
        }
        self.keys.verify(key_id, &self.message(&payload), &signature)?;
        Ok(payload)
    }

    /// The purpose is part of what is signed; it has no zero byte, so no two pairs make the same message.
    fn message(&self, payload: &[u8]) -> Vec<u8> {
        [self.purpose.as_bytes(), &[0], payload].concat()
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("purpose", &self.purpose).finish_non_exhaustive()
    }
}
