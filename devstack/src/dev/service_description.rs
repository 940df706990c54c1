//! The description that a service gives of itself with `config --json`.

use serde::Deserialize;

use crate::dev::error::DevError;
use crate::dev::free_address::check_free;
use crate::dev::secrets_manager::ManagerName;
use crate::stack::declared_credential::DeclaredCredential;
use crate::stack::declared_databases::DeclaredDatabases;
use crate::stack::free_port::free_port;

/// The output of `<service> config --json`.
#[derive(Deserialize)]
pub(crate) struct ServiceDescription {
    pub(crate) settings: DescribedSettings,
    pub(crate) credentials: Vec<DeclaredCredential>,
}

#[derive(Deserialize)]
pub(crate) struct DescribedSettings {
    pub(crate) server: ListenerSettings,
    pub(crate) admin: ListenerSettings,
    #[serde(default)]
    pub(crate) secrets: SecretsSettings,
    #[serde(flatten)]
    pub(crate) databases: DeclaredDatabases,
}

#[derive(Deserialize)]
pub(crate) struct ListenerSettings {
    listen: String,
    #[serde(default)]
    tls: bool,
}

#[derive(Default, Deserialize)]
pub(crate) struct SecretsSettings {
    #[serde(default)]
    pub(crate) provider: ManagerName,
}

impl DescribedSettings {
    /// Checks that nobody listens at the addresses of the service.
    pub(crate) fn check_free(&self) -> Result<(), DevError> {
        for (listener, variable) in [(&self.server, "APP_SERVER__LISTEN"), (&self.admin, "APP_ADMIN__LISTEN")] {
            let remedy = format!("choose another port: {variable}=127.0.0.1:{} cargo dev", free_port());
            check_free(&listener.listen, "the service", &remedy)?;
        }
        Ok(())
    }
}

impl ListenerSettings {
    /// Returns the URL, without a path, at which this machine reaches the listener.
    pub(crate) fn url(&self) -> Result<String, DevError> {
        let address = match self.listen.rsplit_once(':') {
            Some((_, "0")) | None => {
                return Err(DevError::new(format!(
                    "the service listens on {}; cargo dev must know the port: set one in config/ or in \
                     APP_SERVER__LISTEN and APP_ADMIN__LISTEN",
                    self.listen
                )));
            }
            Some(("0.0.0.0" | "[::]", port)) => format!("127.0.0.1:{port}"),
            Some(_) => self.listen.clone(),
        };
        let scheme = if self.tls { "https" } else { "http" };
        Ok(format!("{scheme}://{address}"))
    }
}
