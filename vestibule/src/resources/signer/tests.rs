use super::*;
use crate::secrets::{
    kind::Kind,
    version::{SecretValue, SecretValues, Stage},
};
use futures_util::FutureExt;
use std::collections::BTreeMap;

const KEYS: [&str; 3] = [
    "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXphYmNkZWY=",
    "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVpBQkNERUY=",
];

const LIFETIME: Duration = Duration::from_secs(1000);
const MAX_STALE: Duration = Duration::from_secs(100);

/// When the manager got the current key.
const TURNED: u64 = 1_000_000;

/// The key of this number, which is its version too.
fn key(number: usize, created: Option<u64>) -> SecretValue {
    let created = created.map(at);
    SecretValue { text: KEYS[number].into(), version: VersionId::new(format!("v{number}")), created }
}

fn at(seconds: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds as i64).unwrap()
}

fn signer_of(
    purpose: &'static str,
    current: SecretValue,
    others: &[(Stage, usize)],
    current_since: Option<u64>,
) -> Signer {
    let others: BTreeMap<_, _> = others.iter().map(|(stage, number)| (*stage, key(*number, Some(7)))).collect();
    let keys = SigningKeys::read(&SecretValues::new(current, others, current_since.map(at))).unwrap();
    Signer::new(keys.into(), purpose, LIFETIME, MAX_STALE, Arc::default())
}

fn signer(current: usize, others: &[(Stage, usize)]) -> Signer {
    signer_of("test", key(current, Some(TURNED)), others, None)
}

fn asks_for_a_trip(signer: &Signer) -> bool {
    signer.reload_requests.next().now_or_never().is_some()
}

#[test]
fn a_token_ends_with_its_lifetime() {
    let signer = signer(0, &[]);
    let token = signer.seal_at(b"payload", TURNED);
    assert_eq!(signer.open_at(&token, TURNED).unwrap(), b"payload");
    assert_eq!(signer.open_at(&token, TURNED + 1000).unwrap(), b"payload");
    assert_eq!(signer.open_at(&token, TURNED + 1001), Err(BadSignature));
    assert_eq!(signer.open_at(&token, TURNED - 60).unwrap(), b"payload", "the clock of another replica");
    assert_eq!(signer.open_at(&token, TURNED - 61), Err(BadSignature), "it would live for too long");
}

#[test]
fn the_end_of_a_token_is_signed() {
    let signer = signer(0, &[]);
    let token = signer.seal_at(b"payload", TURNED);
    let later = signer.seal_at(b"payload", TURNED + 1);
    let (rest, _) = later.rsplit_once('.').unwrap();
    let (_, signature) = token.rsplit_once('.').unwrap();
    assert_eq!(signer.open_at(&format!("{rest}.{signature}"), TURNED), Err(BadSignature));
}

#[test]
fn the_previous_key_verifies_until_all_that_it_signed_is_over() {
    let before = signer(0, &[]);
    let after = signer(1, &[(Stage::Previous, 0)]);
    let last = TURNED + 100;
    let token = before.seal_at(b"p", last);
    let signature = before.sign(b"m");
    assert_eq!(after.open_at(&token, last + 1000).unwrap(), b"p");
    assert_eq!(after.verify_at(b"m", &signature, last + 1000), Ok(()));
    // Nobody who keeps to the rules has signed this one.
    let late = before.seal_at(b"p", last + 1);
    assert_eq!(after.open_at(&late, last + 1001), Err(BadSignature));
    assert_eq!(after.verify_at(b"m", &signature, last + 1001), Err(BadSignature));
}

#[test]
fn a_version_that_is_pending_too_is_no_better_for_it() {
    let both = signer(1, &[(Stage::Previous, 0), (Stage::Pending, 0)]);
    let late = signer(0, &[]).seal_at(b"p", TURNED + 101);
    assert_eq!(both.open_at(&late, TURNED + 1101), Err(BadSignature));
}

