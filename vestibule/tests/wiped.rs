//! No block of memory that is freed holds a credential that was rotated away.
//!
//! An allocator cannot see stacks and registers, so these are not searched.

#![expect(unsafe_code, reason = "an allocator that reads memory needs it")]

use aws_lc_rs::hmac;
use std::{
    alloc::{GlobalAlloc, Layout, System},
    collections::BTreeMap,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    slice,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};
use vestibule::testing::{Harness, MemoryManager};
use vestibule::{
    Application, Build, BuildError, Credential, OpenApiRouter, Package, SecretSet, Signer,
    config::{BaseUrl, Config, SecretsProvider, VaultAuth, VaultConfig},
    credentials::{ApiKey, Login, SigningKeys, TlsIdentity},
    secrets::{Stage, vault::Vault},
};

/// An allocator that searches each block that is freed. It does not have a `realloc` of its own: the default copies a
/// block that grows or shrinks and frees the old one, so the old one is searched too.
struct SearchingAllocator;

#[global_allocator]
static ALLOCATOR: SearchingAllocator = SearchingAllocator;

/// `true` while blocks are searched.
static IS_SEARCHING: AtomicBool = AtomicBool::new(false);

/// The size of the largest block that is searched.
static LARGEST: AtomicUsize = AtomicUsize::new(usize::MAX);

/// The size of the smallest read buffer of hyper, which is not ours to wipe (ARCHITECTURE.md has the list of such copies).
const READ_BUFFER: usize = 8192;

/// The number of blocks in which each of [`TRACES`] was found.
static FOUND: [AtomicUsize; TRACES.len()] = [const { AtomicUsize::new(0) }; TRACES.len()];

/// Two traces of the private key of a certificate, which each run creates: the number that is the key, and the part of
/// the PEM text around the end of a line (the decoder of rustls-pki-types leaves lines behind).
static PRIVATE_KEY: OnceLock<[[u8; 32]; 2]> = OnceLock::new();

/// The number of blocks in which a trace of the private key was found.
static PRIVATE_KEY_FOUND: AtomicUsize = AtomicUsize::new(0);

// SAFETY: it allocates and frees as `System` does.
unsafe impl GlobalAlloc for SearchingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Zeroed, so that the whole block may be read when it is freed.
        // SAFETY: the caller's promises are `System`'s.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if IS_SEARCHING.load(Ordering::SeqCst) {
            // SAFETY: the block belongs to the caller until it is freed below, and was initialized when it was allocated.
            search(unsafe { slice::from_raw_parts(block, layout.size()) });
        }
        // SAFETY: the caller's promises are `System`'s.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Counts the traces in a block. It must not allocate.
fn search(block: &[u8]) {
    if block.len() > LARGEST.load(Ordering::SeqCst) {
        return;
    }
    for (trace, found) in TRACES.iter().zip(&FOUND) {
        if block.windows(trace.len()).any(|window| window == *trace) {
            found.fetch_add(1, Ordering::SeqCst);
        }
    }
    let mut traces = PRIVATE_KEY.get().into_iter().flatten();
    if traces.any(|trace| block.windows(trace.len()).any(|window| window == trace)) {
        PRIVATE_KEY_FOUND.fetch_add(1, Ordering::SeqCst);
    }
}

/// Creates a certificate and its key, as the manager stores them. Sets [`PRIVATE_KEY`].
fn create_identity() -> &'static str {
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
    PRIVATE_KEY.set(traces).expect("one test sets it");
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

/// Base64 of the signing keys in [`TRACES`].
const KEY: &str = "c2VudGluZWwtMS1vZi1hLXNpZ25pbmcta2V5LW9mLTMyLWJ5dGVz";
const KEY_JSON: &str = r#"{"key":"c2VudGluZWwtMi1vZi1hLXNpZ25pbmcta2V5LW9mLTMyLWJ5dGVz"}"#;
const ESCAPED_KEY_JSON: &str = r#"{"key":"\u0063\u0032VudGluZWwtMy1vZi1hLXNpZ25pbmcta2V5LW9mLTMyLWJ5dGVz"}"#;
const BROKEN_KEY: &str = "c2VudGluZWwtNC1vZi1hLXNpZ25pbmcta2V5LW9mLTMyLWJ5dGVz*";

/// The bytes that no block may hold. [`check_the_search`] uses the first three.
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
    // The key as HMAC mixes it into its first block, with the ipad of RFC 2104.
    &mixed(*b"sentinel-1-of-a-signing-key"),
];

/// The first four words of the state that HMAC keeps of the first key: SHA-256 after the block in which the key is mixed
/// with the ipad. With this state one can sign.
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

