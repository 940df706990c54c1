//! Counters, gauges and histograms on `/metrics`: those of prometheus-client.
//!
//! A service gets them from [`Build`](crate::Build): the same series in all generations, from the start of the process.

pub(crate) mod exposition_format;

mod prometheus_text;

pub use prometheus_client::metrics::{
    counter::Counter,
    gauge::Gauge,
    histogram::{Histogram, exponential_buckets, linear_buckets},
};

use self::exposition_format::ExpositionFormat;
use prometheus_client::{
    collector::Collector,
    encoding::text,
    metrics::{TypedMetric, family::Family},
    registry::{Metric, Registry},
};
use std::{
    any::Any,
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};
use time::OffsetDateTime;

/// The ends of names that OpenMetrics gives to the samples of a metric. With one of them, two metrics could have a
/// sample of one name.
const SUFFIXES_OF_SAMPLES: [&str; 6] = ["_total", "_created", "_bucket", "_count", "_sum", "_info"];

/// The names and values of a series' labels.
type LabelPairs = Vec<(&'static str, &'static str)>;

/// All metrics of a process.
pub(crate) struct MetricsRegistry {
    /// The beginning of the names of the service's metrics.
    prefix: String,
    registered: Mutex<RegisteredMetrics>,
}

#[derive(Default)]
struct RegisteredMetrics {
    registry: Registry,
    /// The metrics of the service, by name. Each value is the definition and the [`Family`].
    of_service: BTreeMap<String, (MetricDefinition, Box<dyn Any + Send>)>,
}

/// The properties that all series of one name share, beside their type.
#[derive(PartialEq)]
struct MetricDefinition {
    help: &'static str,
    label_names: Vec<&'static str>,
    /// The upper bounds of a histogram's buckets. Empty for the other types.
    bounds: Vec<f64>,
}

impl MetricsRegistry {
    /// Returns a registry without metrics. `service` is the name of the service's package.
    pub(crate) fn new(service: &str) -> Self {
        let prefix = service.to_ascii_lowercase().replace(|c| !is_name_char(c), "_");
        Self { prefix, registered: Mutex::default() }
    }

    /// Registers a metric of the framework. `name` stays as it is.
    pub(crate) fn register(&self, name: &'static str, help: &'static str, metric: impl Metric) {
        self.lock().registry.register(name, help, metric);
    }

    /// Registers metrics of the framework that are computed at each scrape.
    pub(crate) fn register_collector(&self, collector: impl Collector) {
        self.lock().registry.register_collector(Box::new(collector));
    }

    /// Returns the page for a scrape.
    pub(crate) fn encode(&self, format: ExpositionFormat) -> String {
        let mut page = String::new();
        text::encode(&mut page, &self.lock().registry).expect("writing to a String does not fail");
        match format {
            ExpositionFormat::OpenMetrics => page,
            ExpositionFormat::PrometheusText => prometheus_text::from_openmetrics(&page),
        }
    }

    /// Returns the service's counter or gauge of this name and these labels. It is the same one each time.
    ///
    /// # Errors
    /// The problem, if the name or a label is malformed, or if a metric of that name is defined otherwise.
    pub(crate) fn counter_or_gauge<M: Metric + TypedMetric + Clone + Default>(
        &self,
        name: &str,
        help: &'static str,
        labels: &[(&'static str, &'static str)],
    ) -> Result<M, &'static str> {
        self.series(name, help, labels, Vec::new(), M::default)
    }

    /// Returns the service's histogram of this name and these labels. It is the same one each time.
    ///
    /// # Errors
    /// As [`counter_or_gauge`](Self::counter_or_gauge), and if the bounds do not ascend.
    pub(crate) fn histogram(
        &self,
        name: &str,
        help: &'static str,
        labels: &[(&'static str, &'static str)],
        bounds: Vec<f64>,
    ) -> Result<Histogram, &'static str> {
        if !bounds.iter().all(|bound| bound.is_finite()) || !bounds.is_sorted_by(|a, b| a < b) {
            return Err("the bounds of a histogram's buckets are finite and ascend");
        }
        let buckets = bounds.clone();
        self.series(name, help, labels, bounds, move || Histogram::new(buckets.iter().copied()))
    }

    fn series<M, C>(
        &self,
        name: &str,
        help: &'static str,
        labels: &[(&'static str, &'static str)],
        bounds: Vec<f64>,
        constructor: C,
    ) -> Result<M, &'static str>
    where
        M: Metric + TypedMetric + Clone,
        C: Fn() -> M + Clone + Send + Sync + 'static,
    {
        let label_names: Vec<_> = labels.iter().map(|(label, _)| *label).collect();
        check_names(name, &label_names)?;
        let definition = MetricDefinition { help, label_names, bounds };
        let name = format!("{}_{name}", self.prefix);
        let mut registered = self.lock();
        let family = match registered.of_service.get(&name) {
            None => {
                let family = Family::<LabelPairs, M, C>::new_with_constructor(constructor);
                registered.registry.register(&name, help, family.clone());
                registered.of_service.insert(name, (definition, Box::new(family.clone())));
                family
            }
            Some((known, family)) => match family.downcast_ref::<Family<LabelPairs, M, C>>() {
                Some(family) if *known == definition => family.clone(),
                _ => return Err("metrics of one name differ in type, help, the names of labels, or buckets"),
            },
        };
        Ok(family.get_or_create_owned(&labels.to_vec()))
    }

    fn lock(&self) -> MutexGuard<'_, RegisteredMetrics> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a time as Prometheus has it: in seconds since 1970.