#[test]
fn the_time_of_the_previous_key_counts_from_when_it_was_seen_to_be_replaced() {
    let token = signer(0, &[]).seal_at(b"p", TURNED + 5000);
    let others = [(Stage::Previous, 0)];
    let started_later = signer_of("test", key(1, Some(TURNED)), &others, None);
    assert_eq!(started_later.open_at(&token, TURNED + 5000), Err(BadSignature));
    let lived_through_it = signer_of("test", key(1, Some(TURNED)), &others, Some(TURNED + 4900));
    assert_eq!(lived_through_it.open_at(&token, TURNED + 5000).unwrap(), b"p");
    let rolled_back = signer_of("test", key(1, Some(3)), &others, None);
    assert_eq!(rolled_back.previous_until, 7 + 1100, "the younger of both counts");
    let untold = signer_of("test", key(1, None), &others, None);
    assert!(untold.previous_until.abs_diff(now() + 1100) <= 60, "since it was read");
}

#[test]
fn the_pending_key_verifies_already_and_an_unknown_one_is_asked_for() {
    let signer = signer(0, &[(Stage::Pending, 1)]);
    let next = signer_of("test", key(1, Some(TURNED)), &[], None).seal_at(b"p", TURNED + 9999);
    assert_eq!(signer.open_at(&next, TURNED + 9999).unwrap(), b"p");
    assert!(!asks_for_a_trip(&signer), "it is known");
    let other = signer_of("test", key(2, Some(TURNED)), &[], None).seal_at(b"p", TURNED);
    assert_eq!(signer.open_at(&other, TURNED + 1001), Err(BadSignature));
    assert!(!asks_for_a_trip(&signer), "what has ended is worth no trip");
    let made_up = format!("{}{other}", "v".repeat(64));
    assert_eq!(signer.open_at(&made_up, TURNED), Err(BadSignature));
    assert!(!asks_for_a_trip(&signer), "no manager has such an id");
    assert_eq!(signer.open_at(&other, TURNED), Err(BadSignature));
    assert!(asks_for_a_trip(&signer));
}

#[test]
fn purposes_and_forms_do_not_mix() {
    let sessions = signer_of("session", key(0, Some(TURNED)), &[], None);
    let cursors = signer_of("cursor", key(0, Some(TURNED)), &[], None);
    let token = sessions.seal_at(b"p", TURNED);
    assert_eq!(cursors.open_at(&token, TURNED), Err(BadSignature));
    let signature = sessions.sign(b"m");
    assert_eq!(sessions.verify(b"m", &signature), Ok(()));
    assert_eq!(sessions.verify(b"n", &signature), Err(BadSignature));
    assert_eq!(cursors.verify(b"m", &signature), Err(BadSignature));

    let (rest, bytes) = split(&token).unwrap();
    let (key_id, content) = split(rest).unwrap();
    let as_detached = Signature { key_id: VersionId::new(key_id), bytes: bytes.try_into().unwrap() };
    assert_eq!(sessions.verify(&content, &as_detached), Err(BadSignature));
}

#[test]
fn a_signature_is_one_word_of_text() {
    let signer = signer(0, &[]);
    let text = signer.sign(b"m").to_string();
    assert!(text.starts_with("v0.") && text.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");
    assert_eq!(signer.verify(b"m", &text.parse().unwrap()), Ok(()));
    for bad in ["", ".", "v0", "v0.", "v0.AAAA", &text[..text.len() - 1], &format!("{text}A")] {
        assert!(bad.parse::<Signature>().is_err(), "{bad}");
    }
}

#[test]
fn what_a_client_makes_up_is_refused() {
    let signer = signer(0, &[]);
    let token = signer.seal_at(b"", TURNED);
    assert_eq!(signer.open_at(&token, TURNED).unwrap(), b"");
    for bad in ["", ".", "..", "v0..", "v0.AAAA.AAAA", "v0.AAAAAAAAAAA.AAAA", &token[1..], &token[..token.len() - 1]] {
        assert_eq!(signer.open_at(bad, TURNED), Err(BadSignature), "{bad}");
    }
}

#[test]
fn no_length_of_time_is_too_long() {
    let keys = SigningKeys::read(&SecretValues::new(key(0, Some(TURNED)), BTreeMap::new(), None)).unwrap();
    let signer = Signer::new(keys.into(), "test", Duration::MAX, Duration::MAX, Arc::default());
    let token = signer.seal_at(b"p", now());
    assert_eq!(signer.open(&token).unwrap(), b"p");
    assert_eq!(signer.open_at(&token, u64::MAX).unwrap(), b"p");
    assert_eq!((whole_seconds(Duration::from_millis(1)), whole_seconds(Duration::from_secs(1))), (1, 1));
}
