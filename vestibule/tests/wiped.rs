//! Nothing that the allocator gets back holds a credential that was let go of.
//!
//! What an allocator cannot see is not looked at: stacks, and registers.

#![allow(unsafe_code)] // an allocator that looks at memory cannot be written without it

#[path = "outside/memory.rs"]
#[expect(dead_code)] // other tests use all of it
mod memory;

use aws_lc_rs::hmac;
use axum::Router;
use memory::Memory;
use sqlx::migrate::Migrator;
use std::{
    alloc::{GlobalAlloc, Layout, System},
    slice,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use vestibule::testing::Harness;
use vestibule::{
    Application, Build, BuildError, Credential, Package, SecretSet, Signer,
    config::Config,
    credentials::{ApiKey, Login, SigningKeys, TlsIdentity},
    secrets::Stage,
};

/// Looks through each block that is given back. A block that is to grow or shrink moves, so that its old place is seen
/// too: `realloc` is left to the default, which copies.
struct Searching;

#[global_allocator]
static SEARCHING: Searching = Searching;

static SEARCHES: AtomicBool = AtomicBool::new(false);

/// How often each of [`TRACES`] was seen.
static SEEN: [AtomicUsize; TRACES.len()] = [const { AtomicUsize::new(0) }; TRACES.len()];

/// The private key of a certificate, which is made anew each time: its number on the curve, and of its text in PEM what
/// lies around the end of a line (rustls-pki-types' decoder leaves lines). And how often one of both was seen.
static PRIVATE_KEY: OnceLock<[[u8; 32]; 2]> = OnceLock::new();
static PRIVATE_KEY_SEEN: AtomicUsize = AtomicUsize::new(0);

// SAFETY: it allocates and frees as `System` does.
unsafe impl GlobalAlloc for Searching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Zeroed, so that all of a block may be read when it comes back.
        // SAFETY: the caller's promises are `System`'s.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if SEARCHES.load(Ordering::SeqCst) {
            // SAFETY: the block is the caller's until it is given back below, and was initialized when it was allocated.
            search(unsafe { slice::from_raw_parts(block, layout.size()) });
        }
        // SAFETY: the caller's promises are `System`'s.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Allocates nothing.
fn search(block: &[u8]) {
    for (trace, seen) in TRACES.iter().zip(&SEEN) {
        if block.windows(trace.len()).any(|window| window == *trace) {
            seen.fetch_add(1, Ordering::SeqCst);
        }
    }
    let traces = PRIVATE_KEY.get().into_iter().flatten();
    if traces.into_iter().any(|trace| block.windows(trace.len()).any(|window| window == trace)) {
        PRIVATE_KEY_SEEN.fetch_add(1, Ordering::SeqCst);
    }
}

/// A certificate and its key, as the manager has them. The key is [`PRIVATE_KEY`].
fn identity() -> &'static str {
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate =
        rcgen::CertificateParams::new(["localhost".to_owned()]).and_then(|params| params.self_signed(&key));
    // RFC 5915: version 1, and an octet string of 32 bytes.
    let (der, before) = (key.serialize_der(), [2, 1, 1, 4, 32]);
    let at = der.windows(before.len()).position(|window| window == before).expect("a key on P-256") + before.len();
    let pem = key.serialize_pem();
    let second_line = pem.match_indices('\n').nth(1).expect("several lines").0;
    let around = &pem.as_bytes()[second_line - 16..second_line + 16];
    let traces = [&der[at..at + 32], around].map(|trace| trace.try_into().expect("32 bytes"));
    PRIVATE_KEY.set(traces).expect("it is set once");
    let certificate = certificate.expect("a certificate").pem();
    let secret = serde_json::json!({ "certificate": certificate, "private_key": pem });
    secret.to_string().leak()
}

const CONTROL: &str = "sentinel-of-the-control";
const CONTROL_GROWS: &str = "sentinel-that-moves";

