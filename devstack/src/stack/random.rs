//! Random names, passwords and keys.

use std::fs::File;
use std::io::Read;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// The start of every password that this crate makes. The leak detector finds it also in a malformed secret.
pub(crate) const SENTINEL: &str = "sentinel-";

/// Returns 32 hex digits: 128 random bits.
pub fn random() -> String {
    random_bytes()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns a password that is easy to recognize, and that breaks careless quoting.
pub fn random_password() -> String {
    format!("{SENTINEL}{}'\"@:/?#%\\ &=+$", random())
}

/// Returns a signing key: 32 random bytes in base64.
pub fn random_key() -> String {
    BASE64_STANDARD.encode(random_bytes())
}

fn random_bytes() -> [u8; 32] {
    let mut bytes = [0; 32];
    let read = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    read.expect("Linux and macOS have /dev/urandom");
    bytes
}
