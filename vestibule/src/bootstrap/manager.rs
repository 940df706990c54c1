//! The secrets manager of the process: the one that the configuration names, or a source that the service brings.

use crate::{
    backoff::Backoff,
    blocking_reads::FileReads,
    config::{
        Config,
        layers::Sources,
        settings::{AwsConfig, SecretsProvider},
    },
    exit::{Exit, Fault},
    secrets::{aws::SecretsManager, regions::Regions, source::Source, vault::Vault},
};
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// The set-up of a secrets manager. A process does it at most once.
pub(crate) trait ManagerSetup<T> {
    /// `true` if the set-up may read any setting, and `false` if it reads `[secrets]` alone.
    const READS_ALL_SETTINGS: bool;

    /// Returns the manager of the configuration. Returns `None` for a service's own source.
    fn provider(&self, config: &Config<T>) -> Option<SecretsProvider>;

    /// Returns the Regions of the manager.
    ///
    /// # Errors
    /// The fault of a set-up that fails, or that does not end before the deadline.
    async fn regions(self, sources: &Sources, config: &Config<T>, deadline: Instant) -> Result<Regions, Fault>;
}

/// The set-up of the manager in `secrets.provider`.
pub(crate) struct ConfiguredManager;

impl<T> ManagerSetup<T> for ConfiguredManager {
    const READS_ALL_SETTINGS: bool = false;

    fn provider(&self, config: &Config<T>) -> Option<SecretsProvider> {
        Some(config.secrets.provider)
    }

    async fn regions(self, sources: &Sources, config: &Config<T>, deadline: Instant) -> Result<Regions, Fault> {
        match config.secrets.provider {
            SecretsProvider::Aws => aws_regions(&config.secrets.aws, sources.is_strict(), deadline).await,
            SecretsProvider::Vault => Ok(Regions::of(Arc::new(Vault::new(&config.secrets)))),
        }
    }
}

/// Returns the Regions of AWS Secrets Manager. Tries until the deadline.
///
/// # Errors
/// The fault of the last try.
async fn aws_regions(aws: &AwsConfig, strict: bool, deadline: Instant) -> Result<Regions, Fault> {
    let mut pauses = Backoff::until(deadline);
    let mut is_logged = false;
    let files = FileReads::default();
    let managers = loop {
        let connecting = SecretsManager::of_regions(aws, strict, &files);
        let fault = match timeout_at(deadline, connecting).await {
            Ok(Ok(managers)) => break managers,
            Ok(Err(fault)) => fault,
            Err(_) => SecretsManager::region_timeout(),
        };
        // A restart may mend it, and so may a moment: a file that is not mounted yet, a network that is not up yet.
        let may_pass = matches!(fault.exit, Exit::Unavailable | Exit::Deadline);
        if may_pass && !is_logged {
            let Fault { subject, problem, .. } = &fault;
            tracing::warn!(subject, problem, "the secrets manager cannot be set up; trying until secrets.deadline");
            is_logged = true;
        }
        if !may_pass || !pauses.wait().await {
            return Err(fault);
        }
    };
    let region = |(name, manager)| (name, Arc::new(manager) as Arc<dyn Source>);
    Ok(Regions::new(managers.into_iter().map(region)))
}

/// The set-up of a service's own source.
pub(crate) struct SourceSetup<F>(pub(crate) F);

impl<T, F, S> ManagerSetup<T> for SourceSetup<F>
where
    F: AsyncFnOnce(&Config<T>) -> Result<S, Fault>,
    S: Source,
{
    const READS_ALL_SETTINGS: bool = true;

    fn provider(&self, _: &Config<T>) -> Option<SecretsProvider> {
        None
    }

    async fn regions(self, _: &Sources, config: &Config<T>, deadline: Instant) -> Result<Regions, Fault> {
        match timeout_at(deadline, (self.0)(config)).await {
            Ok(source) => Ok(Regions::of(Arc::new(source?))),
            Err(_) => Err(Fault::new(
                Exit::Deadline,
                "the secrets manager",
                "its set-up did not end before secrets.deadline",
                "find out what it waits for; raise secrets.deadline if it is only slow",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bootstrap, secrets::aws::SecretsManager};
    use rustix::process::{Resource, Rlimit, getrlimit};
    use std::time::Duration;

    fn sources() -> Sources {
        Sources::new("no/such/folder".into(), [])
    }

    #[tokio::test]
    async fn core_dumps_are_off_when_a_source_is_made() {
        let setup = SourceSetup(async |_: &Config<()>| {
            let Rlimit { current, maximum } = getrlimit(Resource::Core);
            assert_eq!((current, maximum), (Some(0), Some(0)));
            Err::<SecretsManager, _>(Fault::new(Exit::Denied, "the manager", "no", "none"))
        });
        let deadline = Instant::now() + Duration::from_secs(60);
        let report = bootstrap::regions(&sources(), setup, &Config::default(), deadline).await.err().expect("a report");
        assert_eq!(report.exit(), Exit::Denied);
    }

    #[tokio::test]
    async fn a_set_up_that_does_not_end_is_a_fault_at_the_deadline() {
        let setup = SourceSetup(async |_: &Config<()>| std::future::pending::<Result<SecretsManager, Fault>>().await);
        let fault = setup.regions(&sources(), &Config::default(), Instant::now()).await.err().expect("a fault");
        assert_eq!(fault.exit, Exit::Deadline);
    }
}
