//! The encodings in which a secret value can be in an output.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};

/// Returns a value in every encoding, each with its name.
pub(super) fn encodings(text: &str) -> Vec<(&'static str, String)> {
    let bytes = text.as_bytes();
    let debug = format!("{text:?}");
    let json = serde_json::Value::from(text).to_string();
    let mut forms = vec![
        ("as it is", text.to_owned()),
        ("escaped as JSON", json[1..json.len() - 1].into()),
        ("escaped by Debug", debug[1..debug.len() - 1].into()),
        ("URL-encoded", percent_encoded(bytes, "%20", |byte| format!("%{byte:02X}"))),
        ("URL-encoded", percent_encoded(bytes, "%20", |byte| format!("%{byte:02x}"))),
        ("form-encoded", percent_encoded(bytes, "+", |byte| format!("%{byte:02X}"))),
    ];
    forms.extend(numeric_forms(bytes));
    // A key, or a line of a key in PEM: the bytes that it encodes are as secret as its text.
    if let Ok(key) = BASE64_STANDARD.decode(bytes)
        && key.len() >= 16
    {
        forms.extend(numeric_forms(&key));
    }
    for shift in 0..3 {
        forms.push(("in base64", inner_base64(&BASE64_STANDARD, bytes, shift)));
        forms.push(("in base64", inner_base64(&BASE64_URL_SAFE, bytes, shift)));
    }
    forms
}

fn numeric_forms(bytes: &[u8]) -> [(&'static str, String); 3] {
    [
        ("as hex", bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        ("as hex", bytes.iter().map(|byte| format!("{byte:02X}")).collect()),
        ("as a list of bytes", bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")),
    ]
}

/// Returns the characters that depend on `bytes` alone if they are encoded after `shift` other bytes.
fn inner_base64(engine: &impl Engine, bytes: &[u8], shift: usize) -> String {
    let encoded = engine.encode([&vec![0; shift], bytes].concat());
    let first = (shift * 8).div_ceil(6);
    let end = (shift + bytes.len()) * 8 / 6;
    encoded[first..end].into()
}

pub(super) fn percent_encoded(bytes: &[u8], space: &str, escape: impl Fn(u8) -> String) -> String {
    let mut encoded = String::new();
    for &byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            b' ' => encoded.push_str(space),
            _ => encoded.push_str(&escape(byte)),
        }
    }
    encoded
}
