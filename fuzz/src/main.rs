//! Fuzz targets for everything that parses text from outside. Each checks, besides that nothing panics, that what is
//! accepted can be written and read again, and that no error quotes its input.
//!
//! The variable `FUZZ_TARGET` names the target. `.ci/fuzz` builds and runs them all.
#![no_main]

mod access_tokens;
mod answers;
mod config;
mod headers;
mod rejections;
mod settings;
mod tokens;
mod values;
mod vault;

use libfuzzer_sys::{Corpus, fuzz_target};
use std::sync::LazyLock;

/// A check of one input. The input is accepted for the corpus if the check returns `true`.
type Target = fn(&[u8]) -> bool;

/// The targets, each with the folder of its seeds in `seeds/`.
const TARGETS: [(&str, Target); 13] = [
    ("access_tokens", |data| with_text(data, access_tokens::check)),
    ("answers", |data| with_text(data, answers::check)),
    ("certificate", values::certificate),
    ("config", |data| with_text(data, config::check)),
    ("headers", headers::check),
    ("login", |data| with_text(data, values::login)),
    ("pem", |data| with_text(data, values::pem)),
    ("rejections", |data| with_text(data, rejections::check)),
    ("settings", |data| with_text(data, settings::check)),
    ("tls", |data| with_text(data, values::tls)),
    ("tokens", |data| with_text(data, tokens::check)),
    ("values", |data| with_text(data, values::keys)),
    ("vault", |data| with_text(data, vault::check)),
];

#[expect(clippy::disallowed_methods, reason = "this is no service, and libFuzzer reads the arguments")]
static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let wanted = std::env::var_os("FUZZ_TARGET").unwrap_or_default();
    let names = TARGETS.map(|(name, _)| name);
    let Some((_, target)) = TARGETS.into_iter().find(|(name, _)| wanted == *name) else {
        panic!("set FUZZ_TARGET to one of {names:?}");
    };
    target
});

fuzz_target!(|data: &[u8]| -> Corpus { if TARGET(data) { Corpus::Keep } else { Corpus::Reject } });

/// Calls a check of text. Input that is no text is rejected.
fn with_text(data: &[u8], check: fn(&str)) -> bool {
    let Ok(text) = str::from_utf8(data) else { return false };
    check(text);
    true
}

/// A secret. No error may contain it.
const SENTINEL: &str = "Hunter2-Hunter2";

/// The character in an input that stands for the sentinel.
const PLACE: char = '§';

/// Returns an input with the sentinel in its places.
fn with_sentinel(text: &str) -> String {
    text.replace(PLACE, SENTINEL)
}

/// Checks that a text that people see does not contain the sentinel.
fn assert_quotes_nothing(shown: &str) {
    assert!(!shown.contains(SENTINEL), "the sentinel is in: {shown}");
}

/// Checks that a text can stand on a terminal.
fn assert_printable(shown: &str) {
    assert!(!shown.contains(|c: char| c.is_ascii_control()), "a control character is in: {shown:?}");
}
