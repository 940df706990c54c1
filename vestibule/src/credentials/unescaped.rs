//! JSON strings that hold a secret.

use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

/// Reads a JSON string into memory that is wiped, and nowhere else: `#[serde(deserialize_with = "unescaped")]`.
/// serde_json would unescape it in a buffer of its own. Only for [`json`](super::json), which parses borrowed text.
///
/// # Errors
/// If it is no string.
pub fn unescaped<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?;
    let text = string(raw.get()).ok_or_else(|| de::Error::custom("a string is expected"))?;
    Ok(SecretString::from(text.as_str()))
}

/// The text of a JSON string, if that is what the raw value is.
fn string(raw: &str) -> Option<Zeroizing<String>> {
    let mut rest = raw.strip_prefix('"')?.strip_suffix('"')?;
    // No escape is longer than what it stands for, so this does not grow: growing would leave a copy behind.
    let mut text = Zeroizing::new(String::with_capacity(rest.len()));
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let (escaped, after) = escape(&rest[at + 1..])?;
        text.push(escaped);
        rest = after;
    }
    text.push_str(rest);
    Some(text)
}

/// The character that an escape stands for, and what follows it. RFC 8259, section 7.
fn escape(text: &str) -> Option<(char, &str)> {
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

/// One UTF-16 unit in four hexadecimal digits, or a pair of them.
fn code_point(text: &str) -> Option<(char, &str)> {
    let unit = |text: &str| u16::from_str_radix(text.get(..4)?, 16).ok();
    let (first, after) = (unit(text)?, &text[4..]);
    if let Some(plain) = char::from_u32(first.into()) {
        return Some((plain, after));
    }
    let second = after.strip_prefix("\\u")?;
    let pair = char::decode_utf16([first, unit(second)?]).next()?.ok()?;
    Some((pair, &second[4..]))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            struct Json(#[serde(deserialize_with = "unescaped")] SecretString);
            use secrecy::ExposeSecret;
            let ours = serde_json::from_str(raw).ok().map(|Json(text)| text.expose_secret().to_owned());
            assert_eq!(ours, serde_json::from_str::<String>(raw).ok(), "{raw}");
        }
    }
}