/// Mixes a key with the ipad.
const fn mixed<const N: usize>(mut key: [u8; N]) -> [u8; N] {
    let mut at = 0;
    while at < N {
        key[at] ^= 0x36;
        at += 1;
    }
    key
}

#[derive(SecretSet)]
#[expect(dead_code, reason = "the service only holds them")]
struct Secrets {
    login: Credential<Login>,
    api: Credential<ApiKey>,
    signing: Credential<SigningKeys>,
    identity: Credential<TlsIdentity>,
}

/// A service that holds a credential of each kind.
struct Holder {
    signer: Signer,
}

impl Application for Holder {
    const PACKAGE: Package = Package::new("holder", "0");
    type Settings = ();
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self { signer: cx.signer(&cx.secrets.signing, "test", Duration::from_secs(60)) })
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new()
    }
}

/// Runs `work`, and checks that no freed block holds a trace.
async fn search_during<T>(what: &str, work: impl Future<Output = T>) -> T {
    IS_SEARCHING.store(true, Ordering::SeqCst);
    let done = work.await;
    IS_SEARCHING.store(false, Ordering::SeqCst);
    for (trace, found) in TRACES.iter().zip(&FOUND) {
        let count = found.swap(0, Ordering::SeqCst);
        assert_eq!(count, 0, "{what}: {} was left behind", trace.escape_ascii());
    }
    assert_eq!(PRIVATE_KEY_FOUND.swap(0, Ordering::SeqCst), 0, "{what}: a certificate's key was left behind");
    done
}

/// Checks that the search finds each kind of trace.
fn check_the_search() {
    IS_SEARCHING.store(true, Ordering::SeqCst);
    drop(CONTROL.to_owned());
    let mut grows = CONTROL_GROWS.to_owned();
    grows.reserve(4096);
    drop(bytes_of(&hmac::Key::new(hmac::HMAC_SHA256, b"sentinel-1-of-a-signing-key-of-32-bytes")));
    PRIVATE_KEY.get().expect("it is set").iter().for_each(|trace| drop(trace.to_vec()));
    IS_SEARCHING.store(false, Ordering::SeqCst);
    assert!(grows.starts_with("sentinel"));
    assert_eq!(PRIVATE_KEY_FOUND.swap(0, Ordering::SeqCst), 2);
    assert_eq!(FOUND.each_ref().map(|found| found.swap(0, Ordering::SeqCst))[..4], [1, 1, 1, 0]);
}

/// Returns a copy of the memory of a key. The copy is not wiped.
fn bytes_of(key: &hmac::Key) -> Vec<u8> {
    let mut bytes = vec![0; size_of_val(key)];
    // SAFETY: both have this length, and they do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(std::ptr::from_ref(key).cast(), bytes.as_mut_ptr(), bytes.len()) };
    bytes
}

// One after another: every block of the process is searched.
#[tokio::test]
async fn a_credential_that_was_rotated_away_is_wiped() {
    let identity = create_identity();
    // In a thread of its own: what this leaves on its stack must not be found later.
    thread::spawn(check_the_search).join().expect("the search finds what is there");
    values_in_memory_are_wiped(identity).await;
    answers_of_vault_are_wiped(identity).await;
}

