//! The path of a secret, which says what there is.

use crate::secrets::id::SecretId;

/// The path of a secret in a KV engine, version 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VaultPath<'a> {
    pub(super) mount: &'a str,
    pub(super) name: &'a str,
}

impl<'a> VaultPath<'a> {
    pub(crate) const EXPECTED: &'static str =
        "a path in a KV engine of version 2, such as \"kv/data/payments/signing\"";

    /// Returns the path that an id is. Returns `None` if it is none, or one that an HTTP client would shorten.
    pub(crate) fn parse(id: &'a SecretId) -> Option<Self> {
        let (mount, name) = id.as_str().split_once("/data/")?;
        let is_plain = |path: &str| path.split('/').all(|segment| !["", ".", ".."].contains(&segment));
        if is_plain(mount) && is_plain(name) { Some(Self { mount, name }) } else { None }
    }

    /// Returns the path of a version's value; without a version, of the newest one.
    pub(super) fn data(&self, version: Option<u64>) -> String {
        let Self { mount, name } = self;
        match version {
            None => format!("{mount}/data/{name}"),
            Some(version) => format!("{mount}/data/{name}?version={version}"),
        }
    }

    /// Returns the path of the versions, without values.
    pub(super) fn metadata(&self) -> String {
        format!("{}/metadata/{}", self.mount, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_that_of_a_secret_in_a_mount() {
        for (id, mount, name) in [
            ("kv/data/payments/signing", "kv", "payments/signing"),
            ("team/kv/data/a", "team/kv", "a"),
            ("data/data/data/x", "data", "data/x"),
        ] {
            let id = SecretId::parse(id).unwrap();
            assert_eq!(VaultPath::parse(&id), Some(VaultPath { mount, name }), "{id}");
        }
        for id in
            ["payments/signing", "kv/data/", "/data/x", "kv/metadata/x", "kv/data/a/../b", "kv//data/x", "kv/data/./x"]
        {
            assert_eq!(VaultPath::parse(&SecretId::parse(id).unwrap()), None, "{id}");
        }
    }
}