const BARE_PASSWORD: &str = "sentinel-bare-password";
const PASSWORD_JSON: &str = r#"{"username":"app","password":"sentinel-plain-in-json"}"#;
const ESCAPED_PASSWORD_JSON: &str = r#"{"username":"app","password":"sentinel-\"escaped\\-\u00e4-in-json"}"#;

const API_KEY: &str = "sentinel-api-key";
const API_KEY_JSON: &str = r#"{"api_key":"sentinel-api-key-in-json"}"#;
const ESCAPED_API_KEY_JSON: &str = r#"{"api_key":"sentinel-\/escaped\/-api-key"}"#;

/// Base64 of the three below.
const KEY: &str = "c2VudGluZWwtMS1vZi1hLXNpZ25pbmcta2V5LW9mLTMyLWJ5dGVz";
const KEY_JSON: &str = r#"{"key":"c2VudGluZWwtMi1vZi1hLXNpZ25pbmcta2V5LW9mLTMyLWJ5dGVz"}"#;
const ESCAPED_KEY_JSON: &str = r#"{"key":"\u0063\u0032VudGluZWwtMy1vZi1hLXNpZ25pbmcta2V5LW9mLTMyLWJ5dGVz"}"#;
const BROKEN_KEY: &str = "c2VudGluZWwtNC1vZi1hLXNpZ25pbmcta2V5LW9mLTMyLWJ5dGVz*";

/// What no block may hold. The first three are the controls'.
const TRACES: [&[u8]; 19] = [
    CONTROL.as_bytes(),
    CONTROL_GROWS.as_bytes(),
    &EXPANDED_KEY,
    BARE_PASSWORD.as_bytes(),
    b"sentinel-plain-in-json",
    b"sentinel-\"escaped\\",
    br#"sentinel-\"escaped"#,
    API_KEY.as_bytes(),
    b"sentinel-/escaped",
    br#"sentinel-\/escaped"#,
    b"sentinel-1-of-a-signing-key",
    b"sentinel-2-of-a-signing-key",
    b"sentinel-3-of-a-signing-key",
    b"sentinel-4-of-a-signing-key",
    b"VudGluZWwtMS1vZi1hLXNpZ25pbmcta2V5",
    b"VudGluZWwtMi1vZi1hLXNpZ25pbmcta2V5",
    b"VudGluZWwtMy1vZi1hLXNpZ25pbmcta2V5",
    b"VudGluZWwtNC1vZi1hLXNpZ25pbmcta2V5",
    // As HMAC mixes it into its first block: RFC 2104's ipad.
    &mixed(*b"sentinel-1-of-a-signing-key"),
];

/// What HMAC keeps of the first key, whose holder can sign: SHA-256's state after the block in which the key is mixed
/// with the ipad. Its first four words.
const EXPANDED_KEY: [u8; 16] = {
    let words: [u32; 4] = [0xa61d_04b6, 0x90ea_ced5, 0x2388_526f, 0x02e1_7dc5];
    let mut bytes = [0; 16];
    let mut at = 0;
    while at < 16 {
        bytes[at] = words[at / 4].to_ne_bytes()[at % 4];
        at += 1;
    }
    bytes
};

const fn mixed<const N: usize>(mut key: [u8; N]) -> [u8; N] {
    let mut at = 0;
    while at < N {
        key[at] ^= 0x36;
        at += 1;
    }
    key
}

#[derive(SecretSet)]
#[expect(dead_code)] // they are held, and that is all
struct Secrets {
    login: Credential<Login>,
    api: Credential<ApiKey>,
    signing: Credential<SigningKeys>,
    identity: Credential<TlsIdentity>,
}

struct Holder {
    signer: Signer,
}

static NO_MIGRATIONS: Migrator = Migrator::DEFAULT;

impl Application for Holder {
    const PACKAGE: Package = Package { name: "holder", version: "0", migrations: &NO_MIGRATIONS };
    type Settings = ();
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self { signer: cx.signer(&cx.secrets.signing, "test", Duration::from_secs(60)) })
    }

    fn routes() -> Router<Arc<Self>> {
        Router::new()
    }
}

