use std::collections::HashMap;

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::ProvideErrorMetadata;
use aws_sdk_secretsmanager::primitives::Blob;

use crate::Error;
use crate::planted::random;

/// What a version gets that has no other label yet.
const NEW: &str = "NEW";

/// One secret of a manager.
pub(crate) struct Secret {
    client: Client,
    id: String,
}

/// The value of a version: one of both.
pub(crate) struct Value {
    text: Option<String>,
    bytes: Option<Blob>,
}

impl Secret {
    pub(crate) fn new(client: &Client, id: impl Into<String>) -> Self {
        Self { client: client.clone(), id: id.into() }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Makes it, without a value, unless it is there.
    pub(crate) async fn create(&self) -> Result<(), Error> {
        match self.client.create_secret().name(&self.id).send().await {
            Err(error) if error.code() != Some("ResourceExistsException") => {
                Err(Error::manager(format!("create {}", self.id))(error))
            }
            _ => Ok(()),
        }
    }

    /// Makes it, or gives it a new AWSCURRENT version; returns the version's id.
    pub(crate) async fn put(&self, value: impl Into<Value>) -> Result<String, Error> {
        let version = random();
        self.create().await?;
        // Not put as AWSCURRENT: moto then takes that label from the version that was put so last, which is another
        // than the one that holds it as soon as a rotation has moved it.
        self.add(&version, value, NEW).await?;
        self.label("AWSCURRENT", &version).await?;
        Ok(version)
    }

    /// Adds a version with one label.
    pub(crate) async fn add(&self, version: &str, value: impl Into<Value>, stage: &str) -> Result<(), Error> {
        let Value { text, bytes } = value.into();
        self.client
            .put_secret_value()
            .secret_id(&self.id)
            .client_request_token(version)
            .set_secret_string(text)
            .set_secret_binary(bytes)
            .version_stages(stage)
            .send()
            .await
            .map_err(Error::manager(format!("put a version into {}", self.id)))?;
        Ok(())
    }

    /// Moves a label to a version; AWSPREVIOUS follows AWSCURRENT.
    pub(crate) async fn label(&self, stage: &str, version: &str) -> Result<(), Error> {
        let held = self.version(stage).await?;
        if held.as_deref() == Some(version) {
            return Ok(());
        }
        self.client
            .update_secret_version_stage()
            .secret_id(&self.id)
            .version_stage(stage)
            .move_to_version_id(version)
            .set_remove_from_version_id(held)
            .send()
            .await
            .map_err(Error::manager(format!("move {stage} of {}", self.id)))?;
        Ok(())
    }

    /// The id of the version that has this label.
    pub(crate) async fn version(&self, stage: &str) -> Result<Option<String>, Error> {
        let versions = self.versions().await?;
        Ok(versions.into_iter().find(|(_, stages)| stages.iter().any(|held| held == stage)).map(|(id, _)| id))
    }

    /// The text of the version that has this label.
    pub(crate) async fn text(&self, stage: &str) -> Result<String, Error> {
        let asked = self.client.get_secret_value().secret_id(&self.id).version_stage(stage).send().await;
        let answer = asked.map_err(Error::manager(format!("read {stage} of {}", self.id)))?;
        answer.secret_string.ok_or_else(|| Error::Secret(format!("{stage} of {} is not text", self.id)))
    }

    /// Takes a version over from another manager, under the same id, and the label.
    pub(crate) async fn copy(&self, from: &Self, version: &str, stage: &str) -> Result<(), Error> {
        if !self.versions().await?.contains_key(version) {
            let asked = from.client.get_secret_value().secret_id(&from.id).version_id(version).send().await;
            let answer = asked.map_err(Error::manager(format!("read {stage} of {}", from.id)))?;
            let value = Value { text: answer.secret_string, bytes: answer.secret_binary };
            self.add(version, value, NEW).await?;
        }
        self.label(stage, version).await
    }

    async fn versions(&self) -> Result<HashMap<String, Vec<String>>, Error> {
        let described = self.client.describe_secret().secret_id(&self.id).send().await;
        let described = described.map_err(Error::manager(format!("describe {}", self.id)))?;
        Ok(described.version_ids_to_stages.unwrap_or_default())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self { text: Some(text.into()), bytes: None }
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self { text: None, bytes: Some(Blob::new(bytes)) }
    }
}
