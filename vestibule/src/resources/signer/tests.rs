use super::*;
use crate::{
    moment::Moment,
    secrets::{
        kind::Kind,
        version::{SecretValue, SecretValues, Stage},
    },
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

/// The time at which the manager got the current key.
const ROTATED_AT: u64 = 1_000_000;

/// Returns the key of this number. Its version has the same number.
fn key(number: usize, created: Option<u64>) -> SecretValue {
    let created = created.map(at);
    SecretValue { text: KEYS[number].into(), version: VersionId::new(format!("v{number}")), created, lease: None }
}

fn at(seconds: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds as i64).unwrap()
}

fn signer_of(
    purpose: &'static str,
    current: SecretValue,
    others: &[(Stage, usize)],
    current_since: Option<Moment>,
) -> Signer {
    let others: BTreeMap<_, _> = others.iter().map(|(stage, number)| (*stage, key(*number, Some(7)))).collect();
    let keys = SigningKeys::read(&SecretValues::new(current, others, current_since)).unwrap();
    Signer::new("keys", keys.into(), purpose, LIFETIME, MAX_STALE, Arc::default(), Arc::default())
}

fn signer(current: usize, others: &[(Stage, usize)]) -> Signer {
    signer_of("test", key(current, Some(ROTATED_AT)), others, None)
}

fn requests_a_reload(signer: &Signer) -> bool {
    signer.reload_requests.next().now_or_never().is_some()
}

#[test]
fn a_token_expires_after_its_lifetime() {
    let signer = signer(0, &[]);
    let token = signer.seal_at(b"payload", ROTATED_AT);
    assert_eq!(signer.open_at(&token, ROTATED_AT).unwrap(), b"payload");
    assert_eq!(signer.open_at(&token, ROTATED_AT + 1000).unwrap(), b"payload");
    assert_eq!(signer.open_at(&token, ROTATED_AT + 1001), Err(BadSignature));
    assert_eq!(signer.open_at(&token, ROTATED_AT - 60).unwrap(), b"payload", "the clock of another replica");
    assert_eq!(signer.open_at(&token, ROTATED_AT - 61), Err(BadSignature), "it would live for too long");
}

#[test]
fn the_expiry_of_a_token_is_signed() {
    let signer = signer(0, &[]);
    let token = signer.seal_at(b"payload", ROTATED_AT);
    let later = signer.seal_at(b"payload", ROTATED_AT + 1);
    let (rest, _) = later.rsplit_once('.').unwrap();
    let (_, signature) = token.rsplit_once('.').unwrap();
    assert_eq!(signer.open_at(&format!("{rest}.{signature}"), ROTATED_AT), Err(BadSignature));
}

#[test]
fn the_previous_key_verifies_until_everything_it_signed_has_expired() {
    let before = signer(0, &[]);
    let after = signer(1, &[(Stage::Previous, 0)]);
    let last = ROTATED_AT + 100;
    let token = before.seal_at(b"p", last);
    let signature = before.sign(b"m");
    assert_eq!(after.open_at(&token, last + 1000).unwrap(), b"p");
    assert_eq!(after.verify_at(b"m", &signature, last + 1000), Ok(()));
    // No replica signs with the previous key for longer than `MAX_STALE`.
    let late = before.seal_at(b"p", last + 1);
    assert_eq!(after.open_at(&late, last + 1001), Err(BadSignature));
    assert_eq!(after.verify_at(b"m", &signature, last + 1001), Err(BadSignature));
}

#[test]
fn a_previous_version_verifies_no_longer_if_it_is_also_pending() {
    let both = signer(1, &[(Stage::Previous, 0), (Stage::Pending, 0)]);
    let late = signer(0, &[]).seal_at(b"p", ROTATED_AT + 101);
    assert_eq!(both.open_at(&late, ROTATED_AT + 1101), Err(BadSignature));
}

#[test]
fn the_time_of_the_previous_key_begins_when_this_process_saw_it_replaced() {
    let token = signer(0, &[]).seal_at(b"p", ROTATED_AT + 5000);
    let others = [(Stage::Previous, 0)];
    let started_afterwards = signer_of("test", key(1, Some(ROTATED_AT)), &others, None);
    assert_eq!(started_afterwards.open_at(&token, ROTATED_AT + 5000), Err(BadSignature));
    let was_running = signer_of("test", key(1, Some(ROTATED_AT)), &others, Some(Moment::now()));
    assert_eq!(was_running.open_at(&token, ROTATED_AT + 5000).unwrap(), b"p");
    let rolled_back = signer_of("test", key(1, Some(3)), &others, None);
    assert!(rolled_back.previous_verifies(7 + 1100), "the later of both times counts");
    assert!(!rolled_back.previous_verifies(7 + 1101));
}

