//! The parts of a credential that no line of the log may contain.

use crate::telemetry::escape::escape_json;
use base64::{
    Engine,
    engine::{
        GeneralPurpose,
        general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
    },
};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use std::fmt::{self, Write};
use zeroize::Zeroizing;

/// The bytes of a line of PEM, which has 64 characters (RFC 7468, section 2).
const PEM_LINE_BYTES: usize = 48;

/// The bytes that are encoded in a URL: all but the unreserved ones of RFC 3986.
pub(super) const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The bytes that are encoded by `encodeURIComponent` of JavaScript.
const OUTSIDE_COMPONENT: &AsciiSet = &RESERVED.remove(b'!').remove(b'*').remove(b'\'').remove(b'(').remove(b')');

/// The bytes that are encoded between `://` and `@` (*userinfo percent-encode set* of the URL standard).
const OUTSIDE_USERINFO: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'/')
    .add(b':')
    .add(b';')
    .add(b'=')
    .add(b'@')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'|');

/// The parts of a credential that are secret. The log withholds each line that contains one of them, while the credential
/// is held: as it is, escaped, encoded for a URL, or in base64. [`Kind::secret_parts`](super::Kind::secret_parts) adds them.
///
/// ```
/// use vestibule::secrets::{ExposeSecret, SecretParts, SecretString};
///
/// /// Adds the password of a login. Its user name may be in the log.
/// fn add_password(password: &SecretString, parts: &mut SecretParts) {
///     parts.add(password.expose_secret());
/// }
/// ```
#[derive(Default)]
pub struct SecretParts {
    /// The texts that the log looks for. They are wiped.
    forms: Vec<Zeroizing<Vec<u8>>>,
}

impl SecretParts {
    /// The shortest part that the log looks for, in bytes. A shorter one would be in many lines by chance.
    pub const SHORTEST: usize = 8;

    /// Adds a part. One that is shorter than [`SHORTEST`](Self::SHORTEST) is left out.
    pub fn add(&mut self, part: impl AsRef<[u8]>) {
        let part = part.as_ref();
        if part.len() < Self::SHORTEST {
            return;
        }
        if let Ok(text) = str::from_utf8(part) {
            let debug = debug_form(text);
            for form in [text, &debug] {
                self.add_form(form.as_bytes());
                self.add_form(json_form(form).as_bytes());
            }
            for encoded in [RESERVED, OUTSIDE_COMPONENT, OUTSIDE_USERINFO] {
                self.add_form(url_form(text, encoded).as_bytes());
            }
        }
        // In a longer text that is encoded as a whole, such as `user:password`, it may begin anywhere in a group of three.
        for skipped in 0..3 {
            self.add_base64(&part[skipped..]);
        }
    }

    /// Adds a key that is written in lines of base64, as PEM is. Each line counts that has a secret part of the key: as many
    /// bytes as the shortest one, for whose places `is_secret` returns `true`.
    pub(crate) fn add_pem(&mut self, key: &[u8], is_secret: impl Fn(usize) -> bool) {
        for (number, line) in key.chunks(PEM_LINE_BYTES).enumerate() {
            let start = number * PEM_LINE_BYTES;
            if (start..start + line.len()).filter(|place| is_secret(*place)).count() >= Self::SHORTEST {
                self.add_base64(line);
            }
        }
    }

    /// Returns the texts to look for.
    pub(crate) fn forms(&self) -> impl Iterator<Item = &[u8]> {
        self.forms.iter().map(|form| form.as_slice())
    }

    /// Adds the base64 of the whole groups of three bytes.
    fn add_base64(&mut self, bytes: &[u8]) {
        let groups = bytes.len() / 3;
        let encode = |alphabet: &GeneralPurpose| {
            let mut text = Zeroizing::new(vec![0; groups * 4]);
            let written = alphabet.encode_slice(&bytes[..groups * 3], &mut text);
            debug_assert_eq!(written, Ok(groups * 4), "four characters for three bytes");
            text
        };
        self.add_form(&encode(&STANDARD_NO_PAD));
        self.add_form(&encode(&URL_SAFE_NO_PAD));
    }

    fn add_form(&mut self, form: &[u8]) {
        if !self.forms().any(|known| known == form) {
            self.forms.push(Zeroizing::new(form.to_vec()));
        }
    }
}

impl fmt::Debug for SecretParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretParts").finish_non_exhaustive()
    }
}

/// Returns a text as JSON has it, without the quotes.
fn json_form(text: &str) -> Zeroizing<String> {
    // It has its final size from the start, because a text that grows leaves copies behind. `\u0000` is the longest escape.
    let mut form = Zeroizing::new(String::with_capacity(text.len() * 6));
    escape_json(text, &mut form, usize::MAX);
    form
}

/// Returns a text as a URL has it.
fn url_form(text: &str, encoded: &'static AsciiSet) -> Zeroizing<String> {
    // `%00` is a byte.
    let mut form = Zeroizing::new(String::with_capacity(text.len() * 3));
    form.extend(utf8_percent_encode(text, encoded));
    form
}

/// Returns a text as `Debug` writes it, without the quotes.
fn debug_form(text: &str) -> Zeroizing<String> {
    // `\u{7f}` is the longest escape of a byte.
    let mut form = Zeroizing::new(String::with_capacity(text.len() * 6 + 2));
    let _ = write!(form, "{text:?}");
    form.pop();
    form.remove(0);
    form
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_looked_for_as_a_url_has_it_too() {
        let mut parts = SecretParts::default();
        parts.add("sentinel!+/=ä");
        for form in ["sentinel%21%2B%2F%3D%C3%A4", "sentinel!%2B%2F%3D%C3%A4", "sentinel!+%2F%3D%C3%A4"] {
            assert!(parts.forms().any(|known| known == form.as_bytes()), "{form}");
        }
    }
}
