//! `/status` on the service's admin listener.

use std::time::Duration;

use reqwest::Client;
use serde_json::Value;

use crate::dev::dev_client::DevClient;
use crate::dev::error::DevError;

/// A client for `/status` on the service's admin listener.
pub(crate) struct StatusClient {
    pub(crate) url: String,
    client: Client,
}

/// The content of `/status`.
pub(crate) struct ServiceStatus(Value);

impl StatusClient {
    /// Prepares a client for the admin listener at `admin_url`.
    pub(crate) fn new(admin_url: &str, dev_client: &DevClient) -> Self {
        let client = dev_client.http().timeout(Duration::from_secs(5)).build();
        Self { url: format!("{admin_url}/status"), client: client.expect("it trusts an authority of ours") }
    }

    pub(crate) async fn status(&self) -> Result<ServiceStatus, DevError> {
        let answer = self.client.get(&self.url).send().await.map_err(|error| self.no_answer(&error))?;
        Ok(ServiceStatus(answer.json().await.map_err(|error| self.no_answer(&error))?))
    }

    fn no_answer(&self, error: &reqwest::Error) -> DevError {
        DevError::new(format!("{} does not answer: {error}", self.url))
    }
}

impl ServiceStatus {
    pub(crate) fn generation(&self) -> u64 {
        self.0["generation"].as_u64().unwrap_or(0)
    }

    /// Returns the version of a credential that is in service, or `None` if the service does not have the credential.
    pub(crate) fn version(&self, name: &str) -> Option<&str> {
        self.credential(name)?["version"].as_str()
    }

    /// Returns the label of that version, as `/status` calls it.
    pub(crate) fn stage(&self, name: &str) -> Option<&str> {
        self.credential(name)?["stage"].as_str()
    }

    fn credential(&self, name: &str) -> Option<&Value> {
        self.0["credentials"].as_array()?.iter().find(|credential| credential["name"] == name)
    }
}
