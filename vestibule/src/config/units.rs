//! Settings that people write as text: durations, sizes, addresses. An error says what is expected, and never quotes the
//! text.
//!
//! A service uses them for its own settings too:
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use std::time::Duration;
//! use vestibule::config::units;
//!
//! #[derive(Serialize, Deserialize)]
//! struct MySettings {
//!     /// Such as `"30s"`.
//!     #[serde(with = "units::duration")]
//!     timeout: Duration,
//! }
//! ```

use serde::{Deserializer, Serializer, de};
use std::{fmt, marker::PhantomData};

struct TextVisitor<T, F> {
    parse: F,
    expected: &'static str,
    parsed: PhantomData<T>,
}

impl<T, F: FnOnce(&str) -> Option<T>> de::Visitor<'_> for TextVisitor<T, F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        // serde wants to be told what it got instead. The text itself may be a secret in the wrong place.
        (self.parse)(text).ok_or_else(|| E::invalid_value(de::Unexpected::Other("this"), &self.expected))
    }
}

/// Reads a text with `parse`, for a `deserialize_with` of a service's own.
///
/// # Errors
/// An error that says `expected`, if the setting is no text or `parse` returns `None`.
pub fn text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, D::Error> {
    deserializer.deserialize_str(TextVisitor { parse, expected, parsed: PhantomData })
}

/// A duration such as `"30s"` or `"1h 30m"`.
pub mod duration {
    use super::{Deserializer, Serializer, text};
    use std::time::Duration;

    /// The longest duration: 100 years. A clock may not be able to add a longer one.
    const MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

    const EXPECTED: &str = "a duration such as \"30s\", \"5m\" or \"1h 30m\"";

    /// Reads a duration.
    ///
    /// # Errors
    /// If the text is no duration, or one of more than 100 years.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        text(d, EXPECTED, parse)
    }

    pub(crate) fn parse(text: &str) -> Option<Duration> {
        // humantime reads `5M` as five months, and people mean minutes.
        if text.contains('M') {
            return None;
        }
        let duration = humantime::parse_duration(text).ok()?;
        if duration <= MAX { Some(duration) } else { None }
    }

    /// Writes a duration as people do.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(duration: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&humantime::format_duration(*duration))
    }
}

/// A size such as `"1 MiB"`.
pub mod size {
    use super::{Deserializer, Serializer, text};
    use bytesize::ByteSize;

    const EXPECTED: &str = "a size such as \"64 KiB\" or \"1 MiB\"";

    /// Reads a size in bytes.
    ///
    /// # Errors
    /// If the text is no size.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<ByteSize, D::Error> {
        text(d, EXPECTED, |text| text.parse().ok())
    }

    /// Writes a size exactly, in the largest unit that divides it.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(size: &ByteSize, s: S) -> Result<S::Ok, S::Error> {
        let bytes = size.as_u64();
        for (power, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if bytes > 0 && bytes.trailing_zeros() >= power {
                return s.collect_str(&format_args!("{} {unit}", bytes >> power));
            }
        }
        s.collect_str(&format_args!("{bytes} B"))
    }
}

/// A socket address such as `"127.0.0.1:8080"`.
pub mod address {
    use super::{Deserializer, Serializer, text};
    use std::net::{IpAddr, SocketAddr};

    const EXPECTED: &str = "an address and a port such as \"127.0.0.1:8080\" or \"[::]:8080\"";

    /// Reads an address. Names are not looked up. One that IPv6 maps from IPv4 is read as that of IPv4, because it is the same
    /// place: `[::ffff:0.0.0.0]` is all addresses.
    ///
    /// # Errors
    /// If the text is no IP address with a port.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<SocketAddr, D::Error> {
        text(d, EXPECTED, parse)
    }

    fn parse(text: &str) -> Option<SocketAddr> {
        let address: SocketAddr = text.parse().ok()?;
        match address.ip().to_canonical() {
            ip @ IpAddr::V4(_) => Some(SocketAddr::new(ip, address.port())),
            // It may have a zone, which is no part of the IP address.
            IpAddr::V6(_) => Some(address),
        }
    }

    /// Writes an address.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(address: &SocketAddr, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(address)
    }
}

/// Directives of `tracing_subscriber::EnvFilter`, in ASCII. A target has its level: `sqlx=warn`. The value of a field is a
/// text, and no regular expression.
pub mod filter {
    use super::{Deserializer, Serializer, text};
    use tracing_subscriber::{EnvFilter, filter::LevelFilter};

    const EXPECTED: &str = "log directives such as \"info\" or \"info,sqlx=warn\"";

    /// Reads directives: checks them, and keeps their text.
    ///
    /// # Errors
    /// If the text is blank, or no directives.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
        text(d, EXPECTED, check)
    }

    fn check(text: &str) -> Option<String> {
        parse(text).map(|_| text.to_owned())
    }

    /// Parses directives. Returns `None` if the text is none.
    pub(crate) fn parse(text: &str) -> Option<EnvFilter> {
        // tracing-subscriber 0.3.23 panics at some characters that are not ASCII, such as U+0085. Directives need none.
        if text.trim().is_empty() || !text.is_ascii() || has_misspelt_level(text) {
            return None;
        }
        // As a regular expression, the value of a field can take seconds to parse.
        EnvFilter::builder().with_regex(false).parse(text).ok()
    }

    /// Returns `true` if a word that stands alone is no level. It would be a target, and `inof` would turn all others off.
    fn has_misspelt_level(text: &str) -> bool {
        // Between brackets, commas and words mean something else.
        let mut words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        !text.contains('[') && words.any(|word| !word.contains('=') && word.parse::<LevelFilter>().is_err())
    }

    /// Writes the directives.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(filter: &str, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(filter)
    }
}
