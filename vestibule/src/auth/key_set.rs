//! The public keys of an issuer (JWKS, RFC 7517).

use aws_lc_rs::digest::{self, SHA256};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;

/// The keys with which an issuer signs.
pub(crate) struct KeySet {
    /// A hash of the keys, by which replicas are compared. Neither their order nor the rest of the document changes it.
    pub(super) version: String,
    keys: Vec<IssuerKey>,
    /// The ids of keys that earlier sets had, and this one has not: the issuer has removed them, or one of its nodes has not
    /// heard of them yet.
    removed: BTreeSet<String>,
}

/// The most ids of removed keys that are remembered.
const MAX_REMOVED: usize = 1024;

/// One key, with the algorithms that it may be used for.
struct IssuerKey {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

#[derive(Deserialize)]
struct JwksDocument {
    keys: Vec<Value>,
}

impl KeySet {
    /// Reads a document. Leaves out keys that are of no use here: those for encryption, secret ones, unknown types.
    ///
    /// # Errors
    /// The problem, if the document is malformed, or if no key remains.
    pub(super) fn parse(document: &[u8]) -> Result<Self, &'static str> {
        #[expect(clippy::disallowed_methods, reason = "the keys are public, and the error is dropped")]
        let Ok(JwksDocument { keys }) = serde_json::from_slice(document) else {
            return Err("expected a JSON object with the list `keys`");
        };
        let mut of_use: Vec<_> =
            keys.into_iter().filter_map(|jwk| Some((jwk.to_string(), IssuerKey::parse(jwk)?))).collect();
        if of_use.is_empty() {
            return Err("no key has `use` \"sig\" and an algorithm with a public key");
        }
        of_use.sort_by(|(one, _), (other, _)| one.cmp(other));
        let (texts, keys): (Vec<_>, Vec<_>) = of_use.into_iter().unzip();
        let hash = digest::digest(&SHA256, texts.join("\n").as_bytes());
        Ok(Self { version: BASE64_URL_SAFE_NO_PAD.encode(&hash.as_ref()[..12]), keys, removed: BTreeSet::new() })
    }

    /// Returns the set as the successor of another one.
    pub(super) fn after(mut self, before: &Self) -> Self {
        let ids = before.ids().map(str::to_owned).chain(before.removed.iter().cloned());
        self.removed = ids.filter(|id| !self.has(id)).take(MAX_REMOVED).collect();
        self
    }

    /// Returns `true` if an earlier set had the key of this id.
    pub(super) fn has_removed(&self, id: &str) -> bool {
        self.removed.contains(id)
    }

    /// Returns `true` if this set has a key of this id.
    pub(super) fn has(&self, id: &str) -> bool {
        self.ids().any(|known| known == id)
    }

    /// Returns the ids of the keys.
    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().filter_map(|key| key.id.as_deref())
    }

    /// Returns the keys of this id and algorithm. Several keys may share an id (RFC 7517). A token may do without an id if
    /// its key has none either, or if there is one key only.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> impl Iterator<Item = &DecodingKey> {
        let is_id_needed = id.is_some() || self.keys.len() > 1;
        let fitting = self.keys.iter().filter(move |key| key.algorithms.contains(&algorithm));
        fitting.filter(move |key| !is_id_needed || key.id.as_deref() == id).map(|key| &key.key)
    }
}

impl IssuerKey {
    fn parse(jwk: Value) -> Option<Self> {
        let jwk = Jwk::deserialize(jwk).ok()?;
        if jwk.common.public_key_use != Some(PublicKeyUse::Signature) {
            return None;
        }
        let fitting = fitting_algorithms(&jwk.algorithm)?;
        let algorithms = match jwk.common.key_algorithm {
            None => fitting.to_vec(),
            Some(named) => {
                let named = Algorithm::try_from(named).ok()?;
                fitting.iter().copied().filter(|fits| *fits == named).collect()
            }
        };
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        if algorithms.is_empty() { None } else { Some(Self { id: jwk.common.key_id, algorithms, key }) }
    }
}

/// Returns the algorithms of a type of key. `None` if it has no public key, or is not supported.
fn fitting_algorithms(parameters: &AlgorithmParameters) -> Option<&'static [Algorithm]> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    Some(match parameters {
        AlgorithmParameters::RSA(_) => &[RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => &[ES256],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => &[ES384],
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &[EdDSA],
        _ => return None,
    })
}
