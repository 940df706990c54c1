//! The files of `[secrets.vault]`. They are read again at each login, because others replace them.

use crate::{cause::RootCause, regular_file, secrets::source::SourceError};
use std::{path::Path, time::Duration};
use tokio::{task::spawn_blocking, time::timeout};
use zeroize::Zeroizing;

/// The time in which a file can be read. It may be on a volume that does not answer.
const READ: Duration = Duration::from_secs(2);

/// The largest file, in bytes.
const MAX_BYTES: usize = 256 * 1024;

/// Returns the text of a file, without the blanks around it. `setting` names it in errors.
///
/// # Errors
/// A transient error if it cannot be read: it may be mounted soon.
pub(super) async fn read(setting: &str, path: &Path) -> Result<Zeroizing<String>, SourceError> {
    let failed = |problem: &str| SourceError::NotConnected {
        problem: format!("the file {} of secrets.vault.{setting} cannot be read: {problem}", path.display()),
        remedy: Some("put the file there, and let the service read it"),
    };
    let file = path.to_owned();
    let reading = spawn_blocking(move || regular_file::read_secret(&file, MAX_BYTES));
    let bytes = match timeout(READ, reading).await {
        Ok(Ok(Ok(bytes))) => bytes,
        Ok(Ok(Err(error))) => return Err(failed(&RootCause::of(&error).to_string())),
        Ok(Err(_)) | Err(_) => return Err(failed("it was not there in time")),
    };
    match str::from_utf8(&bytes) {
        Ok(text) if text.trim().is_empty() => Err(failed("it is empty")),
        Ok(text) if bytes.len() <= MAX_BYTES => Ok(Zeroizing::new(text.trim().to_owned())),
        _ => Err(failed("it is not a text of 256 KiB at most")),
    }
}
