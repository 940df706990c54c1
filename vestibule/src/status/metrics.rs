//! The metrics that each scrape writes from the status, so no series remains of a version that is no longer held.

#[cfg(target_os = "linux")]
mod process;

use super::{Status, check_status::CheckState};
use crate::{
    metrics::unix_seconds,
    resources::connection_counter::{ConnectionCounter, OpenConnections},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue},
    metrics::MetricType,
};
use std::fmt;
use tokio::sync::watch;

/// The collector of the metrics of a status. Labels are names, ids of versions, and words of a fixed list.
pub(super) struct StatusCollector(pub(super) watch::Receiver<Status>);

impl fmt::Debug for StatusCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StatusCollector")
    }
}

impl Collector for StatusCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = self.0.borrow().snapshot();
        let mut encoder = MetricsEncoder(encoder);
        encoder.generations(&status)?;
        encoder.credentials(&status)?;
        encoder.authentication(&status)?;
        encoder.readiness_checks(&status)?;
        encoder.connections(&status)?;
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        encoder.gauge("tokio_alive_tasks", "Tasks of the runtime that have not ended", tasks)?;
        #[cfg(target_os = "linux")]
        encoder.process()?;
        Ok(())
    }
}

/// An encoder with a method per group of metrics, and one per type of metric.
struct MetricsEncoder<'a>(DescriptorEncoder<'a>);

