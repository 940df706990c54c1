//! A file of a test's own: authorities, a token, a profile.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A file in the folder for temporary files. It is deleted when this is dropped.
pub(crate) struct TemporaryFile(PathBuf);

impl TemporaryFile {
    /// Writes a file with this text.
    pub(crate) fn new(text: &str) -> Self {
        let file = Self::absent();
        file.write(text);
        file
    }

    /// Returns a file that does not exist yet.
    pub(crate) fn absent() -> Self {
        Self(std::env::temp_dir().join(format!("test-file-{}", devstack::random())))
    }

    /// Replaces the text.
    pub(crate) fn write(&self, text: &str) {
        // Nobody sees a part of it.
        let new = self.0.with_extension("new");
        fs::write(&new, text).expect("a file");
        fs::rename(new, &self.0).expect("a file");
    }

    /// Returns the path of the file, for a variable.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
