//! The shape of a value, in words that give nothing of it away. A report of a malformed value says what was seen.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::de::IgnoredAny;
use zeroize::Zeroizing;

const BYTE_ORDER_MARK: char = '\u{feff}';

/// Returns the text without byte order marks at its start. Some editors write one, and each tool may add another.
pub(crate) fn without_byte_order_mark(text: &str) -> &str {
    text.trim_start_matches(BYTE_ORDER_MARK)
}

/// Returns `true` if the first character that can be seen starts a JSON object.
pub(crate) fn starts_like_an_object(text: &str) -> bool {
    visible(text).starts_with('{')
}

/// Returns the text from the first character that can be seen to the last one.
fn visible(text: &str) -> &str {
    // The last one stands for bytes that were no UTF-8, such as the byte order mark of UTF-16.
    text.trim_matches(|c: char| c.is_whitespace() || is_invisible(c) || c == '\u{fffd}')
}

/// Returns `true` for a control character, and for one that shows nothing or turns the direction of the text: web pages and
/// chats put some into what people copy.
pub(crate) fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, BYTE_ORDER_MARK | '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}')
}

/// Returns `true` if the text is JSON that is no object and no other bare word than `null`, or a JSON object in the quotes of a
/// shell, or in base64 if `is_refused` says so of the object.
pub(crate) fn is_json_in_disguise(text: &str, is_refused: impl Fn(&str) -> bool) -> bool {
    let text = visible(text);
    text == NULL
        || (text.starts_with(['"', '[']) && is_json(text))
        || is_object_in_base64(text, is_refused)
        || is_object_in_quotes(text)
}

/// JSON for a value that is not there. Some tools write it in its place.
const NULL: &str = "null";

#[expect(clippy::disallowed_methods, reason = "the text is not kept, and serde's message is dropped")]
fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Windows does not take away the quotes in which other shells need JSON.
fn is_object_in_quotes(text: &str) -> bool {
    text.starts_with("'{") && text.ends_with("}'")
}

fn is_object_in_base64(text: &str, is_meant: impl Fn(&str) -> bool) -> bool {
    // Those of `{`, and of `{` after a blank or a newline: most texts end here.
    if !["e", "I", "C", "D"].iter().any(|start| text.starts_with(start)) {
        return false;
    }
    let decoded = decode_base64(text).unwrap_or_default();
    str::from_utf8(&decoded).is_ok_and(|json| starts_like_an_object(json) && is_json(json) && is_meant(json))
}

/// Base64 with or without padding at its end, in both alphabets.
const PADDING_OPTIONAL: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, PADDING_OPTIONAL);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, PADDING_OPTIONAL);

/// Decodes base64 as tools write it: in one of both alphabets, with or without padding, with blanks and ends of lines.
pub(crate) fn decode_base64(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    // Both have their final size from the start, because a vector that grows leaves copies behind.
    let mut base64 = Zeroizing::new(Vec::with_capacity(text.len()));
    base64.extend(text.bytes().filter(|byte| !byte.is_ascii_whitespace()));
    let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(base64.len())]);
    let alphabet = if base64.contains(&b'-') || base64.contains(&b'_') { URL_SAFE } else { STANDARD };
    let length = alphabet.decode_slice(&*base64, &mut bytes).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

/// Returns the shape of a value: its form, and what in it is unusual.
pub(crate) fn of(value: &str) -> String {
    let text = without_byte_order_mark(value);
    let trimmed = text.trim();
    let form = if starts_like_an_object(text) {
        if is_json(trimmed) { "a JSON object" } else { "text that starts like a JSON object and is none" }
    } else if trimmed.starts_with('[') && is_json(trimmed) {
        "a JSON array"
    } else if trimmed.starts_with('"') && is_json(trimmed) {
        "a JSON string: it was put into quotes, or encoded as JSON twice"
    } else if is_object_in_quotes(trimmed) {
        "a JSON object in single quotes, which the shell kept"
    } else if is_object_in_base64(trimmed, |_| true) {
        "a JSON object in base64"
    } else if trimmed == NULL {
        "the word null of JSON"
    } else if trimmed.contains("-----BEGIN") {
        "PEM text"
    } else {
        "plain text"
    };
    let mut unusual = Vec::new();
    if text.len() < value.len() {
        unusual.push("a byte order mark at its start");
    }
    if text.ends_with('\n') {
        unusual.push("a newline at its end");
    }
    if trimmed.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        unusual.push("control characters");
    }
    if !text.is_ascii() {
        unusual.push("characters that are not ASCII");
    }
    if unusual.is_empty() { form.to_owned() } else { format!("{form}, with {}", unusual.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_names_the_form_and_quotes_nothing() {
        for (value, shape) in [
            ("sentinel", "plain text"),
            ("sentinel\r\n", "plain text, with a newline at its end"),
            ("\u{feff}sentinel", "plain text, with a byte order mark at its start"),
            ("senti\0nel", "plain text, with control characters"),
            ("sentinel ä", "plain text, with characters that are not ASCII"),
            (" {\"sentinel\": 1}", "a JSON object"),
            ("{sentinel}", "text that starts like a JSON object and is none"),
            ("[\"sentinel\"]", "a JSON array"),
            ("[sentinel]", "plain text"),
            ("\"sentinel\"", "a JSON string: it was put into quotes, or encoded as JSON twice"),
            ("'{\"sentinel\":1}'", "a JSON object in single quotes, which the shell kept"),
            ("eyJzZW50aW5lbCI6MX0=", "a JSON object in base64"),
            ("CnsKICJzZW50aW5lbCI6IDEKfQo=\n", "a JSON object in base64, with a newline at its end"),
            ("CnsKICJzZW50aW5lb\nCI6IDEKfQo", "a JSON object in base64"),
            ("null\n", "the word null of JSON, with a newline at its end"),
            ("sentinel -----BEGIN", "PEM text"),
        ] {
            assert_eq!(of(value), shape, "{value:?}");
            assert!(!of(value).contains("sentinel"));
        }
    }
}
