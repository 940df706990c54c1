//! Ids of secrets and of their versions at the manager.

use crate::config::units;
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// The id of a secret at the manager: a name, or an ARN.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct SecretId(String);

impl SecretId {
    pub(crate) const EXPECTED: &str = "the id of a secret: 1 to 512 of letters, digits and /_+=.@-, or an ARN; \
        `{prefix}/` at its very start stands for secrets.prefix";

    /// `None` if the manager could not know such an id.
    pub fn parse(text: &str) -> Option<Self> {
        let arn = text.starts_with("arn:");
        let allowed = |c: char| c.is_ascii_alphanumeric() || "/_+=.@-".contains(c) || (arn && c == ':');
        let fits = (1..=512).contains(&text.len()) && text.chars().all(allowed) && !text.split('/').any(str::is_empty);
        fits.then(|| Self(text.to_owned()))
    }

    /// The id as the manager knows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        units::text(deserializer, Self::EXPECTED, Self::parse)
    }
}

/// Which version of a secret: the manager's own id for it. No secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct VersionId(String);

impl VersionId {
    const EXPECTED: &str = "the id of a version: 1 to 128 visible ASCII characters";

    /// The id as the manager gave it.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// `None` if no manager could give such an id.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self::new(text))
    }

    /// The id as the manager gave it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for VersionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        units::text(deserializer, Self::EXPECTED, Self::parse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_no_manager_could_know_are_refused() {
        for id in ["svc/database", "a", "arn:aws:secretsmanager:eu-west-1:1:secret:n-AbCdEf"] {
            assert!(SecretId::parse(id).is_some(), "{id}");
        }
        for id in ["", " ", "svc database", "/svc", "svc/", "a//b", "a:b", "{prefix}/a", "svç"] {
            assert!(SecretId::parse(id).is_none(), "{id}");
        }
    }
}
