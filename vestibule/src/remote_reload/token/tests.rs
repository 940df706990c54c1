use super::*;
use crate::secrets::{
    kind::Kind,
    version::{SecretValue, SecretValues, Stage},
};
use axum::http::HeaderValue;
use std::collections::BTreeMap;

const KEYS: [&str; 2] =
    ["MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXphYmNkZWY="];

const SERVICE: &str = "svc";

/// Returns the key of this number. Its version has the same number.
fn key(number: usize) -> SecretValue {
    SecretValue { text: KEYS[number].into(), version: VersionId::new(format!("v{number}")), created: None, lease: None }
}

fn keys(current: usize, others: &[(Stage, usize)]) -> Arc<SigningKeys> {
    let others: BTreeMap<_, _> = others.iter().map(|(stage, number)| (*stage, key(*number))).collect();
    SigningKeys::read(&SecretValues::new(key(current), others, None)).expect("keys").into()
}

fn signer_of(service: &'static str, keys: Arc<SigningKeys>) -> Signer {
    signer(service, "signing", keys, Duration::from_secs(60), Arc::default())
}

fn headers(authorization: &str) -> HeaderMap {
    HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::try_from(authorization).expect("visible ASCII"))])
}

/// A process that is asked for reloads.
struct Replica {
    instance: Uuid,
    keys: Arc<SigningKeys>,
    used: UsedTokens,
}

impl Replica {
    fn with(keys: Arc<SigningKeys>) -> Self {
        Self { instance: Uuid::new_v4(), keys, used: UsedTokens::default() }
    }

    fn verify(&self, authorization: &str) -> Result<String, Refused> {
        let signer = signer_of(SERVICE, self.keys.clone());
        verify(&headers(authorization), Some(signer), self.instance, &self.used).map(|key| key.to_string())
    }

    fn sealed(&self, key: &str, seconds_ago: i64) -> String {
        let signer = signer_of(SERVICE, keys(0, &[]));
        let now = time::OffsetDateTime::now_utc().unix_timestamp() - seconds_ago;
        let payload = payload(self.instance, Uuid::new_v4());
        let token = signer.seal_by_at(key, &payload, u64::try_from(now).expect("after 1970")).expect("a key");
        format!("{SCHEME} {token}")
    }
}

#[test]
fn a_token_is_good_for_one_reload_of_one_process() {
    let replica = Replica::with(keys(0, &[]));
    let authorization = replica.sealed("v0", 0);
    let other = Replica::with(keys(0, &[]));
    assert_eq!(other.verify(&authorization), Err(Refused::OtherProcess));
    assert_eq!(replica.verify(&authorization), Ok("v0".into()));
    assert_eq!(replica.verify(&authorization), Err(Refused::Replayed));
    assert_eq!(replica.verify(&replica.sealed("v0", 0)), Ok("v0".into()), "another token");
}

#[test]
fn a_token_is_good_for_a_minute_and_clocks_may_differ_by_one() {
    let replica = Replica::with(keys(0, &[]));
    for (seconds_ago, expected) in
        [(62, Err(Refused::OutOfTime)), (58, Ok("v0".into())), (-58, Ok("v0".into())), (-62, Err(Refused::OutOfTime))]
    {
        assert_eq!(replica.verify(&replica.sealed("v0", seconds_ago)), expected, "{seconds_ago}");
    }
}

#[test]
fn every_key_that_may_verify_does() {
    let replicas = [
        Replica::with(keys(0, &[])),
        Replica::with(keys(1, &[(Stage::Pending, 0)])),
        Replica::with(keys(1, &[(Stage::Previous, 0)])),
    ];
    for replica in replicas {
        assert_eq!(replica.verify(&replica.sealed("v0", 0)), Ok("v0".into()));
    }
    let rotated = Replica::with(keys(1, &[]));
    assert_eq!(rotated.verify(&rotated.sealed("v0", 0)), Err(Refused::BadSignature), "the key is gone");
}

#[test]
fn what_another_signer_of_the_same_key_seals_is_void() {
    let replica = Replica::with(keys(0, &[]));
    let payload = payload(replica.instance, Uuid::new_v4());
    let token = Signer::new("signing", keys(0, &[]), SERVICE, LIFETIME, LIFETIME, Arc::default(), Arc::default())
        .seal(&payload);
    let of_another_service = signer_of("other", keys(0, &[])).seal_by("v0", &payload).expect("a key");
    let debug = Signer::new("signing", keys(0, &[]), SERVICE, LIFETIME, LIFETIME, Arc::default(), Arc::default())
        .for_debug_tokens()
        .seal(&payload);
    let of_another_request = signer_of(SERVICE, keys(0, &[]))
        .seal_by("v0", &[b"POST /status ".as_slice(), &payload[REQUEST.len()..]].concat())
        .expect("a key");
    assert_eq!(b"POST /status ".len(), REQUEST.len());
    let longer = signer_of(SERVICE, keys(0, &[])).seal_by("v0", &[&payload[..], b"x"].concat()).expect("a key");
    for token in [token, debug, of_another_service, of_another_request, longer] {
        assert_eq!(replica.verify(&format!("{SCHEME} {token}")), Err(Refused::BadSignature));
    }
}

#[test]
fn a_request_without_a_token_is_unsigned() {
    let replica = Replica::with(keys(0, &[]));
    for authorization in ["", "Bearer x", SCHEME, "Vestibule-Reloading x"] {
        assert_eq!(replica.verify(authorization), Err(Refused::Unsigned), "{authorization}");
    }
    for token in ["x", "v0.x.y", &"x".repeat(MAX_TOKEN + 1)] {
        assert_eq!(replica.verify(&format!("{SCHEME} {token}")), Err(Refused::BadSignature), "{token}");
    }
}

#[test]
fn a_token_that_was_forgotten_counts_as_used() {
    let used = UsedTokens::default();
    let (first, nonce) = (1000, Uuid::new_v4());
    assert!(used.is_first_use(first, nonce));
    for later in 1..=MAX_USED as u64 {
        assert!(used.is_first_use(first + later, Uuid::new_v4()), "{later}");
    }
    assert_eq!(used.0.lock().unwrap().tokens.len(), MAX_USED, "the memory is bounded");
    assert!(!used.is_first_use(first, nonce), "it is forgotten");
    let (expires_at, kept) = *used.0.lock().unwrap().tokens.first().expect("a token");
    assert!(!used.is_first_use(expires_at, kept));
}
