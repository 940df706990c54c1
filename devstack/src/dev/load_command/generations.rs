//! The generations of the service during a load.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::dev::error::DevError;
use crate::dev::status_client::StatusClient;

const INTERVAL: Duration = Duration::from_millis(200);

/// The generations that `/status` has named.
#[derive(Default)]
pub(super) struct SeenGenerations {
    /// The last one. `None` if `/status` does not answer.
    last: Option<u64>,
    pub(super) all: BTreeSet<u64>,
}

impl SeenGenerations {
    /// Returns the current generation, or `?`.
    pub(super) fn current(&self) -> String {
        match self.last {
            Some(generation) => generation.to_string(),
            None => "?".into(),
        }
    }
}

/// Reads the generation five times per second. Returns an error if `/status` does not answer now.
pub(super) async fn watch_generations(
    status_client: StatusClient,
) -> Result<watch::Receiver<SeenGenerations>, DevError> {
    status_client.status().await?;
    let (sender, generations) = watch::channel(SeenGenerations::default());
    tokio::spawn(async move {
        loop {
            let generation = status_client.status().await.ok().map(|status| status.generation());
            sender.send_modify(|seen| {
                seen.last = generation;
                seen.all.extend(generation);
            });
            sleep(INTERVAL).await;
        }
    });
    Ok(generations)
}
