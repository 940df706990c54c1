//! The section `[traces]`.

use crate::config::{base_url::BaseUrl, units};
use axum::http::HeaderName;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{num::NonZeroU32, time::Duration};
use vestibule_derive::ConfigSection;

/// `[traces]`: the spans of sampled requests, sent to a collector over OTLP (protobuf over HTTP). It is off without an
/// endpoint.
///
/// The credential `otlp` is the collector's key. It is on if its id is configured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ConfigSection)]
#[serde(default)]
pub struct TracesConfig {
    /// The whole URL to which spans are sent, `https://collector.example/v1/traces` for example. Without it, traces are
    /// off.
    pub endpoint: Option<BaseUrl>,
    /// The part of requests that is sampled, from 0 for none to 1 for all. If a trusted proxy, or a client with a
    /// certificate, names a parent, the parent's flag decides instead.
    #[setting(min = 0, max = 1)]
    pub sample_ratio: f64,
    /// The header that carries the key, such as `x-api-key` or `authorization: Basic`; without this setting, it is
    /// `authorization: Bearer`.
    pub key_header: Option<HeaderSetting>,
    /// The longest time of one call of the collector, with its retries.
    #[serde(with = "units::duration")]
    #[setting(min = "100ms", max = "30s")]
    pub timeout: Duration,
    /// The largest number of spans that wait to be sent. Further ones are dropped and counted.
    #[setting(min = 1, max = 100_000)]
    pub queue: NonZeroU32,
    /// The attributes of this process in its spans, each as `name=value`: `deployment.environment.name=production`. Besides
    /// these it has `service.name`, `service.version` and `service.instance.id`.
    pub attributes: Vec<ProcessAttribute>,
}

impl Default for TracesConfig {
    fn default() -> Self {
        Self {
            endpoint: None,
            sample_ratio: 0.1,
            key_header: None,
            timeout: Duration::from_secs(10),
            queue: NonZeroU32::new(4096).expect("4096 is not zero"),
            attributes: Vec::new(),
        }
    }
}

/// The header that carries a key, as a setting: its name, `x-api-key`, or its name and the word before the key,
/// `authorization: Basic`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderSetting {
    name: HeaderName,
    /// The word before the key, with a blank after it. Empty if there is none.
    scheme: String,
}

impl HeaderSetting {
    /// Reads such a text. Returns `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, scheme) = match text.split_once(':') {
            None => (text, String::new()),
            Some((name, word)) => {
                let word = word.trim();
                if word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
                    return None;
                }
                (name, format!("{word} "))
            }
        };
        Some(Self { name: name.parse().ok()?, scheme })
    }

    pub(crate) fn name(&self) -> &HeaderName {
        &self.name
    }

    /// Returns the text before the key.
    pub(crate) fn scheme(&self) -> &str {
        &self.scheme
    }
}

impl<'de> Deserialize<'de> for HeaderSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a header such as \"x-api-key\", or one with a word before the key: \"authorization: Basic\"";
        units::text(deserializer, expected, Self::parse)
    }
}

impl Serialize for HeaderSetting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let separator = if self.scheme.is_empty() { "" } else { ": " };
        serializer.collect_str(&format_args!("{}{separator}{}", self.name, self.scheme.trim_end()))
    }
}

/// An attribute of this process in its spans, as a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessAttribute {
    pub(crate) name: String,
    pub(crate) value: String,
}

impl ProcessAttribute {
    /// The longest name, and the longest value, in bytes.
    const LONGEST: usize = 256;

    /// Reads `name=value`. Returns `None` if the text is none, or if the framework sets this attribute itself.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, value) = text.split_once('=')?;
        let is_of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.';
        let is_ours = name.starts_with("telemetry.sdk.")
            || ["service.name", "service.version", "service.instance.id"].contains(&name);
        let has_length = |text: &str| (1..=Self::LONGEST).contains(&text.len());
        if is_ours || !has_length(name) || !has_length(value) {
            return None;
        }
        if !name.chars().all(is_of_name) || value.chars().any(char::is_control) {
            return None;
        }
        Some(Self { name: name.into(), value: value.into() })
    }
}

impl<'de> Deserialize<'de> for ProcessAttribute {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected =
            "an attribute such as \"deployment.environment.name=production\", and none that every process has";
        units::text(deserializer, expected, Self::parse)
    }
}

impl Serialize for ProcessAttribute {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}={}", self.name, self.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_a_name_with_or_without_a_word_before_the_key() {
        for (text, name, scheme) in
            [("x-api-key", "x-api-key", ""), ("Authorization: Basic", "authorization", "Basic ")]
        {
            let header = HeaderSetting::parse(text).unwrap();
            assert_eq!((header.name().as_str(), header.scheme()), (name, scheme));
            let written = serde_json::to_value(&header).unwrap();
            assert_eq!(HeaderSetting::parse(written.as_str().unwrap()), Some(header));
        }
        for wrong in ["", "x api key", "authorization:", "authorization: Basic dXNlcjo=", ": Basic"] {
            assert_eq!(HeaderSetting::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_attribute_that_every_process_has_cannot_be_set() {
        let attribute = ProcessAttribute::parse("deployment.environment.name=a=b").unwrap();
        assert_eq!((attribute.name.as_str(), attribute.value.as_str()), ("deployment.environment.name", "a=b"));
        for wrong in ["", "a", "a=", "=a", "A=b", "a b=c", "a=\n", "service.name=other", "telemetry.sdk.name=other"] {
            assert_eq!(ProcessAttribute::parse(wrong), None, "{wrong}");
        }
    }
}
