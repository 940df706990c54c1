use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use devstack::{Authority, home, workspace};

use super::Failure;
use super::dev_client::DevClient;
use super::dev_metadata::Requests;
use super::project::Credential;

const TRY: &str = include_str!("../../try.txt");

/// What to try with the service that runs.
pub(crate) struct Hints {
    pub(crate) public: String,
    pub(crate) admin: String,
    pub(crate) requests: Requests,
    pub(crate) credentials: Vec<Credential>,
    pub(crate) dev_client: DevClient,
}

impl Hints {
    /// `try.txt`, with what is true now: a line comes once for each value of what it names, be there one, many or none;
    /// and curl is told of the local authority where it needs to be.
    pub(crate) fn text(&self) -> Result<String, Failure> {
        let authority = from_here(Authority::certificate_in(&home()?));
        let (curl, audit) = (format!("curl --cacert {authority}"), format!("audit --ca {authority}"));
        let shown = self.identity()?.map(|path| format!("{curl} --cert {path}"));
        let mut text = String::new();
        for line in TRY.trim_end().lines() {
            for line in self.filled(line) {
                let line = match line.contains("https://") {
                    true => {
                        // The admin listener asks nobody for a certificate.
                        let shown = shown.as_ref().filter(|_| line.contains(&self.public));
                        line.replacen("curl", shown.unwrap_or(&curl), 1).replacen("audit", &audit, 1)
                    }
                    false => line,
                };
                text += &(line + "\n");
            }
        }
        Ok(text.trim_end().into())
    }

    fn filled(&self, line: &str) -> Vec<String> {
        let Requests { get, post } = &self.requests;
        match () {
            () if line.contains("{credential}") => {
                self.names().map(|name| line.replace("{credential}", name)).collect()
            }
            () if line.contains("{get}") => {
                get.iter().map(|get| line.replace("{get}", &quoted(&format!("{}{}", self.public, get.0)))).collect()
            }
            () if line.contains("{post}") => {
                let filled = post.iter().map(|post| {
                    let url = quoted(&format!("{}{}", self.public, post.path.0));
                    // The body last: whatever is in it stays as it is.
                    line.replace("{post}", &url).replace("{body}", &quoted(&post.body.0))
                });
                filled.collect()
            }
            () => vec![line.replace("{admin}", &self.admin)],
        }
    }

    /// What `cargo dev rotate` calls them, without what only `migrate` uses.
    fn names(&self) -> impl Iterator<Item = &str> {
        let held = self.credentials.iter().map(|credential| credential.name.as_str());
        held.filter(|name| *name != "migrator").map(|name| if name == "server_tls" { "tls" } else { name })
    }

    /// Where a client finds what the service asks it to show.
    fn identity(&self) -> Result<Option<String>, Failure> {
        let Some(identity) = &self.dev_client.identity else { return Ok(None) };
        let path = home()?.join("client.pem");
        write(&path, &(identity.certificate.clone() + &identity.private_key))?;
        Ok(Some(from_here(path)))
    }
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/:.,_-+=@%".contains(&byte);
    if text.bytes().all(plain) { text.into() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Whole, unless whoever reads it is where commands of the service run, too.
fn from_here(path: PathBuf) -> String {
    let here = std::env::current_dir().ok().filter(|here| *here == workspace());
    let short = here.and_then(|here| path.strip_prefix(here).ok().map(Path::to_path_buf));
    short.unwrap_or(path).display().to_string()
}

/// For the user's eyes alone.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let _ = fs::remove_file(path);
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    opened
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))
}
