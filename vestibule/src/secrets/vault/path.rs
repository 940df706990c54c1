//! The path of a secret, which says what there is.

use crate::secrets::id::SecretId;

/// The path of a secret: the mount of an engine, and a name in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VaultPath<'a> {
    pub(super) engine: VaultEngine,
    pub(super) mount: &'a str,
    pub(super) name: &'a str,
}

/// The engine that has a secret, as far as the path shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VaultEngine {
    /// A KV engine, version 2.
    Kv,
    /// An engine that makes a login at each read. The login has a lease.
    Creds,
    /// An engine that rotates one login.
    StaticCreds,
    /// A PKI engine, which issues a certificate at each call.
    Issue,
}

impl VaultEngine {
    const ALL: [Self; 4] = [Self::Kv, Self::Creds, Self::StaticCreds, Self::Issue];

    /// Returns the word in the path of a value.
    fn word(self) -> &'static str {
        match self {
            Self::Kv => "data",
            Self::Creds => "creds",
            Self::StaticCreds => "static-creds",
            Self::Issue => "issue",
        }
    }

    /// Returns the capability that a policy must give for the path of a value.
    pub(super) fn capability(self) -> &'static str {
        match self {
            Self::Kv | Self::Creds | Self::StaticCreds => "read",
            Self::Issue => "update",
        }
    }

    /// Returns `true` if the engine makes a value at each call.
    pub(super) fn makes_values(self) -> bool {
        matches!(self, Self::Creds | Self::Issue)
    }

    /// Returns the word in the path where no value is: that of the versions, or of the role.
    fn word_of_metadata(self) -> &'static str {
        match self {
            Self::Kv => "metadata",
            Self::Creds | Self::Issue => "roles",
            Self::StaticCreds => "static-roles",
        }
    }
}

impl<'a> VaultPath<'a> {
    pub(crate) const EXPECTED: &'static str = "a path in a KV engine of version 2, such as \"kv/data/payments/signing\", or \
        that of a login, such as \"database/creds/payments\" or \"database/static-creds/payments\", or that of a certificate, \
        such as \"pki/issue/payments\"";

    /// Returns the path that an id is. Returns `None` if it is none, one that an HTTP client would shorten, or one that a policy
    /// would take for many (`+`).
    pub(crate) fn parse(id: &'a SecretId) -> Option<Self> {
        let id = id.as_str();
        if id.split('/').any(|segment| ["", ".", "..", "+"].contains(&segment)) {
            return None;
        }
        // The first of the words counts: the name of a secret may have another one.
        let splits = VaultEngine::ALL.into_iter().filter_map(|engine| {
            let (mount, name) = id.split_once(&format!("/{}/", engine.word()))?;
            Some(Self { engine, mount, name })
        });
        splits.min_by_key(|path| path.mount.len())
    }

    /// Returns `true` if it is the path of a secret in the KV engine at this mount.
    pub(crate) fn is_in_kv(self, mount: &str) -> bool {
        self.engine == VaultEngine::Kv && self.mount == mount
    }

    /// Returns `true` if it is the path at which certificates are issued.
    pub(crate) fn issues_certificates(self) -> bool {
        self.engine == VaultEngine::Issue
    }

    /// Returns the path at which the value is read.
    pub(super) fn of_value(self) -> String {
        format!("{}/{}/{}", self.mount, self.engine.word(), self.name)
    }

    /// Returns the path at which the versions are read without a value, or the role that has it made.
    pub(super) fn of_metadata(self) -> String {
        format!("{}/{}/{}", self.mount, self.engine.word_of_metadata(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_which_engine_has_the_secret() {
        for (id, engine, mount, name) in [
            ("kv/data/payments/signing", VaultEngine::Kv, "kv", "payments/signing"),
            ("team/kv/data/a", VaultEngine::Kv, "team/kv", "a"),
            ("data/data/data/x", VaultEngine::Kv, "data", "data/x"),
            ("kv/data/creds/x", VaultEngine::Kv, "kv", "creds/x"),
            ("database/creds/app", VaultEngine::Creds, "database", "app"),
            ("creds/creds/data/x", VaultEngine::Creds, "creds", "data/x"),
            ("team/db/static-creds/app", VaultEngine::StaticCreds, "team/db", "app"),
            ("pki/issue/web", VaultEngine::Issue, "pki", "web"),
        ] {
            let id = SecretId::parse(id).unwrap();
            let path = VaultPath { engine, mount, name };
            assert_eq!(VaultPath::parse(&id), Some(path), "{id}");
            assert_eq!(path.of_value(), id.as_str());
        }
        for id in [
            "payments/signing",
            "kv/data/",
            "/data/x",
            "kv/metadata/x",
            "kv/data/a/../b",
            "kv//data/x",
            "kv/data/./x",
            "kv/data/+/x",
            "database/creds/",
            "creds/app",
        ] {
            assert_eq!(VaultPath::parse(&SecretId::parse(id).unwrap()), None, "{id}");
        }
    }
}