pub(crate) fn unix_seconds(time: OffsetDateTime) -> f64 {
    time.unix_timestamp_nanos() as f64 / 1e9
}

/// Checks the names of a metric of the service and of its labels.
///
/// # Errors
/// The rule that a name breaks.
fn check_names(name: &str, labels: &[&str]) -> Result<(), &'static str> {
    if !is_name(name) || SUFFIXES_OF_SAMPLES.iter().any(|suffix| name.ends_with(suffix)) {
        return Err(
            "the name of a metric starts with a-z and has only a-z, 0-9 and _; it does not end with _total, _created, \
                    _bucket, _count, _sum or _info",
        );
    }
    // `le` is the label of a histogram's buckets.
    let is_free = |(i, label): (usize, &&str)| is_name(label) && *label != "le" && !labels[..i].contains(label);
    if !labels.iter().enumerate().all(is_free) {
        return Err(
            "the names of a metric's labels start with a-z and have only a-z, 0-9 and _; they differ, and none is le",
        );
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(is_name_char)
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_series_has_one_metric() {
        let metrics = MetricsRegistry::new("svc");
        let counter = |outcome| metrics.counter_or_gauge::<Counter>("calls", "Calls", &[("outcome", outcome)]).unwrap();
        counter("good").inc();
        counter("good").inc_by(2);
        counter("bad").inc();
        assert_eq!((counter("good").get(), counter("bad").get()), (3, 1));
        let gauge = || metrics.counter_or_gauge::<Gauge>("queue", "Entries", &[]).unwrap();
        gauge().set(5);
        gauge().dec();
        assert_eq!(gauge().get(), 4);
    }

    #[test]
    fn metrics_of_the_service_and_of_the_framework_are_on_one_page() {
        let metrics = MetricsRegistry::new("svc");
        let own: Counter = Counter::default();
        metrics.register("vestibule_calls", "Calls of ours", own.clone());
        own.inc();
        metrics.counter_or_gauge::<Counter>("calls", "Calls", &[("outcome", "good")]).unwrap();
        metrics.counter_or_gauge::<Gauge>("queue", "Entries", &[("kind", "late")]).unwrap().set(-2);
        for seconds in [0.3, 0.7, 9.0] {
            let labels = [("step", "read")];
            metrics.histogram("seconds", "Durations", &labels, vec![0.5, 1.0]).unwrap().observe(seconds);
        }
        let expected = "\
# HELP vestibule_calls Calls of ours.
# TYPE vestibule_calls counter
vestibule_calls_total 1
# HELP svc_calls Calls.
# TYPE svc_calls counter
svc_calls_total{outcome=\"good\"} 0
# HELP svc_queue Entries.
# TYPE svc_queue gauge
svc_queue{kind=\"late\"} -2
# HELP svc_seconds Durations.
# TYPE svc_seconds histogram
svc_seconds_sum{step=\"read\"} 10.0
svc_seconds_count{step=\"read\"} 3
svc_seconds_bucket{le=\"0.5\",step=\"read\"} 1
svc_seconds_bucket{le=\"1.0\",step=\"read\"} 2
svc_seconds_bucket{le=\"+Inf\",step=\"read\"} 3
# EOF
";
        assert_eq!(metrics.encode(ExpositionFormat::OpenMetrics), expected);
    }

    #[test]
    fn definitions_that_clash_are_refused() {
        let metrics = MetricsRegistry::new("svc");
        metrics.counter_or_gauge::<Counter>("calls", "Calls", &[("outcome", "good")]).unwrap();
        assert!(metrics.counter_or_gauge::<Counter>("calls", "Other", &[("outcome", "good")]).is_err());
        assert!(metrics.counter_or_gauge::<Counter>("calls", "Calls", &[("result", "good")]).is_err());
        assert!(metrics.counter_or_gauge::<Counter>("calls", "Calls", &[]).is_err());
        assert!(metrics.counter_or_gauge::<Gauge>("calls", "Calls", &[("outcome", "good")]).is_err());
        metrics.histogram("seconds", "Durations", &[], vec![0.5, 1.0]).unwrap();
        assert!(metrics.histogram("seconds", "Durations", &[], vec![0.5, 2.0]).is_err());
    }

    #[test]
    fn malformed_names_and_buckets_are_refused() {
        let metrics = MetricsRegistry::new("svc");
        for name in ["", "Calls", "calls-made", "calls_total", "1calls", "calls_count"] {
            assert!(metrics.counter_or_gauge::<Counter>(name, "Calls", &[]).is_err(), "{name}");
        }
        for labels in [[("a b", "c"), ("d", "e")], [("a", "b"), ("a", "c")], [("a", "b"), ("le", "1")]] {
            assert!(metrics.counter_or_gauge::<Gauge>("calls", "Calls", &labels).is_err(), "{labels:?}");
        }
        for bounds in [vec![1.0, 0.5], vec![1.0, 1.0], vec![f64::NAN], vec![1.0, f64::INFINITY]] {
            assert!(metrics.histogram("calls", "Calls", &[], bounds.clone()).is_err(), "{bounds:?}");
        }
    }

    #[test]
    fn the_name_of_a_service_becomes_the_prefix_of_its_metrics() {
        for (service, name) in [("svc", "svc_calls"), ("my-svc2", "my_svc2_calls"), ("My_Svc", "my_svc_calls")] {
            let metrics = MetricsRegistry::new(service);
            metrics.counter_or_gauge::<Counter>("calls", "Calls", &[]).unwrap();
            assert!(
                metrics.encode(ExpositionFormat::OpenMetrics).contains(&format!("# TYPE {name} counter\n")),
                "{service}"
            );
        }
    }
}
