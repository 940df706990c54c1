use aws_sdk_secretsmanager::types::{Filter, FilterNameStringType};

use crate::manager::Manager;
use crate::secret::Secret;
use crate::stack::free_port;
use crate::supervised::Supervised;
use crate::{Error, Stack, Tenant};

/// An emulator beside the stack's own, with a store of its own: another Region, say. It ends when this is dropped.
pub struct SecondManager {
    manager: Manager,
    _server: Supervised,
}

impl SecondManager {
    /// Where it is.
    pub fn manager(&self) -> &Manager {
        &self.manager
    }
}

impl Stack {
    /// Starts another emulator.
    pub async fn second_manager(&self) -> Result<SecondManager, Error> {
        let (manager, mut server) = Manager::spawn(self.python(), &self.folder(), free_port())?;
        manager.ready(&mut server).await?;
        Ok(SecondManager { manager, _server: server })
    }
}

impl Tenant {
    /// Brings a Region of a manager up to date: there, too, AWSCURRENT, AWSPENDING and AWSPREVIOUS of each of the
    /// tenant's secrets are on the versions that have them here. Names and version ids are the same, as in a replica
    /// that AWS keeps.
    pub async fn replicate_to(&self, manager: &Manager, region: &str) -> Result<(), Error> {
        let replica = manager.client_in(region);
        for id in self.secrets().await? {
            let (here, there) = (Secret::new(self.client(), &id), Secret::new(&replica, &id));
            there.create().await?;
            // AWSCURRENT first: where it moves, AWSPREVIOUS goes to the version that it leaves.
            for stage in ["AWSCURRENT", "AWSPREVIOUS", "AWSPENDING"] {
                if let Some(version) = here.version(stage).await? {
                    there.copy(&here, &version, stage).await?;
                }
            }
        }
        Ok(())
    }

    async fn secrets(&self) -> Result<Vec<String>, Error> {
        let mine = Filter::builder().key(FilterNameStringType::Name).values(format!("{}/", self.prefix())).build();
        let listed = self.client().list_secrets().filters(mine).send().await.map_err(Error::manager("list secrets"))?;
        Ok(listed.secret_list.into_iter().flatten().filter_map(|secret| secret.name).collect())
    }
}