async fn values_in_memory_are_wiped(identity: &'static str) {
    let manager =
        MemoryManager::with([("login", BARE_PASSWORD), ("api", API_KEY), ("signing", KEY), ("identity", identity)]);
    let holder =
        search_during("a start", Harness::<Holder>::start(manager.clone(), Config::default())).await.expect("a start");
    let old = Arc::downgrade(&holder.live().generation());
    assert!(!holder.live().service().signer.seal(b"payload").is_empty());

    let values = [
        ("json", PASSWORD_JSON, API_KEY_JSON, KEY_JSON),
        ("json with escapes", ESCAPED_PASSWORD_JSON, ESCAPED_API_KEY_JSON, ESCAPED_KEY_JSON),
        ("the last rotation", BARE_PASSWORD, API_KEY, KEY),
    ];
    for (what, login, api, signing) in values {
        manager.rotate("login", login);
        manager.rotate("api", api);
        manager.put_at("signing", Stage::Pending, signing);
        assert!(search_during(what, holder.reload()).await.expect("a reload"));
        manager.rotate("signing", signing);
        manager.rotate("identity", identity);
        assert!(search_during(what, holder.reload()).await.expect("a reload"));
    }
    assert!(old.upgrade().is_none(), "nobody holds the first generation");

    for (what, login, api, signing) in [
        ("a broken key", BARE_PASSWORD, API_KEY, BROKEN_KEY),
        ("a key that is cut off", BARE_PASSWORD, API_KEY, &ESCAPED_KEY_JSON[..40]),
        ("a login that is cut off", &ESCAPED_PASSWORD_JSON[..60], API_KEY, KEY),
        ("a key with a space in it", BARE_PASSWORD, r#"{"api_key":"sentinel-\/escaped\/-api-key "}"#, KEY),
    ] {
        manager.rotate("login", login);
        manager.rotate("api", api);
        manager.rotate("signing", signing);
        search_during(what, holder.reload()).await.expect_err("a value is malformed");
    }
    search_during("a stop", holder.stop()).await;
}

async fn answers_of_vault_are_wiped(identity: &'static str) {
    let server = FakeVault::start();
    let put = |login, api, signing| {
        server.put([("login", login), ("api", api), ("signing", signing), ("identity", identity)]);
    };
    put(BARE_PASSWORD, API_KEY, KEY);
    let vault = VaultConfig {
        addresses: vec![BaseUrl::parse(&server.address).expect("a URL")],
        auth: VaultAuth::Jwt,
        // Any text will do.
        jwt_file: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").into()),
        ..VaultConfig::default()
    };
    let mut config = Config::default();
    (config.secrets.provider, config.secrets.prefix) = (SecretsProvider::Vault, "test".into());
    config.secrets.vault = vault;
    let vault = Arc::new(Vault::new(&config.secrets));
    LARGEST.store(READ_BUFFER - 1, Ordering::SeqCst);
    let holder = search_during("a start", Harness::<Holder>::start(vault, config)).await.expect("a start");
    for (what, login, api, signing) in [
        ("json", PASSWORD_JSON, API_KEY_JSON, KEY_JSON),
        ("json with escapes", ESCAPED_PASSWORD_JSON, ESCAPED_API_KEY_JSON, ESCAPED_KEY_JSON),
        ("the last rotation", BARE_PASSWORD, API_KEY, KEY),
    ] {
        put(login, api, signing);
        assert!(search_during(what, holder.reload()).await.expect("a reload"));
    }
    put(BARE_PASSWORD, API_KEY, BROKEN_KEY);
    search_during("a broken key", holder.reload()).await.expect_err("a value is malformed");
    search_during("a stop", holder.stop()).await;
}

/// The version of all secrets, and the answers with them by the names of credentials.
type VaultAnswers = (u64, BTreeMap<&'static str, &'static str>);

/// A Vault that frees no block with a secret while blocks are searched.
struct FakeVault {
    address: String,
    answers: Arc<Mutex<VaultAnswers>>,
}

impl FakeVault {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let answers = Arc::<Mutex<VaultAnswers>>::default();
        let of_server = answers.clone();
        thread::spawn(move || {
            for connection in listener.incoming() {
                let (connection, answers) = (connection.expect("a connection"), of_server.clone());
                thread::spawn(move || serve(connection, &answers));
            }
        });
        Self { address, answers }
    }

    /// Gives each secret a new version: the fields of a JSON object, or one field for any other text.
    fn put(&self, values: [(&'static str, &str); 4]) {
        let (version, answers) = &mut *self.answers.lock().expect("no panic");
        *version += 1;
        for (name, value) in values {
            let data = if value.starts_with('{') { value.to_owned() } else { format!(r#"{{"value":"{value}"}}"#) };
            let metadata = format!(r#"{{"version":{version},"created_time":"2026-01-01T00:00:00Z"}}"#);
            let body = format!(r#"{{"data":{{"data":{data},"metadata":{metadata}}}}}"#);
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            answers.insert(name, answer.leak());
        }
    }
}

const LOGGED_IN: &str =
    "HTTP/1.1 200 OK\r\ncontent-length: 51\r\n\r\n{\"auth\":{\"client_token\":\"t\",\"lease_duration\":3600}}";

const ABSENT: &str = "HTTP/1.1 404 Not Found\r\ncontent-length: 13\r\n\r\n{\"errors\":[]}";

/// Answers the requests on a connection, to its end.
fn serve(mut connection: TcpStream, answers: &Mutex<VaultAnswers>) -> Option<()> {
    loop {
        let path = read_request(&mut connection)?;
        let name = path.rsplit('/').next()?;
        let answer = if name == "login" && path.contains("/auth/") {
            LOGGED_IN
        } else {
            answers.lock().expect("no panic").1.get(name).copied().unwrap_or(ABSENT)
        };
        connection.write_all(answer.as_bytes()).ok()?;
    }
}

/// Reads a request. Returns its path, or `None` at the end of the connection.
fn read_request(connection: &mut TcpStream) -> Option<String> {
    let (mut request, mut length) = ([0; 16 * 1024], 0);
    loop {
        let text = str::from_utf8(&request[..length]).ok()?;
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let size = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= size.unwrap_or(0) {
                return Some(text.split(' ').nth(1)?.to_owned());
            }
        }
        match connection.read(&mut request[length..]).ok()? {
            0 => return None,
            read => length += read,
        }
    }
}
