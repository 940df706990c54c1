//! The commands that `cargo dev` suggests once the service is ready.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::dev::dev_client::DevClient;
use crate::dev::dev_metadata::ExampleRequests;
use crate::dev::error::DevError;
use crate::shell::shell_quoted;
use crate::stack::authority::Authority;
use crate::stack::declared_credential::DeclaredCredential;
use crate::stack::folders::{home, workspace};

const TEMPLATE: &str = include_str!("../../try.txt");

/// The values for `try.txt`.
pub(crate) struct Hints {
    /// The URL of the public listener.
    pub(crate) public: String,
    /// The URL of the admin listener.
    pub(crate) admin: String,
    pub(crate) requests: ExampleRequests,
    pub(crate) credentials: Vec<DeclaredCredential>,
    pub(crate) dev_client: DevClient,
    /// A token, if the routes need one.
    pub(crate) token: Option<String>,
}

impl Hints {
    /// Returns `try.txt` with these values. A line appears once per value of its placeholder, or not at all. curl
    /// gets the local authority if a URL needs it.
    pub(crate) fn text(&self) -> Result<String, DevError> {
        let authority = shell_quoted(&relative_to_workspace(Authority::certificate_in(&home()?)));
        let curl = format!("curl --cacert {authority}");
        let audit = format!("audit --ca {authority}");
        let mut curl_public = curl.clone();
        if let Some(path) = self.write_identity()? {
            curl_public += &format!(" --cert {}", shell_quoted(&path));
        }
        let mut text = String::new();
        for template in TEMPLATE.trim_end().lines() {
            for mut line in self.fill(template) {
                let needs_tls = line.contains("https://");
                // The admin listener asks nobody for a certificate.
                if needs_tls && line.contains(&self.public) {
                    line = line.replacen("curl", &curl_public, 1).replacen("audit", &audit, 1);
                } else if needs_tls {
                    line = line.replacen("curl", &curl, 1).replacen("audit", &audit, 1);
                }
                if self.token.is_some() && template.contains("curl") && !template.contains("{admin}") {
                    line += " -H \"authorization: Bearer $(cargo dev token)\"";
                }
                text += &(line + "\n");
            }
        }
        Ok(text.trim_end().into())
    }

    /// Returns a line of the template once per value of its placeholder.
    fn fill(&self, line: &str) -> Vec<String> {
        if line.contains("{credential}") {
            return self.credential_names().map(|name| line.replace("{credential}", name)).collect();
        }
        if line.contains("{auth}") {
            return if self.token.is_some() { vec![line.replace("{auth}", "auth")] } else { Vec::new() };
        }
        if line.contains("{token}") {
            return self.token.iter().map(|token| line.replace("{token}", token)).collect();
        }
        if line.contains("{get}") {
            let Some(path) = &self.requests.get else { return Vec::new() };
            let url = format!("{}{}", self.public, path.0);
            return vec![line.replace("{get}", &shell_quoted(&url))];
        }
        if line.contains("{post}") {
            let Some(post) = &self.requests.post else { return Vec::new() };
            let url = format!("{}{}", self.public, post.path.0);
            // The body last: so nothing in it is replaced.
            let filled = line.replace("{post}", &shell_quoted(&url)).replace("{body}", &shell_quoted(&post.body.0));
            return vec![filled];
        }
        vec![line.replace("{admin}", &self.admin)]
    }

    /// Returns the names that `cargo dev rotate` takes, without those of migrators, which only `migrate` uses.
    fn credential_names(&self) -> impl Iterator<Item = &str> {
        let held = self.credentials.iter().filter(|credential| !credential.is_migrator());
        held.map(|credential| credential.name.as_str()).map(|name| if name == "server_tls" { "tls" } else { name })
    }

    /// Writes the client certificate to a file if the service asks for one. Returns the path.
    fn write_identity(&self) -> Result<Option<String>, DevError> {
        let Some(identity) = &self.dev_client.identity else { return Ok(None) };
        let path = home()?.join("client.pem");
        write_private(&path, &(identity.certificate.clone() + &identity.private_key))?;
        Ok(Some(relative_to_workspace(path)))
    }
}

/// Shortens a path if the current folder is the workspace, in which commands of the service run, too.
fn relative_to_workspace(path: PathBuf) -> String {
    if let Ok(current) = std::env::current_dir()
        && current == workspace()
        && let Ok(short) = path.strip_prefix(&current)
    {
        return short.display().to_string();
    }
    path.display().to_string()
}

/// Writes a file that only the user may read.
fn write_private(path: &Path, text: &str) -> Result<(), DevError> {
    let _ = fs::remove_file(path);
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    opened
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| DevError::new(format!("cannot write {}: {error}", path.display())))
}
