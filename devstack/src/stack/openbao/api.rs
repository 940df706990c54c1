//! The interface of OpenBao.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::stack::authority::Authority;
use crate::stack::error::Error;

/// The interface of a running OpenBao, with a token.
#[derive(Clone)]
pub struct OpenBao {
    address: String,
    token: String,
    authority: Arc<Authority>,
}

impl OpenBao {
    pub(crate) fn new(address: String, token: String, authority: Arc<Authority>) -> Self {
        Self { address, token, authority }
    }

    /// Returns the interface of a server that another process has started. The token is in a file.
    pub fn at(address: &str, token_file: &Path, authority: Arc<Authority>) -> Result<Self, Error> {
        let token = std::fs::read_to_string(token_file)
            .map_err(Error::io(format!("read the token in {}", token_file.display())))?;
        Ok(Self::new(address.into(), token, authority))
    }

    /// Returns its address.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Returns the same with another token.
    pub fn with_token(&self, token: String) -> Self {
        Self { token, ..self.clone() }
    }

    /// Gets a path below `/v1/`.
    pub async fn get(&self, path: &str) -> Result<Value, Error> {
        self.call(Method::GET, path, None).await
    }

    /// Posts to a path below `/v1/`.
    pub async fn post(&self, path: &str, body: Value) -> Result<Value, Error> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// Puts to a path below `/v1/`.
    pub async fn put(&self, path: &str, body: Value) -> Result<Value, Error> {
        self.call(Method::PUT, path, Some(body)).await
    }

    /// Deletes a path below `/v1/`.
    pub async fn delete(&self, path: &str) -> Result<(), Error> {
        self.call(Method::DELETE, path, None).await?;
        Ok(())
    }

    /// Gives a secret of the KV engine a new version: the fields of a JSON object, or one field for any other text.
    /// Returns the version's id, as the framework names it.
    pub async fn put_secret(&self, id: &str, value: &str) -> Result<String, Error> {
        let fields = match serde_json::from_str(value) {
            Ok(fields @ Value::Object(_)) => fields,
            _ => json!({ "value": value }),
        };
        let answer = self.post(id, json!({ "data": fields })).await?;
        Ok(version_id(&answer["data"]))
    }

    /// Returns the fields of the newest version of a secret, and its id. Returns `None` if there is none.
    pub async fn secret(&self, id: &str) -> Result<Option<(Value, String)>, Error> {
        match self.get(id).await {
            Ok(mut answer) => {
                let version = version_id(&answer["data"]["metadata"]);
                Ok(Some((answer["data"]["data"].take(), version)))
            }
            Err(Error::OpenBao { status: Some(StatusCode::NOT_FOUND), .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the text of a secret, as [`put_secret`](Self::put_secret) got it: that of the newest version for the label
    /// AWSCURRENT, and of the one before it for AWSPREVIOUS.
    pub(crate) async fn secret_text(&self, id: &str, stage: &str) -> Result<String, Error> {
        let none = || Error::Secret(format!("{id} has no version {stage}"));
        let (mut fields, version) = self.secret(id).await?.ok_or_else(none)?;
        match stage {
            "AWSCURRENT" => {}
            "AWSPREVIOUS" => {
                let number: Option<u64> = version.split('@').next().and_then(|number| number.parse().ok());
                let before = number.and_then(|number| number.checked_sub(1)).filter(|number| *number > 0);
                let before = format!("{id}?version={}", before.ok_or_else(none)?);
                fields = self.secret(&before).await?.ok_or_else(none)?.0;
            }
            _ => return Err(none()),
        }
        match fields.as_object() {
            Some(all) if all.len() == 1 && all.contains_key("value") => {
                Ok(all["value"].as_str().unwrap_or_default().to_owned())
            }
            _ => Ok(fields.to_string()),
        }
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Error> {
        let doing = format!("{method} {path}");
        let failed = |status: Option<StatusCode>, why: String| Error::OpenBao { doing: doing.clone(), status, why };
        // Each call has connections of its own: those of a shared client would belong to the runtime of one test.
        let client = self.authority.trusted().timeout(Duration::from_secs(30)).build().expect("a client");
        let mut request = client.request(method, format!("{}/v1/{path}", self.address));
        if !self.token.is_empty() {
            request = request.header("x-vault-token", &self.token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.map_err(|error| failed(None, error.to_string()))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| failed(Some(status), error.to_string()))?;
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        if status.is_success() {
            return Ok(answer);
        }
        Err(failed(Some(status), format!("HTTP {status}: {}", answer["errors"])))
    }
}

fn version_id(metadata: &Value) -> String {
    format!("{}@{}", metadata["version"], metadata["created_time"].as_str().unwrap_or_default())
}
