//! Values that people write as text. Each refuses by saying what it expects, never what it was given.
//!
//! For a service's own settings too: `#[serde(with = "vestibule::config::units::duration")]`.

use serde::{Deserializer, Serializer, de};
use std::{fmt, marker::PhantomData};

struct Text<T, F> {
    parse: F,
    expected: &'static str,
    made: PhantomData<T>,
}

impl<T, F: FnOnce(&str) -> Option<T>> de::Visitor<'_> for Text<T, F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(de::Unexpected::Other("this"), &self.expected))
    }
}

/// Reads text with `parse`; an error says `expected`.
pub fn text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, D::Error> {
    deserializer.deserialize_str(Text { parse, expected, made: PhantomData })
}

/// A duration such as `"30s"` or `"1h 30m"`.
pub mod duration {
    use super::{Deserializer, Serializer, text};
    use std::time::Duration;

    /// A clock that is asked for later than this may not know an answer.
    const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

    const EXPECTED: &str = "a duration such as \"30s\", \"5m\" or \"1h 30m\"";

    /// Parses a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        text(d, EXPECTED, parse)
    }

    pub(super) fn parse(text: &str) -> Option<Duration> {
        humantime::parse_duration(text).ok().filter(|duration| *duration <= LONGEST)
    }

    /// Writes a duration as people do.
    pub fn serialize<S: Serializer>(duration: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&humantime::format_duration(*duration))
    }
}

/// A duration longer than nothing.
pub mod positive_duration {
    use super::{Deserializer, text};
    use std::time::Duration;

    pub use super::duration::serialize;

    const EXPECTED: &str = "a duration longer than nothing, such as \"30s\" or \"5m\"";

    /// Parses a duration and refuses zero.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        text(d, EXPECTED, |text| super::duration::parse(text).filter(|duration| !duration.is_zero()))
    }
}

/// A size such as `"1 MiB"`.
pub mod size {
    use super::{Deserializer, Serializer, text};
    use bytesize::ByteSize;

    const EXPECTED: &str = "a size such as \"64 KiB\" or \"1 MiB\"";

    /// Parses a size in bytes.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<ByteSize, D::Error> {
        text(d, EXPECTED, |text| text.parse().ok())
    }

    /// Writes a size exactly, in the largest unit that divides it.
    pub fn serialize<S: Serializer>(size: &ByteSize, s: S) -> Result<S::Ok, S::Error> {
        let bytes = size.as_u64();
        let unit = [(30, "GiB"), (20, "MiB"), (10, "KiB")]
            .into_iter()
            .find(|(power, _)| bytes > 0 && bytes.trailing_zeros() >= *power);
        match unit {
            Some((power, unit)) => s.collect_str(&format_args!("{} {unit}", bytes >> power)),
            None => s.collect_str(&format_args!("{bytes} B")),
        }
    }
}

/// A socket address such as `"127.0.0.1:8080"`.
pub mod address {
    use super::{Deserializer, Serializer, text};
    use std::net::SocketAddr;

    const EXPECTED: &str = "an address and a port such as \"127.0.0.1:8080\" or \"[::]:8080\"";

    /// Parses an address; names are not looked up.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<SocketAddr, D::Error> {
        text(d, EXPECTED, |text| text.parse().ok())
    }

    /// Writes an address.
    pub fn serialize<S: Serializer>(address: &SocketAddr, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(address)
    }
}

/// Directives of `tracing_subscriber::EnvFilter`.
pub mod filter {
    use super::{Deserializer, Serializer, text};
    use tracing_subscriber::EnvFilter;

    const EXPECTED: &str = "log directives such as \"info\" or \"info,sqlx=warn\"";

    /// Checks the directives and keeps their text.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
        text(d, EXPECTED, |text| {
            EnvFilter::builder().parse(text).ok().filter(|_| !text.trim().is_empty()).map(|_| text.to_owned())
        })
    }

    /// Writes the directives.
    pub fn serialize<S: Serializer>(filter: &str, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(filter)
    }
}
