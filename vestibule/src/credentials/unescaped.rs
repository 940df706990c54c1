//! JSON strings that hold a secret.

use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

/// Reads a JSON string into memory that is wiped, and nowhere else. serde_json would unescape it in a buffer of its own.
///
/// It works only with [`json`](super::json), which parses borrowed text.
///
/// # Errors
/// If the JSON value is no string.
///
/// ```
/// use serde::Deserialize;
/// use vestibule::{credentials::unescaped, secrets::SecretString};
///
/// #[derive(Deserialize)]
/// struct RelayLogin {
///     username: String,
///     #[serde(deserialize_with = "unescaped")]
///     password: SecretString,
/// }
/// ```
pub fn unescaped<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?;
    let text = unescape(raw.get()).ok_or_else(|| de::Error::custom("a string is expected"))?;
    Ok(SecretString::from(text.as_str()))
}

/// Returns the text of a JSON string. Returns `None` if the raw value is no string.
pub(super) fn unescape(raw: &str) -> Option<Zeroizing<String>> {
    let mut rest = raw.strip_prefix('"')?.strip_suffix('"')?;
    // No escape is shorter than its character, so the text never outgrows its capacity. Growing would leave a copy behind.
    let mut text = Zeroizing::new(String::with_capacity(rest.len()));
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let (character, after) = escaped_char(&rest[at + 1..])?;
        text.push(character);
        rest = after;
    }
    text.push_str(rest);
    Some(text)
}

/// Returns the character of an escape, and the text after it (RFC 8259, section 7).
fn escaped_char(text: &str) -> Option<(char, &str)> {
    let mut chars = text.chars();
    let plain = match chars.next()? {
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => return code_point(chars.as_str()),
        same @ ('"' | '\\' | '/') => same,
        _ => return None,
    };
    Some((plain, chars.as_str()))
}

/// Returns the character of one UTF-16 unit, or of a surrogate pair, and the text after it.
fn code_point(text: &str) -> Option<(char, &str)> {
    let (first, after) = (utf16_unit(text)?, &text[4..]);
    if let Some(plain) = char::from_u32(first.into()) {
        return Some((plain, after));
    }
    let second = after.strip_prefix("\\u")?;
    let pair = char::decode_utf16([first, utf16_unit(second)?]).next()?.ok()?;
    Some((pair, &second[4..]))
}

/// Parses the four hexadecimal digits of a UTF-16 unit.
fn utf16_unit(text: &str) -> Option<u16> {
    u16::from_str_radix(text.get(..4)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "compares with serde's own reading; nothing is secret here")]
    #[test]
    fn a_string_is_read_as_serde_json_reads_it() {
        for raw in [
            r#""""#,
            r#""plain""#,
            r#""-----BEGIN\nMII\/+=\r\n""#,
            r#""\"\\\/\b\f\n\r\t""#,
            r#""\u00e4\u0000\ud83d\ude00 ä😀""#,
            r#""\ud83d""#,
            r#""\ud83d\u0041""#,
            r#""\udc00""#,
            r#""\u12""#,
            r#""\u+123""#,
            r#""\x""#,
            r#""a"b""#,
            r#""\""#,
            "7",
            "null",
            "",
        ] {
            #[derive(Deserialize)]
            struct JsonString(#[serde(deserialize_with = "unescaped")] SecretString);
            use secrecy::ExposeSecret;
            let ours = serde_json::from_str(raw).ok().map(|JsonString(text)| text.expose_secret().to_owned());
            assert_eq!(ours, serde_json::from_str::<String>(raw).ok(), "{raw}");
        }
    }
}
