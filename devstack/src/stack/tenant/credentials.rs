//! The secrets of a tenant, and their rotation.

use serde_json::json;

use crate::stack::authority::identity::Identity;
use crate::stack::authority::validity::Validity;
use crate::stack::emulator_secret::EmulatorSecret;
use crate::stack::error::Error;
use crate::stack::openbao::login_rotation::OpenBaoRotation;
use crate::stack::random::{random, random_key, random_password};
use crate::stack::rotation::Rotation;
use crate::stack::tenant::Tenant;

impl Tenant {
    /// Gives a credential a random value of its kind, named as in `config --json`. Returns the version's id, or `None`
    /// if this crate does not know the kind.
    pub async fn put_random(&self, credential: &str, kind: &str) -> Result<Option<String>, Error> {
        let version = match kind {
            "login" => self.put_random_login(credential).await?,
            "signing_keys" => self.put(credential, &random_key()).await?,
            "api_key" => self.put(credential, &random()).await?,
            "tls_identity" => self.put_identity(credential, &self.authority.local(Validity::days(90))).await?,
            "client_ca" => self.put(credential, self.authority.certificate()).await?,
            _ => return Ok(None),
        };
        Ok(Some(version))
    }

    /// Gives a credential a role with a random password, and the secret to log in as that role. Returns the version's
    /// id.
    pub async fn put_random_login(&self, credential: &str) -> Result<String, Error> {
        let (role, password) = (self.role(credential), random_password());
        if credential != "migrator" {
            self.create_role(&role).await?;
        }
        self.set_password(&role, &password).await?;
        self.put_login(credential, &role, &password).await
    }

    async fn put_login(&self, credential: &str, role: &str, password: &str) -> Result<String, Error> {
        let login = json!({ "engine": "postgres", "username": role, "password": password });
        self.put(credential, &login.to_string()).await
    }

    /// Creates the secret, or gives it a new version that is current. Returns the version's id.
    pub async fn put(&self, credential: &str, value: &str) -> Result<String, Error> {
        self.remember(credential, value);
        if let Some(access) = self.openbao() {
            return access.api.put_secret(&self.id(credential), value).await;
        }
        self.secret(credential).put(value).await
    }

    /// Does the same as [`Self::put`] with a certificate and its key.
    pub async fn put_identity(&self, credential: &str, identity: &Identity) -> Result<String, Error> {
        self.put(credential, &identity.secret()).await
    }

    /// Adds a version whose only label is AWSPENDING. Returns the version's id.
    pub async fn put_pending(&self, credential: &str, value: &str) -> Result<String, Error> {
        self.remember(credential, value);
        let version = random();
        self.secret(credential).add(&version, value, "AWSPENDING").await?;
        Ok(version)
    }

    /// Does the same as [`Self::put`] with a binary value.
    pub async fn put_binary(&self, credential: &str, value: &[u8]) -> Result<String, Error> {
        if let Ok(text) = str::from_utf8(value) {
            self.remember(credential, text);
        }
        self.secret(credential).put(value).await
    }

    /// Replaces the secret with one that has no value.
    pub async fn create_empty(&self, credential: &str) -> Result<(), Error> {
        self.delete(credential).await?;
        self.secret(credential).create().await
    }

    /// Deletes the secret at once. Succeeds also if there is none.
    pub async fn delete(&self, credential: &str) -> Result<(), Error> {
        let id = self.id(credential);
        let deleted = self.client.delete_secret().secret_id(&id).force_delete_without_recovery(true).send().await;
        deleted.map_err(Error::emulator(format!("delete {id}")))?;
        Ok(())
    }

    /// Returns the id of the version with this label (`AWSCURRENT`, `AWSPENDING`, `AWSPREVIOUS`).
    pub async fn version(&self, credential: &str, stage: &str) -> Result<Option<String>, Error> {
        if let Some(access) = self.openbao() {
            let current = access.api.secret(&self.id(credential)).await?;
            return Ok(if stage == "AWSCURRENT" { current.map(|(_, version)| version) } else { None });
        }
        self.secret(credential).version(stage).await
    }

    /// Returns the text of the version with this label. At OpenBao, AWSCURRENT is the newest version, and AWSPREVIOUS the
    /// one before it.
    pub async fn value(&self, credential: &str, stage: &str) -> Result<String, Error> {
        if let Some(access) = self.openbao() {
            return access.api.secret_text(&self.id(credential), stage).await;
        }
        self.secret(credential).text(stage).await
    }

    /// Prepares a rotation of a login. The caller runs its four steps.
    pub fn rotation(&self, credential: &str) -> Rotation {
        let client = self.client.clone();
        Rotation::new(client, credential, &self.id(credential), self.database(), self.leak_detector.clone())
    }

    /// Rotates a login in all four steps. Returns the id of the new version. At OpenBao, a version has no stages: the role
    /// gets another password, and the secret a new version.
    pub async fn rotate(&self, credential: &str) -> Result<String, Error> {
        if let Some(access) = self.openbao() {
            let (api, id) = (access.api.clone(), self.id(credential));
            let mut rotation = OpenBaoRotation::new(api, credential, &id, self.leak_detector.clone()).await?;
            rotation.set(&self.database()).await?;
            return rotation.put().await;
        }
        let rotation = self.rotation(credential);
        rotation.create_pending().await?;
        rotation.set().await?;
        rotation.test().await?;
        rotation.finish().await?;
        Ok(rotation.version().into())
    }

    /// Rotates a login by AWS's strategy of alternating users. Returns the id of the new version.
    ///
    /// The user that is not AWSCURRENT gets a new password and becomes AWSCURRENT. PostgreSQL rejects no login at any
    /// time, also none of the user before. The second user is `<first user>_clone`.
    pub async fn rotate_users(&self, credential: &str) -> Result<String, Error> {
        let role = self.role(credential);
        let clone = format!("{role}_clone");
        let current = self.rotation(credential).login("AWSCURRENT").await?;
        let next = if current["username"] == role { clone } else { role };
        if !self.has_role(&next).await? {
            self.create_role(&next).await?;
        }
        let password = random_password();
        self.set_password(&next, &password).await?;
        self.put_login(credential, &next, &password).await
    }

    fn secret(&self, credential: &str) -> EmulatorSecret {
        EmulatorSecret::new(&self.client, self.id(credential))
    }
}
