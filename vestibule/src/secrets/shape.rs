//! The shape of a value, in words that give nothing of it away. A report of a malformed value says what was seen.

use base64::{Engine, engine::general_purpose::STANDARD};
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
    const INVISIBLE: [char; 5] = [BYTE_ORDER_MARK, '\u{200b}', '\u{2060}', '\u{ad}', '\u{fffd}'];
    text.trim_matches(|c: char| c.is_whitespace() || c.is_control() || INVISIBLE.contains(&c))
}

/// Returns `true` if the text is JSON that is no object and no bare word, or a JSON object in base64 or in the quotes of a
/// shell.
pub(crate) fn is_json_in_disguise(text: &str) -> bool {
    let text = visible(text);
    (text.starts_with(['"', '[']) && is_json(text)) || is_object_in_base64(text) || is_object_in_quotes(text)
}

#[expect(clippy::disallowed_methods, reason = "the text is not kept, and serde's message is dropped")]
fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Windows does not take away the quotes in which other shells need JSON.
fn is_object_in_quotes(text: &str) -> bool {
    text.starts_with("'{") && text.ends_with("}'")
}

fn is_object_in_base64(text: &str) -> bool {
    // Those of `{`, and of `{` after a blank or a newline: most texts end here.
    if !["e", "I", "C", "D"].iter().any(|start| text.starts_with(start)) {
        return false;
    }
    let mut decoded = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
    let Ok(length) = STANDARD.decode_slice(text, &mut decoded) else { return false };
    str::from_utf8(&decoded[..length]).is_ok_and(|json| starts_like_an_object(json) && is_json(json))
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
    } else if is_object_in_base64(trimmed) {
        "a JSON object in base64"
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
            ("sentinel -----BEGIN", "PEM text"),
        ] {
            assert_eq!(of(value), shape, "{value:?}");
            assert!(!of(value).contains("sentinel"));
        }
    }
}