/// Runs `work` and asserts that nothing was left behind.
async fn searched<T>(what: &str, work: impl Future<Output = T>) -> T {
    SEARCHES.store(true, Ordering::SeqCst);
    let done = work.await;
    SEARCHES.store(false, Ordering::SeqCst);
    for (trace, seen) in TRACES.iter().zip(&SEEN) {
        let seen = seen.swap(0, Ordering::SeqCst);
        assert_eq!(seen, 0, "{what}: {} was left behind", trace.escape_ascii());
    }
    assert_eq!(PRIVATE_KEY_SEEN.swap(0, Ordering::SeqCst), 0, "{what}: a certificate's key was left behind");
    done
}

fn controls() {
    SEARCHES.store(true, Ordering::SeqCst);
    drop(CONTROL.to_owned());
    let mut grows = CONTROL_GROWS.to_owned();
    grows.reserve(4096);
    drop(bytes_of(&hmac::Key::new(hmac::HMAC_SHA256, b"sentinel-1-of-a-signing-key-of-32-bytes")));
    PRIVATE_KEY.get().expect("it is set").iter().for_each(|trace| drop(trace.to_vec()));
    SEARCHES.store(false, Ordering::SeqCst);
    assert!(grows.starts_with("sentinel"));
    assert_eq!(PRIVATE_KEY_SEEN.swap(0, Ordering::SeqCst), 2);
    assert_eq!(SEEN.each_ref().map(|seen| seen.swap(0, Ordering::SeqCst))[..4], [1, 1, 1, 0]);
}

/// The key as it lies in memory, in a block that is not wiped.
fn bytes_of(key: &hmac::Key) -> Vec<u8> {
    let mut bytes = vec![0; size_of_val(key)];
    // SAFETY: both are as long, and they do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(std::ptr::from_ref(key).cast(), bytes.as_mut_ptr(), bytes.len()) };
    bytes
}

#[tokio::test]
async fn what_was_rotated_away_is_wiped() {
    let identity = identity();
    controls();
    let memory = Memory::with([("login", BARE_PASSWORD), ("api", API_KEY), ("signing", KEY), ("identity", identity)]);
    let holder = searched("a start", Harness::<Holder>::start(memory.clone(), Config::default())).await.unwrap();
    let old = Arc::downgrade(&holder.live().generation());
    assert!(!holder.live().service().signer.seal(b"payload").is_empty());

    let values = [
        ("json", PASSWORD_JSON, API_KEY_JSON, KEY_JSON),
        ("json with escapes", ESCAPED_PASSWORD_JSON, ESCAPED_API_KEY_JSON, ESCAPED_KEY_JSON),
        ("the last rotation", BARE_PASSWORD, API_KEY, KEY),
    ];
    for (what, login, api, signing) in values {
        memory.rotate("login", login);
        memory.rotate("api", api);
        memory.put("signing", Stage::Pending, signing);
        assert!(searched(what, holder.reload()).await.unwrap());
        memory.rotate("signing", signing);
        memory.rotate("identity", identity);
        assert!(searched(what, holder.reload()).await.unwrap());
    }
    assert!(old.upgrade().is_none(), "it was let go of");

    for (what, login, api, signing) in [
        ("a broken key", BARE_PASSWORD, API_KEY, BROKEN_KEY),
        ("a key that is cut off", BARE_PASSWORD, API_KEY, &ESCAPED_KEY_JSON[..40]),
        ("a login that is cut off", &ESCAPED_PASSWORD_JSON[..60], API_KEY, KEY),
        ("a key with a space in it", BARE_PASSWORD, r#"{"api_key":"sentinel-\/escaped\/-api-key "}"#, KEY),
    ] {
        memory.rotate("login", login);
        memory.rotate("api", api);
        memory.rotate("signing", signing);
        searched(what, holder.reload()).await.unwrap_err();
    }
    searched("a stop", holder.stop()).await;
}
