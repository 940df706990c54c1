//! The files that the configuration and the platform's variables name: settings, authorities, profiles.

use std::{
    fs,
    io::{self, ErrorKind, Read},
    os::unix::fs::FileTypeExt,
    path::Path,
};
use zeroize::Zeroizing;

/// The largest file that is read, in bytes.
const LARGEST: u64 = 16 << 20;

/// Reads a text file. Follows symbolic links: the files of a Kubernetes volume are some.
///
/// # Errors
/// If it cannot be read, is not UTF-8, is larger than 16 MiB, or is refused by [`check`].
pub(crate) fn read(path: &Path) -> io::Result<String> {
    text_of(read_bytes(path)?)
}

/// Reads a file.
///
/// # Errors
/// If it cannot be read, is larger than 16 MiB, or is refused by [`check`].
pub(crate) fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    check(path)?;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::new(ErrorKind::FileTooLarge, "it is larger than 16 MiB"));
    }
    Ok(bytes)
}

/// Returns the bytes of a file as a text.
///
/// # Errors
/// [`ErrorKind::InvalidData`] if they are not UTF-8.
pub(crate) fn text_of(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not UTF-8"))
}

/// Reads a file with a secret, of `most` bytes and one at most. All of it is wiped afterwards.
///
/// # Errors
/// If it cannot be read, or is refused by [`check`].
pub(crate) fn read_secret(path: &Path, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    check(path)?;
    // It has room for all, so it does not grow: that would leave a copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 1));
    fs::File::open(path)?.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Checks that this is a regular file, or `/dev/null`, which people name for an empty one.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] if it is something else: to open a FIFO waits until somebody writes to it, and a device or a
/// socket may never end. Another error if it is not there, or cannot be reached.
fn check(path: &Path) -> io::Result<()> {
    let kind = fs::metadata(path)?.file_type();
    let seen = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else if fs::canonicalize(path)? == Path::new("/dev/null") {
        return Ok(());
    } else {
        "a device"
    };
    Err(io::Error::new(ErrorKind::InvalidInput, format!("it is {seen}, and not a regular file")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        os::unix::{fs::symlink, net::UnixListener},
        process::Command,
    };

    #[test]
    fn only_a_regular_file_is_read_and_nothing_is_waited_for() {
        let folder = std::env::temp_dir().join(format!("regular-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&folder).unwrap();
        let at = |name: &str| folder.join(name);
        fs::write(at("file"), "text").unwrap();
        symlink("file", at("link")).unwrap();
        assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
        symlink("fifo", at("link to a fifo")).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        fs::File::create(at("huge")).unwrap().set_len(LARGEST + 1).unwrap();
        for (path, expected) in [
            (at("file"), Ok("text")),
            (at("link"), Ok("text")),
            ("/dev/null".into(), Ok("")),
            (at("fifo"), Err("it is a FIFO")),
            (at("link to a fifo"), Err("it is a FIFO")),
            (folder.clone(), Err("it is a folder")),
            (at("socket"), Err("it is a socket")),
            ("/dev/zero".into(), Err("it is a device")),
            (at("huge"), Err("it is larger than 16 MiB")),
            (at("nothing"), Err("No such file")),
        ] {
            match (read(&path), expected) {
                (Ok(text), Ok(expected)) => assert_eq!(text, expected, "{}", path.display()),
                (Err(error), Err(expected)) => assert!(error.to_string().starts_with(expected), "{error}"),
                (read, _) => panic!("{}: {read:?}", path.display()),
            }
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
