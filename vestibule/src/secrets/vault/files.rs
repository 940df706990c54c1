//! The files of `[secrets.vault]`. They are read again at each login, because others replace them.

use crate::{
    blocking_reads::BlockingReads,
    cause::RootCause,
    credentials::{ValueText, pem},
    regular_file,
    secrets::{shape, source::SourceError},
};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The largest file, in bytes.
const MAX_BYTES: usize = 256 * 1024;

const NO_TEXT: &str = "it is not a text of 256 KiB at most";

/// A file of `[secrets.vault]`.
pub(super) struct VaultFile {
    /// The key of the setting with its path.
    pub(super) setting: &'static str,
    path: PathBuf,
    pub(super) reads: BlockingReads,
}

impl VaultFile {
    pub(super) fn new(setting: &'static str, path: &Path) -> Self {
        Self { setting, path: path.into(), reads: BlockingReads::default() }
    }

    /// Returns the text of the file, without the blanks around it and byte order marks.
    ///
    /// # Errors
    /// A transient error if it cannot be read: it may be mounted soon.
    pub(super) async fn read(&self) -> Result<Zeroizing<String>, SourceError> {
        match str::from_utf8(&self.read_bytes().await?) {
            Ok(text) => self.trimmed(text),
            Err(_) => Err(self.unreadable(NO_TEXT)),
        }
    }

    /// Reads a PEM file, as [`read`](Self::read) does.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(super) async fn read_pem(&self) -> Result<Zeroizing<String>, SourceError> {
        self.trimmed(&pem::text_of(&self.read_bytes().await?))
    }

    async fn read_bytes(&self) -> Result<Zeroizing<Vec<u8>>, SourceError> {
        let path = self.path.clone();
        match self.reads.read(move || regular_file::read_secret(&path, MAX_BYTES)).await {
            Ok(bytes) if bytes.len() <= MAX_BYTES => Ok(bytes),
            Ok(_) => Err(self.unreadable(NO_TEXT)),
            Err(error) => Err(self.unreadable(&RootCause::of(&error).to_string())),
        }
    }

    fn trimmed(&self, text: &str) -> Result<Zeroizing<String>, SourceError> {
        match shape::without_byte_order_mark(text).trim() {
            "" => Err(self.unreadable("it is empty")),
            text => Ok(Zeroizing::new(text.to_owned())),
        }
    }

    /// Returns the token, the JWT or the id in the file.
    ///
    /// # Errors
    /// As [`read`](Self::read), and if the file has JSON: none of them is JSON, and the server would lock a role for
    /// it.
    pub(super) async fn read_credential(&self) -> Result<Zeroizing<String>, SourceError> {
        let text = self.read().await?;
        if let Ok(ValueText::Bare(_)) = ValueText::of(&text, "a bare token, JWT or id") {
            return Ok(text);
        }
        let Self { setting, path, .. } = self;
        let (path, seen) = (path.display(), shape::of(&text));
        Err(SourceError::NotConnected {
            problem: format!("the file {path} of secrets.vault.{setting} cannot be used: it has {seen}"),
            remedy: Some("put the bare token, JWT or id there; Vault Agent writes JSON if its sink has wrap_ttl"),
        })
    }

    fn unreadable(&self, problem: &str) -> SourceError {
        let Self { setting, path, .. } = self;
        SourceError::NotConnected {
            problem: format!("the file {} of secrets.vault.{setting} cannot be read: {problem}", path.display()),
            remedy: Some("put the file there, and let the service read it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn a_credential_is_bare_text_without_a_byte_order_mark() {
        let path = std::env::temp_dir().join(format!("token-{}", uuid::Uuid::new_v4()));
        let file = VaultFile::new("token_file", &path);
        for text in ["hvs.sentinel", "\u{feff}hvs.sentinel\r\n", "\u{feff}\u{feff} hvs.sentinel"] {
            fs::write(&path, text).unwrap();
            assert_eq!(*file.read_credential().await.unwrap(), "hvs.sentinel", "{text:?}");
        }
        for (text, seen) in [
            ("{\"token\": \"sentinel\", \"ttl\": 300}\n", "it has a JSON object"),
            ("\u{feff}{\"token\": \"sentinel\"}", "it has a JSON object"),
            ("\"sentinel\"", "it has a JSON string"),
            ("null", "it has the word null"),
            ("\u{feff}\n", "it is empty"),
        ] {
            fs::write(&path, text).unwrap();
            let error = file.read_credential().await.unwrap_err().to_string();
            assert!(error.contains("secrets.vault.token_file") && error.contains(seen), "{error}");
            assert!(!error.contains("sentinel"));
        }
        fs::remove_file(&path).unwrap();
    }
}
