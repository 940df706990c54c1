//! The parts of a secret that are secret.

use crate::stack::random::SENTINEL;

/// The fields of a secret that are not secret.
const PUBLIC: [&str; 7] = ["engine", "username", "host", "port", "dbname", "certificate", "tls.crt"];

/// Returns the secret parts of a value: each sentinel, which no escaping alters, and the fields of a JSON object, or the
/// whole value if it is none.
pub(super) fn secret_parts(value: &str) -> Vec<String> {
    let mut secrets = sentinels_in(value);
    match serde_json::from_str(value) {
        Ok(serde_json::Value::Object(fields)) => {
            for (name, field) in &fields {
                if PUBLIC.contains(&name.as_str()) {
                    continue;
                }
                if let Some(text) = field.as_str() {
                    secrets.push(text.into());
                    secrets.extend(key_lines(text));
                }
            }
        }
        // Certificates alone are public.
        _ if value.contains("-----BEGIN CERTIFICATE-----") && !value.contains("PRIVATE KEY") => (),
        _ => {
            secrets.push(value.into());
            secrets.extend(key_lines(value));
        }
    }
    secrets
}

/// Returns each sentinel with its random part, unless that part is too short to be one of ours.
fn sentinels_in(value: &str) -> Vec<String> {
    let mut sentinels = Vec::new();
    for (at, _) in value.match_indices(SENTINEL) {
        let random = value[at + SENTINEL.len()..].chars().take_while(char::is_ascii_alphanumeric);
        let sentinel: String = SENTINEL.chars().chain(random).collect();
        if sentinel.len() >= SENTINEL.len() + 8 {
            sentinels.push(sentinel);
        }
    }
    sentinels
}

/// Returns the lines of a private key in PEM, each of which is a leak by itself. The first and the last line are the same
/// in every key, and are not included.
fn key_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut in_key = false;
    for line in text.lines() {
        if let Some(label) = line.strip_prefix("-----BEGIN ") {
            in_key = label.contains("PRIVATE KEY");
        } else if in_key && line.len() > 32 && !line.starts_with("--") {
            lines.push(line.into());
        }
    }
    lines
}
