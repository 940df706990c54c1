//! The section `[traces]`.

use crate::config::{base_url::BaseUrl, units};
use axum::http::HeaderName;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};
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
    /// The attributes of this process besides `service.name`, `service.version` and `service.instance.id`. A name with a
    /// dot needs quotes: `"deployment.environment.name" = "production"`.
    pub attributes: BTreeMap<String, String>,
}

impl Default for TracesConfig {
    fn default() -> Self {
        Self {
            endpoint: None,
            sample_ratio: 0.1,
            key_header: None,
            timeout: Duration::from_secs(10),
            queue: NonZeroU32::new(4096).expect("4096 is not zero"),
            attributes: BTreeMap::new(),
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
