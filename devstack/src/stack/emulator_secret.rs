//! One secret at the emulator, its versions and their labels.

use std::collections::HashMap;

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::ProvideErrorMetadata;
use aws_sdk_secretsmanager::primitives::Blob;

use crate::stack::error::Error;
use crate::stack::random::random;

/// The label of a version that has no other label yet.
const NEW: &str = "NEW";

/// One secret at the emulator.
pub(crate) struct EmulatorSecret {
    client: Client,
    id: String,
}

/// The content of a version: a text or bytes.
pub(crate) struct SecretContent {
    text: Option<String>,
    bytes: Option<Blob>,
}

impl EmulatorSecret {
    pub(crate) fn new(client: &Client, id: impl Into<String>) -> Self {
        Self { client: client.clone(), id: id.into() }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Creates the secret without a value. Does nothing if it exists.
    pub(crate) async fn create(&self) -> Result<(), Error> {
        match self.client.create_secret().name(&self.id).send().await {
            Err(error) if error.code() != Some("ResourceExistsException") => {
                Err(Error::emulator(format!("create {}", self.id))(error))
            }
            _ => Ok(()),
        }
    }

    /// Creates the secret, or gives it a new AWSCURRENT version. Returns the version's id.
    pub(crate) async fn put(&self, content: impl Into<SecretContent>) -> Result<String, Error> {
        let version = random();
        self.create().await?;
        // Puts the version first and moves the label then, because of a bug in moto: a put with AWSCURRENT takes the
        // label from the version that was put last, and not from the version that has the label.
        self.add(&version, content, NEW).await?;
        self.label("AWSCURRENT", &version).await?;
        Ok(version)
    }

    /// Adds a version with one label.
    pub(crate) async fn add(&self, version: &str, content: impl Into<SecretContent>, stage: &str) -> Result<(), Error> {
        let SecretContent { text, bytes } = content.into();
        self.client
            .put_secret_value()
            .secret_id(&self.id)
            .client_request_token(version)
            .set_secret_string(text)
            .set_secret_binary(bytes)
            .version_stages(stage)
            .send()
            .await
            .map_err(Error::emulator(format!("put a version into {}", self.id)))?;
        Ok(())
    }

    /// Moves a label to a version. AWSPREVIOUS follows AWSCURRENT.
    pub(crate) async fn label(&self, stage: &str, version: &str) -> Result<(), Error> {
        let current = self.version(stage).await?;
        if current.as_deref() == Some(version) {
            return Ok(());
        }
        self.client
            .update_secret_version_stage()
            .secret_id(&self.id)
            .version_stage(stage)
            .move_to_version_id(version)
            .set_remove_from_version_id(current)
            .send()
            .await
            .map_err(Error::emulator(format!("move {stage} of {}", self.id)))?;
        Ok(())
    }

    /// Returns the id of the version that has this label.
    pub(crate) async fn version(&self, stage: &str) -> Result<Option<String>, Error> {
        for (id, stages) in self.versions().await? {
            if stages.iter().any(|found| found == stage) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// Returns the text of the version that has this label.
    pub(crate) async fn text(&self, stage: &str) -> Result<String, Error> {
        let asked = self.client.get_secret_value().secret_id(&self.id).version_stage(stage).send().await;
        let answer = asked.map_err(Error::emulator(format!("read {stage} of {}", self.id)))?;
        answer.secret_string.ok_or_else(|| Error::Secret(format!("{stage} of {} is not text", self.id)))
    }

    /// Copies a version from another Region under the same id, and moves the label to it.
    pub(crate) async fn copy(&self, from: &Self, version: &str, stage: &str) -> Result<(), Error> {
        if !self.versions().await?.contains_key(version) {
            let asked = from.client.get_secret_value().secret_id(&from.id).version_id(version).send().await;
            let answer = asked.map_err(Error::emulator(format!("read {stage} of {}", from.id)))?;
            let content = SecretContent { text: answer.secret_string, bytes: answer.secret_binary };
            self.add(version, content, NEW).await?;
        }
        self.label(stage, version).await
    }

    async fn versions(&self) -> Result<HashMap<String, Vec<String>>, Error> {
        let asked = self.client.describe_secret().secret_id(&self.id).send().await;
        let answer = asked.map_err(Error::emulator(format!("describe {}", self.id)))?;
        Ok(answer.version_ids_to_stages.unwrap_or_default())
    }
}

impl From<&str> for SecretContent {
    fn from(text: &str) -> Self {
        Self { text: Some(text.into()), bytes: None }
    }
}

impl From<&[u8]> for SecretContent {
    fn from(bytes: &[u8]) -> Self {
        Self { text: None, bytes: Some(Blob::new(bytes)) }
    }
}
