//! The audit log of OpenBao: each request, with the policies of its token.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::stack::openbao::OpenBaoServer;

/// A request that was made with a token.
pub struct LoggedRequest {
    /// The capability that it needs, such as `read`.
    pub operation: String,
    /// The path below `/v1/`.
    pub path: String,
    /// `false` if no policy of the token allows it.
    pub is_allowed: bool,
}

/// Returns the configuration of the log in a folder. Its values are hashes of the secrets.
pub(super) fn device(folder: &Path) -> Value {
    json!({ "type": "file", "path": "file", "options": { "file_path": file(folder), "mode": "0600" } })
}

fn file(folder: &Path) -> PathBuf {
    folder.join("audit.log")
}

impl OpenBaoServer {
    /// Returns the requests so far whose token has this policy.
    ///
    /// # Panics
    /// If the log cannot be read. A node of a cluster has none.
    pub fn requests_with(&self, policy: &str) -> Vec<LoggedRequest> {
        let log = fs::read_to_string(file(&self.folder)).expect("the server writes its audit log");
        let entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut requests = Vec::new();
        for entry in entries {
            let (auth, request) = (&entry["auth"], &entry["request"]);
            let has_policy =
                auth["policies"].as_array().is_some_and(|policies| policies.iter().any(|one| one == policy));
            // A login is answered with a token, and asked without one.
            if entry["type"] == "request" && has_policy {
                let is_allowed = auth["policy_results"]["allowed"] == true;
                requests.push(LoggedRequest {
                    operation: text(&request["operation"]),
                    path: text(&request["path"]),
                    is_allowed,
                });
            }
        }
        requests
    }
}
