//! `/metrics`: the status as OpenMetrics text, which Prometheus reads. Written from the status at each scrape, so that no
//! series of a version that is no longer held lingers.

#[cfg(target_os = "linux")]
mod process;

use super::{CredentialStatus, Status};
use crate::{counters::Family, resources::resource::Connections};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, NoLabelSet, text},
    metrics::{MetricType, exemplar::Exemplar},
    registry::Registry,
};
use serde::Serialize;
use std::{collections::HashSet, fmt, iter};
use time::OffsetDateTime;

/// OpenMetrics 1.0.0, *Protocol Negotiation*. Older scrapers read it too: what they do not know are comments.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The page. Labels are names, ids of versions and words of a fixed list.
pub(crate) fn text(status: Status) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(status)));
    let mut page = String::new();
    text::encode(&mut page, &registry).expect("a String takes everything");
    page
}

struct Scrape(Status);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self(status) = self;
        let mut page = Page(encoder);
        page.about(status)?;
        page.reloads(status)?;
        page.credentials(status)?;
        page.connections(status)?;
        page.counters(status)?;
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        page.gauge("tokio_alive_tasks", "Tasks of the runtime that have not ended", tasks)?;
        #[cfg(target_os = "linux")]
        page.process()?;
        Ok(())
    }
}

struct Page<'a>(DescriptorEncoder<'a>);

type Labels<const N: usize> = [(&'static str, String); N];

impl Page<'_> {
    fn about(&mut self, status: &Status) -> fmt::Result {
        let labels = [
            ("service_name", status.service.to_owned()),
            ("service_version", status.version.to_owned()),
            ("service_instance_id", status.instance.to_string()),
        ];
        self.infos("vestibule_build", "The service, and the process as /status names it", [labels])?;
        self.gauge("vestibule_generation", "The number of the generation in service, from 1", status.generation)?;
        let draining = status.draining.len();
        self.gauge("vestibule_draining_generations", "Older generations that are still held", draining)
    }

    fn reloads(&mut self, status: &Status) -> fmt::Result {
        let (name, help) = ("vestibule_reloads", "Reloads that ended, by what set them off and what came of them");
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for ((trigger, outcome), count) in &status.reload_counts.counts {
            let labels = [("trigger", trigger.to_string()), ("outcome", outcome.to_string())];
            family.encode_family(&labels)?.encode_counter(count, NO_EXEMPLAR)?;
        }
        let (name, help) = ("vestibule_reload_duration_seconds", "How long reloads took, whatever came of them");
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
        let held = status.credentials.iter().map(|one| {
            [
                ("name", one.name.to_owned()),
                ("version", one.version.to_string()),
                ("stage", Word(&one.stage).to_string()),
            ]
        });
        self.infos("vestibule_credential", "The credentials of the generation in service", held)?;
        let verified = status.credentials.iter().map(|one| ([("name", one.name.to_owned())], seconds(one.verified)));
        let help = "When the manager last said that the version held is current";
        self.gauges("vestibule_credential_verified_timestamp_seconds", help, verified)?;
        let ends = |one: &CredentialStatus| Some(([("name", one.name.to_owned())], seconds(one.expires?)));
        let help = "When the version held ends by itself, where it does";
        self.gauges("vestibule_credential_expiry_timestamp_seconds", help, status.credentials.iter().filter_map(ends))
    }

    /// A pool that was carried over is counted once, under the generation in service.
    fn connections(&mut self, status: &Status) -> fmt::Result {
        let in_service = (status.generation, &status.in_service);
        let draining = status.draining.iter().rev().map(|draining| (draining.generation, &draining.held));
        let held: Vec<_> = iter::once(in_service)
            .chain(draining)
            .filter_map(|(number, generation)| Some((number, generation.upgrade()?)))
            .collect();
        let mut counted = HashSet::new();
        let samples = held.iter().flat_map(|(number, generation)| {
            let own = generation.resources().pools().filter(|(pool, _)| counted.insert(*pool));
            let sum = own.map(|(_, connections)| connections).reduce(plus);
            sum.into_iter().flat_map(move |Connections { idle, used }| {
                [("idle", idle), ("used", used)]
                    .map(|(state, count)| ([("generation", number.to_string()), ("state", state.to_owned())], count))
            })
        });
        self.gauges("db_client_connection_count", "Connections to the database; those being opened are used", samples)
    }

    /// The service's own.
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
        samples: impl IntoIterator<Item = (Labels<N>, impl EncodeGaugeValue)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        samples.into_iter().try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
    }

    /// Without the `_info` that its samples' name ends with.
    fn infos<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Labels<N>>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Info)?;
        samples.into_iter().try_for_each(|labels| family.encode_info(&labels))
    }
}

const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, f64>> = None;

/// What `/status` calls one of a list.
struct Word<'a, T>(&'a T);

impl<T: Serialize> fmt::Display for Word<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.serialize(f)
    }
}

fn plus(a: Connections, b: Connections) -> Connections {
    Connections { idle: a.idle + b.idle, used: a.used + b.used }
}

fn seconds(at: OffsetDateTime) -> f64 {
    at.unix_timestamp_nanos() as f64 / 1e9
}
