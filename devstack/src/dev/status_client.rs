use std::time::Duration;

use devstack::reqwest::Client;
use serde_json::Value;

use super::Failure;
use super::dev_client::DevClient;

/// The service's admin listener.
pub(crate) struct StatusClient {
    pub(crate) url: String,
    client: Client,
}

/// What `/status` says.
pub(crate) struct Status(Value);

impl StatusClient {
    pub(crate) fn new(url: &str, dev_client: &DevClient) -> Self {
        let client = dev_client.http().timeout(Duration::from_secs(5)).build();
        Self { url: format!("{url}/status"), client: client.expect("it trusts an authority of ours") }
    }

    pub(crate) async fn status(&self) -> Result<Status, Failure> {
        let silent = |error| Failure::new(format!("{} does not answer: {error}", self.url));
        let answer = self.client.get(&self.url).send().await.map_err(silent)?;
        Ok(Status(answer.json().await.map_err(silent)?))
    }
}

impl Status {
    pub(crate) fn generation(&self) -> u64 {
        self.0["generation"].as_u64().unwrap_or(0)
    }

    pub(crate) fn pid(&self) -> Result<u32, Failure> {
        let pid = self.0["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        pid.ok_or_else(|| Failure::new("/status names no pid"))
    }

    /// The version of a credential that is in service; none if the service does not hold it.
    pub(crate) fn version(&self, name: &str) -> Option<&str> {
        self.credential(name)?["version"].as_str()
    }

    pub(crate) fn stage(&self, name: &str) -> Option<&str> {
        self.credential(name)?["stage"].as_str()
    }

    fn credential(&self, name: &str) -> Option<&Value> {
        self.0["credentials"].as_array()?.iter().find(|credential| credential["name"] == name)
    }
}
