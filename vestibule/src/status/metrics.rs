//! `/metrics`: the status as OpenMetrics text, which Prometheus reads. Each scrape writes it from the status, so no
//! series remains of a version that is no longer held.

#[cfg(target_os = "linux")]
mod process;

use super::Status;
use crate::{counters::Family, resources::resource::Connections};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, NoLabelSet, text},
    metrics::{MetricType, exemplar::Exemplar},
    registry::Registry,
};
use std::{collections::HashSet, fmt};
use time::OffsetDateTime;

/// The content type of OpenMetrics 1.0.0 (section *Protocol Negotiation*). Older scrapers can read the text too: the
/// parts that they do not know are comments.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Returns the text for a scrape. Labels are names, ids of versions, and words of a fixed list.
pub(crate) fn encode(status: Status) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(StatusCollector(status)));
    let mut metrics = String::new();
    text::encode(&mut metrics, &registry).expect("writing to a String does not fail");
    metrics
}

/// The collector of all metrics of a status.
struct StatusCollector(Status);

impl fmt::Debug for StatusCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StatusCollector")
    }
}

impl Collector for StatusCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self(status) = self;
        let mut encoder = MetricsEncoder(encoder);
        encoder.service(status)?;
        encoder.reloads(status)?;
        encoder.credentials(status)?;
        encoder.connections(status)?;
        encoder.counters(status)?;
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
    fn service(&mut self, status: &Status) -> fmt::Result {
        let labels = [
            ("service_name", status.service.to_owned()),
            ("service_version", status.version.to_owned()),
            ("service_instance_id", status.instance.to_string()),
        ];
        self.infos("vestibule_build", "The service, and the id of the process as in /status", [labels])?;
        self.gauge("vestibule_generation", "The number of the generation in service, from 1", status.generation)?;
        let draining = status.draining.len();
        self.gauge("vestibule_draining_generations", "Older generations that are still held", draining)
    }

    fn reloads(&mut self, status: &Status) -> fmt::Result {
        let (name, help) = ("vestibule_reloads", "Reloads that ended, by trigger and outcome");
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for ((trigger, outcome), count) in &status.reload_counts.counts {
            let labels = [("trigger", trigger.to_string()), ("outcome", outcome.to_string())];
            family.encode_family(&labels)?.encode_counter(count, NO_EXEMPLAR)?;
        }
        let (name, help) = ("vestibule_reload_duration_seconds", "The duration of reloads, of every outcome");
        let buckets = status.reload_counts.buckets();
        let count = buckets.iter().map(|(_, count)| count).sum();
        self.0.encode_descriptor(name, help, None, MetricType::Histogram)?.encode_histogram::<NoLabelSet>(
            status.reload_counts.seconds,
            count,
            &buckets,
            None,
        )
    }

    fn credentials(&mut self, status: &Status) -> fmt::Result {
        let (mut infos, mut verified, mut expiry) = (Vec::new(), Vec::new(), Vec::new());
        for credential in &status.credentials {
            let name = ("name", credential.name.to_owned());
            verified.push(([name.clone()], seconds(credential.verified)));
            if let Some(expires) = credential.expires {
                expiry.push(([name.clone()], seconds(expires)));
            }
            infos.push([name, ("version", credential.version.to_string()), ("stage", credential.stage.to_string())]);
        }
        self.infos("vestibule_credential", "The credentials of the generation in service", infos)?;
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

    /// Encodes the counters of the service and of the framework.
    fn counters(&mut self, status: &Status) -> fmt::Result {
        for (name, Family { help, series }) in status.counters.families() {
            let mut family = self.0.encode_descriptor(&name, help, None, MetricType::Counter)?;
            for (labels, counter) in series {
                family.encode_family(&labels)?.encode_counter(&counter.get(), NO_EXEMPLAR)?;
            }
        }
        Ok(())
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

    /// Encodes a family of type info. `name` is without `_info`, with which the names of its samples end.
    fn infos<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = MetricLabels<N>>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Info)?;
        for labels in samples {
            family.encode_info(&labels)?;
        }
        Ok(())
    }
}

const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, f64>> = None;

fn sum(a: Connections, b: Connections) -> Connections {
    Connections { idle: a.idle + b.idle, used: a.used + b.used }
}

/// Returns a time in seconds since 1970, as Prometheus has it.
fn seconds(time: OffsetDateTime) -> f64 {
    time.unix_timestamp_nanos() as f64 / 1e9
}
