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
    /// The header that carries the key, without anything but the key; without this setting, it is
    /// `Authorization: Bearer`.
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

/// The name of a header, as a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderSetting(HeaderName);

impl HeaderSetting {
    /// Reads the name of a header. Returns `None` if the text is none.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }

    pub(crate) fn name(&self) -> &HeaderName {
        &self.0
    }
}

impl<'de> Deserialize<'de> for HeaderSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        units::text(deserializer, "the name of a header, such as \"x-api-key\"", Self::parse)
    }
}

impl Serialize for HeaderSetting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
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