/// A process that saw the rotation measures. A jump of the wall clock lets the previous key verify neither longer nor
/// shorter.
#[tokio::test(start_paused = true)]
async fn the_wall_clock_does_not_decide_how_long_the_previous_key_verifies() {
    let others = [(Stage::Previous, 0)];
    for jump in [time::Duration::ZERO, time::Duration::days(400), time::Duration::days(-400)] {
        let replaced_at = Moment::now().before_a_jump(jump);
        let was_running = signer_of("test", key(1, Some(ROTATED_AT)), &others, Some(replaced_at));
        let without_dates = signer_of("test", key(1, None), &others, None);
        tokio::time::advance(MAX_STALE + LIFETIME).await;
        assert!(was_running.previous_verifies(0) && was_running.previous_verifies(u64::MAX), "{jump}");
        assert!(without_dates.previous_verifies(0) && without_dates.previous_verifies(u64::MAX), "{jump}");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!was_running.previous_verifies(0) && !was_running.previous_verifies(u64::MAX), "{jump}");
        assert!(!without_dates.previous_verifies(0), "counted from when it was read");
    }
}

#[test]
fn the_pending_key_verifies_and_an_unknown_key_requests_a_reload() {
    let signer = signer(0, &[(Stage::Pending, 1)]);
    let next = signer_of("test", key(1, Some(ROTATED_AT)), &[], None).seal_at(b"p", ROTATED_AT + 9999);
    assert_eq!(signer.open_at(&next, ROTATED_AT + 9999).unwrap(), b"p");
    assert!(!requests_a_reload(&signer), "it is known");
    let other = signer_of("test", key(2, Some(ROTATED_AT)), &[], None).seal_at(b"p", ROTATED_AT);
    assert_eq!(signer.open_at(&other, ROTATED_AT + 1001), Err(BadSignature));
    assert!(!requests_a_reload(&signer), "an expired token requests no reload");
    let made_up = format!("{}{other}", "v".repeat(64));
    assert_eq!(signer.open_at(&made_up, ROTATED_AT), Err(BadSignature));
    assert!(!requests_a_reload(&signer), "no manager has such an id");
    assert_eq!(signer.open_at(&other, ROTATED_AT), Err(BadSignature));
    assert!(requests_a_reload(&signer));
}

#[test]
fn a_signature_is_void_for_another_purpose_or_kind() {
    let sessions = signer_of("session", key(0, Some(ROTATED_AT)), &[], None);
    let cursors = signer_of("cursor", key(0, Some(ROTATED_AT)), &[], None);
    let token = sessions.seal_at(b"p", ROTATED_AT);
    assert_eq!(cursors.open_at(&token, ROTATED_AT), Err(BadSignature));
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
fn the_text_of_a_signature_is_one_word() {
    let signer = signer(0, &[]);
    let text = signer.sign(b"m").to_string();
    assert!(text.starts_with("v0.") && text.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");
    assert_eq!(signer.verify(b"m", &text.parse().unwrap()), Ok(()));
    for bad in ["", ".", "v0", "v0.", "v0.AAAA", &text[..text.len() - 1], &format!("{text}A")] {
        assert!(bad.parse::<Signature>().is_err(), "{bad}");
    }
}

#[test]
fn a_token_that_a_client_made_up_is_refused() {
    let signer = signer(0, &[]);
    let token = signer.seal_at(b"", ROTATED_AT);
    assert_eq!(signer.open_at(&token, ROTATED_AT).unwrap(), b"");
    for bad in ["", ".", "..", "v0..", "v0.AAAA.AAAA", "v0.AAAAAAAAAAA.AAAA", &token[1..], &token[..token.len() - 1]] {
        assert_eq!(signer.open_at(bad, ROTATED_AT), Err(BadSignature), "{bad}");
    }
}

#[test]
fn no_lifetime_is_too_long() {
    let keys = SigningKeys::read(&SecretValues::new(key(0, Some(ROTATED_AT)), BTreeMap::new(), None)).unwrap();
    let signer = Signer::new("keys", keys.into(), "test", Duration::MAX, Duration::MAX, Arc::default(), Arc::default());
    let token = signer.seal_at(b"p", now());
    assert_eq!(signer.open(&token).unwrap(), b"p");
    assert_eq!(signer.open_at(&token, u64::MAX).unwrap(), b"p");
    assert_eq!((whole_seconds(Duration::from_millis(1)), whole_seconds(Duration::from_secs(1))), (1, 1));
}

#[test]
fn a_debug_token_is_void_for_every_other_signer_and_no_other_token_is_a_debug_token() {
    let signer = signer(0, &[]);
    let of_debug_tokens = signer.clone().for_debug_tokens();
    let (token, debug_token) = (signer.seal(b"svc"), of_debug_tokens.seal_for(Duration::from_secs(60), b"svc"));
    assert_eq!(of_debug_tokens.open(&debug_token).unwrap(), b"svc");
    assert_eq!((signer.open(&debug_token), of_debug_tokens.open(&token)), (Err(BadSignature), Err(BadSignature)));
}
