//! The secrets manager of the local stack, as the commands of `cargo dev` use it.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::dev::error::DevError;
use crate::stack::authority::Authority;
use crate::stack::emulator::Emulator;
use crate::stack::folders::home;
use crate::stack::openbao::api::OpenBao;

/// The name of a secrets manager: `aws` or `openbao` on the command line, `aws` or `vault` in a service's configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ManagerName {
    /// The emulator of AWS Secrets Manager.
    #[default]
    Aws,
    /// A real OpenBao, which is installed if it is missing (75 MB).
    #[serde(rename = "vault")]
    Openbao,
}

/// The place of the running secrets manager. It holds no secret.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct ManagerPlace {
    /// Its URL.
    pub(crate) manager: String,
    /// The file with the root token of OpenBao. `None` if the manager is the emulator of AWS Secrets Manager.
    pub(crate) openbao_token: Option<PathBuf>,
}

/// The running secrets manager.
pub(crate) enum StackManager {
    Aws(Emulator),
    OpenBao(OpenBao),
}

impl StackManager {
    /// Returns the manager at this place.
    pub(crate) fn at(place: &ManagerPlace) -> Result<Self, DevError> {
        let ManagerPlace { manager, openbao_token } = place;
        let Some(token_file) = openbao_token else {
            return Ok(Self::Aws(Emulator::at(manager)));
        };
        let authority = Arc::new(Authority::load_or_create(&home()?)?);
        Ok(Self::OpenBao(OpenBao::at(manager, token_file, authority)?))
    }

    /// Ends all leases of an id that OpenBao makes at each read.
    pub(crate) async fn revoke_leases(&self, id: &str) -> Result<(), DevError> {
        match self {
            Self::Aws(_) => Err(DevError::new(format!("{id}: AWS Secrets Manager has no leases"))),
            Self::OpenBao(api) => {
                api.put(&format!("sys/leases/revoke-prefix/{id}"), serde_json::json!({})).await?;
                Ok(())
            }
        }
    }

    /// Gives a secret a new current version. Returns the version's id.
    pub(crate) async fn put(&self, id: &str, value: &str) -> Result<String, DevError> {
        Ok(match self {
            Self::Aws(emulator) => emulator.put(id, value).await?,
            Self::OpenBao(api) => api.put_secret(id, value).await?,
        })
    }
}