type MetricLabels<const N: usize> = [(&'static str, String); N];

impl MetricsEncoder<'_> {
    fn generations(&mut self, status: &Status) -> fmt::Result {
        self.gauge("vestibule_generation", "The number of the generation in service, from 1", status.generation)?;
        let draining = status.draining.len();
        self.gauge("vestibule_draining_generations", "Older generations that are still held", draining)?;
        let ages = status.draining.iter().map(|draining| draining.since.elapsed().as_secs_f64());
        let help = "The time since the oldest generation that is still held was replaced; 0 if none is held";
        self.gauge("vestibule_oldest_generation_age_seconds", help, ages.fold(0.0, f64::max))?;
        self.holders(status)
    }

    fn credentials(&mut self, status: &Status) -> fmt::Result {
        let (mut verified, mut expiry, mut last_used) = (Vec::new(), Vec::new(), Vec::new());
        let (mut due, mut lease_ends) = (Vec::new(), Vec::new());
        let help = "The credentials of the generation in service";
        let mut info = self.0.encode_descriptor("vestibule_credential", help, None, MetricType::Info)?;
        for credential in &status.credentials {
            let name = ("name", credential.name.to_owned());
            verified.push(([name.clone()], unix_seconds(credential.verified.at())));
            if let (Some(expires), None) = (credential.expires, &credential.lease) {
                expiry.push(([name.clone()], unix_seconds(expires.end())));
                due.push(([name.clone()], unix_seconds(expires.due())));
            }
            if let Some(lease) = &credential.lease {
                lease_ends.push(([name.clone()], unix_seconds(lease.end)));
            }
            for use_of in &credential.last_used {
                if let Some(at) = use_of.at {
                    last_used.push(([name.clone(), ("version", use_of.version.to_string())], unix_seconds(at.at())));
                }
            }
            let (version, stage) = (credential.version.to_string(), credential.stage.to_string());
            info.encode_info(&[name, ("version", version), ("stage", stage)])?;
        }
        let rejected = status.rejections.rejected().into_iter();
        let rejected = rejected.map(|(name, is_rejected)| ([("name", name.to_owned())], u32::from(is_rejected)));
        let help =
            "1 for each credential that the other side rejects, and 0 for each other one that something is made from";
        self.gauges("vestibule_credential_rejected", help, rejected)?;
        let help = "The time at which the manager last confirmed the version held";
        self.gauges("vestibule_credential_verified_timestamp_seconds", help, verified)?;
        let help = "The time at which the version held expires; absent if it does not expire, or has a lease";
        self.gauges("vestibule_credential_expiry_timestamp_seconds", help, expiry)?;
        let help = "The time from which the version held must be replaced: its last days; absent if it has no expiry";
        self.gauges("vestibule_credential_due_timestamp_seconds", help, due)?;
        let help = "The time at which the lease of the version held ends; absent if it has none";
        self.gauges("vestibule_lease_end_timestamp_seconds", help, lease_ends)?;
        if let Some(end) = status.manager_token_end {
            let help =
                "The time at which the token of this process at the manager ends; absent if there is none that ends";
            self.gauge("vestibule_manager_token_end_timestamp_seconds", help, unix_seconds(end))?;
        }
        if let Some(failed) = status.regions.login_failed() {
            let help =
                "1 if the last log-in at the manager failed and the next read needs it; absent if it does not log in";
            self.gauge("vestibule_manager_login_failed", help, u32::from(failed))?;
        }
        let help = "The time at which a version that only verifies, or that was replaced, was last used";
        self.gauges("vestibule_credential_last_used_timestamp_seconds", help, last_used)
    }

    fn authentication(&mut self, status: &Status) -> fmt::Result {
        let fetched = status.authentication.iter().map(|authenticator| {
            ([("issuer", authenticator.issuer().to_owned())], unix_seconds(authenticator.keys_fetched().at()))
        });
        let help = "The time at which the issuer's keys were last fetched; absent if authentication is off";
        self.gauges("vestibule_auth_keys_fetched_timestamp_seconds", help, fetched)
    }

    fn readiness_checks(&mut self, status: &Status) -> fmt::Result {
        let checks = status.readiness_checks.iter().map(|check| {
            let is_passing = check.state() == CheckState::Passing;
            ([("name", check.name.to_owned())], u32::from(is_passing))
        });
        let help = "1 for each readiness check of the service that passes, and 0 for each other one";
        self.gauges("vestibule_readiness_check", help, checks)
    }

    /// Counts connections that were carried over once, under the youngest generation.
    fn connections(&mut self, status: &Status) -> fmt::Result {
        let mut samples = Vec::new();
        let mut add = |generation: u64, counts: &mut dyn Iterator<Item = OpenConnections>| {
            let Some(total) = counts.reduce(sum) else { return };
            for (state, count) in [("idle", total.idle), ("used", total.used)] {
                samples.push(([("generation", generation.to_string()), ("state", state.to_owned())], count));
            }
        };
        add(status.generation, &mut status.connections.iter().map(ConnectionCounter::count));
        for draining in status.draining.iter().rev() {
            add(draining.number, &mut draining.connections());
        }
        let help = "Open connections to the database, by the generation whose login they were made with";
        self.gauges("db_client_connection_count", help, samples)
    }

    fn holders(&mut self, status: &Status) -> fmt::Result {
        let mut samples = Vec::new();
        for draining in &status.draining {
            let holders = draining.holders();
            let mut add = |holder: &str, name: &str, count: usize| {
                let generation = ("generation", draining.number.to_string());
                samples.push(([generation, ("holder", holder.to_owned()), ("name", name.to_owned())], count));
            };
            add("request", "", holders.requests);
            add("handle", "", holders.handles);
            for (route, responses) in &holders.long_lived {
                add("long_lived", route, *responses);
            }
            for (worker, pieces) in &holders.work {
                add("work", worker, *pieces);
            }
            for (credential, connections) in &holders.connections {
                add("connection", credential, *connections);
            }
            for (credential, versions) in &holders.versions {
                add("version", credential, versions.len());
            }
        }
        let help = "The holders of older generations, by kind; the name is a route's, a worker's or a credential's";
        self.gauges("vestibule_draining_holders", help, samples)
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn gauges<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (MetricLabels<N>, impl EncodeGaugeValue)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }
}

fn sum(a: OpenConnections, b: OpenConnections) -> OpenConnections {
    OpenConnections { idle: a.idle + b.idle, used: a.used + b.used }
}
