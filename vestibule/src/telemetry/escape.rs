//! The escapes of JSON strings.

/// The longest escape of one character, in bytes: `\u001b`.
const LONGEST_ESCAPE: usize = 6;

/// `true` for each byte that begins a character which may need an escape. The controls U+0080 to U+009F begin with 0xc2,
/// as other characters do that need none.
const MAY_NEED_ESCAPE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = byte < 0x20 || matches!(byte as u8, b'"' | b'\\' | 0x7f | 0xc2);
        byte += 1;
    }
    table
};

/// A word with this byte in each of its eight places.
const fn in_each_place(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Returns `true` if a text is seen to need no escape, as most ASCII is. It looks at eight bytes at a time.
fn is_plain(text: &str) -> bool {
    let text = text.as_bytes();
    let Some(last) = text.last_chunk() else {
        return !text.iter().any(|byte| MAY_NEED_ESCAPE[usize::from(*byte)]);
    };
    let (words, _) = text.as_chunks();
    words.iter().chain([last]).all(|word| is_plain_word(u64::from_ne_bytes(*word)))
}

fn is_plain_word(word: u64) -> bool {
    // A subtraction sets the highest bit of each byte that is too small for it. It may set that of the byte after one too,
    // which changes nothing: the word is not plain then.
    let mut special = word | word.wrapping_sub(in_each_place(b' '));
    for byte in [b'"', b'\\', 0x7f] {
        special |= (word ^ in_each_place(byte)).wrapping_sub(in_each_place(1));
    }
    special & in_each_place(0x80) == 0
}

/// Appends a text as it stands within a JSON string. All control characters of Unicode are escaped: a terminal that shows
/// the log would obey them. Returns `false` if `out` would be longer than `limit`. Then the end of the text is left out.
pub(crate) fn escape_json(text: &str, out: &mut String, limit: usize) -> bool {
    if text.len() <= limit.saturating_sub(out.len()) && is_plain(text) {
        out.push_str(text);
        return true;
    }
    let mut rest = text;
    loop {
        let plain = rest.bytes().position(|byte| MAY_NEED_ESCAPE[usize::from(byte)]).unwrap_or(rest.len());
        let room = limit.saturating_sub(out.len());
        if plain > room {
            out.push_str(&rest[..rest.floor_char_boundary(room)]);
            return false;
        }
        out.push_str(&rest[..plain]);
        let Some(special) = rest[plain..].chars().next() else { return true };
        if plain + LONGEST_ESCAPE > room {
            return false;
        }
        push_escaped(special, out);
        rest = &rest[plain + special.len_utf8()..];
    }
}

fn push_escaped(special: char, out: &mut String) {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let short = match special {
        '"' => "\\\"",
        '\\' => "\\\\",
        '\n' => "\\n",
        '\r' => "\\r",
        '\t' => "\\t",
        '\u{8}' => "\\b",
        '\u{c}' => "\\f",
        control if control.is_control() => "\\u00",
        other => return out.push(other),
    };
    out.push_str(short);
    if short == "\\u00" {
        let code = special as usize;
        out.extend([DIGITS[code >> 4], DIGITS[code & 15]]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn escaped(text: &str, limit: usize) -> (String, bool) {
        let mut out = String::new();
        let is_whole = escape_json(text, &mut out, limit);
        (out, is_whole)
    }

    #[test]
    fn an_escaped_text_is_read_as_it_was_and_has_no_control_character() {
        let all: String = ('\0'..='\u{2ff}').chain("ä€😀\u{2028}".chars()).collect();
        for text in ["", "plain", "\"\\/", "a\nb\r\n\tc\u{8}\u{c}\u{1b}[31m", "°·é\u{9b}31m\u{7f}", &all] {
            let (json, is_whole) = escaped(text, usize::MAX);
            assert!(is_whole && !json.chars().any(char::is_control), "{json}");
            assert_eq!(format!("\"{json}\"").parse::<Value>().unwrap(), text);
        }
    }

    #[test]
    fn a_special_character_is_found_at_each_place_of_a_text() {
        for length in 1..=20 {
            for (place, special) in (0..length).flat_map(|place| (0..=0xff).map(move |special| (place, special))) {
                let text: String = (0..length).map(|at| if at == place { char::from(special) } else { 'a' }).collect();
                let is_escaped = special == b'"' || special == b'\\' || char::from(special).is_control();
                assert_eq!(escaped(&text, usize::MAX).0 != text, is_escaped, "{text:?}");
            }
        }
    }

    #[test]
    fn a_text_is_cut_between_characters_and_never_within_an_escape() {
        for (text, limit, cut) in [
            ("plain", 3, "pla"),
            ("aäb", 2, "a"),
            ("aäb", 3, "aä"),
            ("ab\n", 7, "ab"),
            ("ab\n", 8, "ab\\n"),
            ("\u{1}", 5, ""),
            ("°°", 1, ""),
        ] {
            assert_eq!(escaped(text, limit), (cut.to_owned(), cut == "ab\\n"), "{text:?} in {limit}");
        }
    }
}
