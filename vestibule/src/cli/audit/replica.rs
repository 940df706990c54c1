//! A replica, as its admin listener tells of it.

use crate::{
    cli::{admin, trust::Connector},
    config::units,
    secrets::id::SecretId,
};
use axum::http::{Uri, uri::Scheme};
use serde::{Deserialize, Deserializer};
use std::{collections::BTreeMap, fmt, iter};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

/// Where a replica's admin listener is.
#[derive(Clone)]
pub(super) struct Address {
    scheme: Scheme,
    authority: String,
}

impl Address {
    /// # Errors
    /// What is wrong with it. Never quotes it: a URL may hold a password.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = url.parse().map_err(|_| "this is no URL")?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let scheme = uri.scheme().filter(|scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme));
        match scheme {
            None => Err("this is no http or https URL"),
            _ if authority.contains('@') => Err("a user or a password has no place in it"),
            _ if uri.port_u16().is_none() => Err("it names no port"),
            _ if uri.path_and_query().is_some_and(|path| path != "/") => Err("it goes on after the port"),
            Some(scheme) => Ok(Self { scheme: scheme.clone(), authority: authority.to_owned() }),
        }
    }

    pub(super) fn is_https(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// What the replica says of itself.
    ///
    /// # Errors
    /// Why it says nothing.
    pub(super) async fn ask(&self, connector: Connector) -> Result<ReplicaStatus, String> {
        let uri = format!("{self}/status").parse().expect("it was parsed before");
        let (code, body) = admin::ask(uri, connector).await.map_err(|silence| silence.to_string())?;
        if !code.is_success() {
            return Err(format!("it answers {code}"));
        }
        let status: ReplicaStatus =
            serde_json::from_str(&body).map_err(|_| "what answers there is no service of this framework")?;
        if status.credentials.is_empty() {
            return Err("it names no credential".into());
        }
        Ok(status)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

/// The part of `/status` that matters here.
#[derive(Deserialize)]
pub(super) struct ReplicaStatus {
    pub(super) instance: Uuid,
    pub(super) credentials: Vec<ReplicaCredential>,
    pub(super) draining: Vec<ReplicaDraining>,
}

/// A credential that a replica holds.
#[derive(Deserialize)]
pub(super) struct ReplicaCredential {
    #[serde(deserialize_with = "word")]
    pub(super) name: String,
    pub(super) id: SecretId,
    #[serde(deserialize_with = "word")]
    pub(super) version: String,
    #[serde(deserialize_with = "word")]
    pub(super) stage: String,
    /// Versions that only verify, by stage.
    #[serde(default)]
    others: BTreeMap<String, SecretVersion>,
    #[serde(with = "time::serde::rfc3339")]
    loaded: OffsetDateTime,
}

#[derive(Deserialize)]
struct SecretVersion(#[serde(deserialize_with = "word")] String);

impl ReplicaCredential {
    /// Every version that it uses, in whichever way.
    pub(super) fn versions(&self) -> impl Iterator<Item = &str> {
        iter::once(&self.version).chain(self.others.values().map(|SecretVersion(other)| other)).map(String::as_str)
    }

    /// Since when it is held, to the second.
    pub(super) fn since(&self) -> String {
        let second = self.loaded.replace_nanosecond(0).unwrap_or(self.loaded);
        second.format(&Rfc3339).unwrap_or_default()
    }
}

#[derive(Deserialize)]
pub(super) struct ReplicaDraining {
    pub(super) generation: u64,
}

/// What stands in the table comes from the network: no control characters, no second column.
fn word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_graphic()).then(|| text.to_owned());
    units::text(deserializer, "a word", plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_draw_on_the_terminal_is_no_status() {
        let status = |version: &str| {
            serde_json::json!({
                "instance": Uuid::nil(),
                "credentials": [{
                    "name": "database",
                    "id": "svc/database",
                    "version": version,
                    "stage": "current",
                    "loaded": "2026-01-02T03:04:05.678Z",
                }],
                "draining": [],
            })
            .to_string()
        };
        let good: ReplicaStatus = serde_json::from_str(&status("v1")).expect("a status");
        assert_eq!(good.credentials[0].since(), "2026-01-02T03:04:05Z");
        for version in ["\u{1b}[2J", "v1  current", "v1\n"] {
            assert!(serde_json::from_str::<ReplicaStatus>(&status(version)).is_err(), "{version:?}");
        }
    }

    #[test]
    fn an_address_is_a_scheme_a_host_and_a_port() {
        for text in ["http://10.0.0.7:9090", "10.0.0.7:9090", "http://10.0.0.7:9090/", "HTTP://10.0.0.7:9090"] {
            assert_eq!(Address::parse(text).map(|address| address.to_string()), Ok("http://10.0.0.7:9090".into()));
        }
        for text in ["https://10.0.0.7:9090", "HTTPS://10.0.0.7:9090/"] {
            assert_eq!(Address::parse(text).map(|address| address.to_string()), Ok("https://10.0.0.7:9090".into()));
        }
        for text in ["svc-0.svc:9090", "[::1]:9090"] {
            assert_eq!(Address::parse(text).map(|address| address.to_string()), Ok(format!("http://{text}")));
        }
        for text in [
            "",
            "http://",
            "https://10.0.0.7",
            "ftp://10.0.0.7",
            "http://me:sentinel@10.0.0.7:9090",
            "http://10.0.0.7",
            "10.0.0.7:9090/status",
            "10.0.0.7:9090?",
            "10.0.0.7:port",
            "two words",
        ] {
            let error = Address::parse(text).map(|address| address.to_string()).expect_err(text);
            assert!(!error.contains("sentinel"), "{error}");
        }
    }
}
