//! Ids of secrets and of their versions at the manager.

use crate::config::units;
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// The id of a secret at the manager: a name, or an ARN.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct SecretId(String);

impl SecretId {
    pub(crate) const EXPECTED: &str = "the id of a secret: 1 to 512 of letters, digits and /_+=.@!-, or an ARN; \
        `{prefix}/` at its very start stands for secrets.prefix";

    /// Parses an id. Returns `None` if no manager could have a secret of this id.
    ///
    /// ```
    /// use vestibule::secrets::SecretId;
    ///
    /// let id = SecretId::parse("my-service/database").expect("a name with one slash");
    /// assert_eq!(id.as_str(), "my-service/database");
    /// assert_eq!(SecretId::parse("my service"), None);
    /// ```
    pub fn parse(text: &str) -> Option<Self> {
        let is_arn = text.starts_with("arn:");
        // The names that AWS's own services give to secrets have a `!`, as in `rds!db-…`.
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "/_+=.@!-".contains(c) || (is_arn && c == ':');
        let has_name = text.chars().any(|c| c != '/');
        // AWS's limits for a name, and for an ARN, which has the name and more.
        let longest = if is_arn { 2048 } else { 512 };
        if (1..=longest).contains(&text.len()) && text.chars().all(is_allowed) && has_name {
            Some(Self(text.to_owned()))
        } else {
            None
        }
    }

    /// Returns the Region of an ARN (`arn:<partition>:<service>:<Region>:…`). Returns `None` if the id is a name.
    pub(crate) fn region(&self) -> Option<&str> {
        self.0.strip_prefix("arn:")?.split(':').nth(2)
    }

    /// Returns the account of an ARN (`arn:<partition>:<service>:<Region>:<account>:…`). Returns `None` if the id is a name.
    pub(crate) fn account(&self) -> Option<&str> {
        self.0.strip_prefix("arn:")?.split(':').nth(3)
    }

    /// Returns the id as the manager knows it.
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

/// The manager's own id of one version of a secret. It is no secret itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct VersionId(String);

impl VersionId {
    const EXPECTED: &str = "the id of a version: 1 to 128 visible ASCII characters";

    /// Takes an id as the manager gave it, unchecked.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// Parses an id that a person wrote. Returns `None` if no manager could give such an id.
    pub fn parse(text: &str) -> Option<Self> {
        if (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Some(Self::new(text))
        } else {
            None
        }
    }

    /// Returns the id as the manager gave it.
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
    fn ids_that_no_manager_could_have_are_refused() {
        let managed = "arn:aws:secretsmanager:eu-west-1:1:secret:rds!db-7e5ad50b-88ae-4554-ad3e-f6dbe758b9d0-QGTzsj";
        let arn = "arn:aws:secretsmanager:eu-west-1:1:secret:n-AbCdEf";
        let longest = "n".repeat(512);
        let of_longest = format!("arn:aws:secretsmanager:eu-west-1:1:secret:{longest}-AbCdEf");
        for id in [
            "svc/database",
            "a",
            "/svc/db",
            "svc/",
            "a//b",
            "rds!cluster-7e5ad50b",
            managed,
            arn,
            &longest,
            &of_longest,
        ] {
            assert!(SecretId::parse(id).is_some(), "{id}");
        }
        assert!(SecretId::parse(&format!("{longest}n")).is_none());
        for id in ["", " ", "/", "svc database", "a:b", "{prefix}/a", "svç"] {
            assert!(SecretId::parse(id).is_none(), "{id}");
        }
    }
}
