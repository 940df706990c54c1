//! A second Region, and the replication of secrets to it.

use aws_sdk_secretsmanager::types::{Filter, FilterNameStringType};

use crate::stack::Stack;
use crate::stack::emulator::Emulator;
use crate::stack::emulator_secret::EmulatorSecret;
use crate::stack::error::Error;
use crate::stack::free_port::free_port;
use crate::stack::supervised_process::SupervisedProcess;
use crate::stack::tenant::Tenant;

/// An emulator beside the stack's own, with a store of its own, such as another Region. It ends when this is dropped.
pub struct SecondRegion {
    emulator: Emulator,
    _server: SupervisedProcess,
}

impl SecondRegion {
    /// Returns its emulator.
    pub fn emulator(&self) -> &Emulator {
        &self.emulator
    }
}

impl Stack {
    /// Starts an emulator for a second Region.
    pub async fn second_region(&self) -> Result<SecondRegion, Error> {
        let (emulator, mut server) = Emulator::spawn(self.python(), &self.folder(), free_port())?;
        emulator.ready(&mut server).await?;
        Ok(SecondRegion { emulator, _server: server })
    }
}

impl Tenant {
    /// Replicates the tenant's secrets to a Region of an emulator. There, too, the same versions then have AWSCURRENT,
    /// AWSPENDING and AWSPREVIOUS. Names and version ids are the same, as in a replica that AWS keeps.
    pub async fn replicate_to(&self, emulator: &Emulator, region: &str) -> Result<(), Error> {
        let replica_client = emulator.client_in(region);
        for id in self.secret_ids().await? {
            let primary = EmulatorSecret::new(self.client(), &id);
            let replica = EmulatorSecret::new(&replica_client, &id);
            replica.create().await?;
            // AWSCURRENT first: if it moves, AWSPREVIOUS goes to the version that it leaves.
            for stage in ["AWSCURRENT", "AWSPREVIOUS", "AWSPENDING"] {
                if let Some(version) = primary.version(stage).await? {
                    replica.copy(&primary, &version, stage).await?;
                }
            }
        }
        Ok(())
    }

    async fn secret_ids(&self) -> Result<Vec<String>, Error> {
        let own = Filter::builder().key(FilterNameStringType::Name).values(format!("{}/", self.prefix())).build();
        let asked = self.client().list_secrets().filters(own).send().await;
        let answer = asked.map_err(Error::emulator("list secrets"))?;
        Ok(answer.secret_list.into_iter().flatten().filter_map(|secret| secret.name).collect())
    }
}
