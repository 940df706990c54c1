//! The metrics that each scrape writes from the status, so no series remains of a version that is no longer held.

#[cfg(target_os = "linux")]
mod process;

use super::Status;
use crate::resources::resource::Connections;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue},
    metrics::MetricType,
};
use std::{collections::HashSet, fmt};
use time::OffsetDateTime;
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
        self.gauge("vestibule_draining_generations", "Older generations that are still held", draining)
    }

    fn credentials(&mut self, status: &Status) -> fmt::Result {
        let (mut verified, mut expiry) = (Vec::new(), Vec::new());
        let help = "The credentials of the generation in service";
        let mut info = self.0.encode_descriptor("vestibule_credential", help, None, MetricType::Info)?;
        for credential in &status.credentials {
            let name = ("name", credential.name.to_owned());
            verified.push(([name.clone()], seconds(credential.verified)));
            if let Some(expires) = credential.expires {
                expiry.push(([name.clone()], seconds(expires)));
            }
            let (version, stage) = (credential.version.to_string(), credential.stage.to_string());
            info.encode_info(&[name, ("version", version), ("stage", stage)])?;
        }
        let help = "The time at which the manager last confirmed the version held";
        self.gauges("vestibule_credential_verified_timestamp_seconds", help, verified)?;
        let help = "The time at which the version held expires; absent if it does not expire";
        self.gauges("vestibule_credential_expiry_timestamp_seconds", help, expiry)
    }

    /// Counts a pool that was carried over once, under the younger generation.
    fn connections(&mut self, status: &Status) -> fmt::Result {
        // All generations are held until the end: another pool could get the address of one that is gone.
        let mut generations = Vec::new();
        generations.extend(status.in_service.upgrade().map(|generation| (status.generation, generation)));
        for draining in status.draining.iter().rev() {
            generations.extend(draining.weak.upgrade().map(|generation| (draining.generation, generation)));
        }
        let mut counted = HashSet::new();
        let mut samples = Vec::new();
        for (number, generation) in &generations {
            let own_pools = generation.resources().pools().filter(|(pool, _)| counted.insert(*pool));
            let total = own_pools.map(|(_, connections)| connections).reduce(sum);
            if let Some(Connections { idle, used }) = total {
                for (state, count) in [("idle", idle), ("used", used)] {
                    samples.push(([("generation", number.to_string()), ("state", state.to_owned())], count));
                }
            }
        }
        let help = "Open connections to the database, by the generation whose login they were made with";
        self.gauges("db_client_connection_count", help, samples)
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

fn sum(a: Connections, b: Connections) -> Connections {
    Connections { idle: a.idle + b.idle, used: a.used + b.used }
}

/// Returns a time in seconds since 1970, as Prometheus has it.
fn seconds(time: OffsetDateTime) -> f64 {
    time.unix_timestamp_nanos() as f64 / 1e9
}
