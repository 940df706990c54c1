//! Readiness, which depends on the staleness of credentials, and on the checks of the service.

use super::check_status::{CheckState, CheckStatus};
use crate::{
    application::{Application, Generation},
    config::settings::WhenStale,
    jitter,
    moment::Moment,
    secrets::credential::Name,
};
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};

/// The answer of `/readyz`: the readiness for requests, and the reasons if it is not `ready`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Readiness {
    pub(crate) status: ReadinessState,
    pub(crate) reasons: Vec<String>,
    /// The checks of the service, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) checks: BTreeMap<&'static str, CheckState>,
}

/// The status in the answer of `/readyz`. The worst reason decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReadinessState {
    Ready,
    Degraded,
    Unready,
}

/// The settings for stale credentials, which were not verified for longer than `secrets.max_stale`.
#[derive(Clone, Copy)]
pub(super) struct Staleness {
    max_stale: Duration,
    when_stale: WhenStale,
    /// A factor on `max_stale`, from 0.9 to 1.1: replicas that started together must not become unready together.
    jitter: f64,
}

impl Staleness {
    /// Returns settings with a random jitter. Nothing is stale until [`configure`](Self::configure) is called.
    pub(super) fn jittered() -> Self {
        Self { max_stale: Duration::MAX, when_stale: WhenStale::Report, jitter: jitter::factor(0.1) }
    }

    /// Takes the settings of this generation. Keeps the jitter.
    pub(super) fn configure<A: Application>(&mut self, generation: &Generation<A>) {
        let secrets = &generation.config.secrets;
        self.max_stale = secrets.max_stale;
        self.when_stale = secrets.when_stale;
    }

    /// Returns the readiness of a process whose credentials were last verified at these times, and whose checks have these
    /// results.
    pub(super) fn readiness(
        &self,
        verified: impl Iterator<Item = (Name, Moment)>,
        checks: &[CheckStatus],
        is_stopping: bool,
    ) -> Readiness {
        let mut status = ReadinessState::Ready;
        let mut reasons = Vec::new();
        for (name, verified) in verified {
            if verified.elapsed() > self.max_stale.mul_f64(self.jitter) {
                status = match self.when_stale {
                    WhenStale::Report => ReadinessState::Degraded,
                    WhenStale::Unready => ReadinessState::Unready,
                };
                let at = verified.at();
                reasons
                    .push(format!("credential `{name}` was last verified at {at}, longer ago than secrets.max_stale"));
            }
        }
        for check in checks {
            let Some(reason) = check.reason() else { continue };
            reasons.push(reason);
            status = status.max(if check.is_required { ReadinessState::Unready } else { ReadinessState::Degraded });
        }
        if is_stopping {
            status = ReadinessState::Unready;
            reasons.push("the process is stopping".into());
        }
        let checks = checks.iter().map(|check| (check.name, check.state())).collect();
        Readiness { status, reasons, checks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::Duration as Span;

    #[tokio::test(start_paused = true)]
    async fn a_jump_of_the_wall_clock_makes_no_credential_stale_or_fresh() {
        let max_stale = Duration::from_secs(3600);
        let staleness = Staleness { max_stale, when_stale: WhenStale::Unready, jitter: 1.0 };
        let moments = [Span::ZERO, Span::days(2), Span::days(-2)].map(|jump| Moment::now().before_a_jump(jump));
        let state = |moment| staleness.readiness([("database", moment)].into_iter(), &[], false).status;
        tokio::time::advance(max_stale).await;
        assert_eq!(moments.map(state), [ReadinessState::Ready; 3]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(moments.map(state), [ReadinessState::Unready; 3]);
    }
}
