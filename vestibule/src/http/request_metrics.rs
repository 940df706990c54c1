//! The metrics of requests, in the words of OpenTelemetry's semantic conventions for HTTP.

use crate::metrics::{Counter, Gauge, Histogram, MetricsRegistry};
use axum::{
    extract::MatchedPath,
    http::{Method, StatusCode, Version},
};
use prometheus_client::{
    encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder},
    metrics::family::Family,
};
use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::{Arc, OnceLock},
    time::Duration,
};

/// The upper bounds of the histogram's buckets, in seconds. OpenTelemetry advises them.
const BOUNDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// The number of series that most requests find without a lock.
const FIRST_SERIES: usize = 256;

/// The methods and schemes that labels have.
const METHODS: [&str; 10] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "CONNECT", "PATCH", "TRACE", "_OTHER"];
const SCHEMES: [&str; 2] = ["http", "https"];

/// The metrics of all requests of a process.
pub(crate) struct RequestMetrics {
    durations: Durations,
    active: ActiveRequests,
    /// The number of requests that have ended, by the position of their outcome in [`RequestOutcome::ALL`].
    ended: [Counter; RequestOutcome::ALL.len()],
}

/// The outcome of a request that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestOutcome {
    Success,
    /// A status from 400 to 499.
    ClientError,
    /// A status from 500 on.
    ServerError,
    /// The request ended before it had a status.
    NoAnswer,
}

impl RequestOutcome {
    const ALL: [Self; 4] = [Self::Success, Self::ClientError, Self::ServerError, Self::NoAnswer];

    fn of(status: Option<StatusCode>) -> Self {
        match status {
            None => Self::NoAnswer,
            Some(status) if status.is_server_error() => Self::ServerError,
            Some(status) if status.is_client_error() => Self::ClientError,
            Some(_) => Self::Success,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::ClientError => "client_error",
            Self::ServerError => "server_error",
            Self::NoAnswer => "no_answer",
        }
    }
}

/// The durations of requests, by their labels.
struct Durations {
    family: Family<RequestLabels, Histogram>,
    /// The series that came first to each of these places. Most requests find theirs here, without the lock and the hash of
    /// the family.
    first: [OnceLock<(RequestLabels, Histogram)>; FIRST_SERIES],
}

impl Durations {
    fn observe(&self, labels: &RequestLabels, seconds: f64) {
        let place = &self.first[labels.mixed() as usize % FIRST_SERIES];
        let (first, histogram) = place.get_or_init(|| (labels.clone(), self.family.get_or_create_owned(labels)));
        if first == labels {
            histogram.observe(seconds);
        } else {
            self.family.get_or_create(labels).observe(seconds);
        }
    }
}

/// The requests whose response has not ended, by method and scheme. A series begins with its first request.
#[derive(Default)]
struct ActiveRequests {
    family: Family<[(&'static str, &'static str); 2], Gauge>,
    /// The gauges of the family, so that a request looks for none in it.
    gauges: [[OnceLock<Gauge>; SCHEMES.len()]; METHODS.len()],
}

impl ActiveRequests {
    fn of(&self, method: &'static str, scheme: &'static str) -> &Gauge {
        let place = |of: &[&str], label| of.iter().position(|known| *known == label).unwrap_or_default();
        self.gauges[place(&METHODS, method)][place(&SCHEMES, scheme)].get_or_init(|| {
            let labels = [("http_request_method", method), ("url_scheme", scheme)];
            self.family.get_or_create_owned(&labels)
        })
    }
}

impl RequestMetrics {
    /// Registers the metrics. Call it once per process. Each outcome begins with 0: the series of a duration begins with its
    /// first request, and Prometheus does not see that increase.
    pub(crate) fn register(registry: &MetricsRegistry) -> Arc<Self> {
        let durations = Family::<_, _>::new_with_constructor((|| Histogram::new(BOUNDS)) as fn() -> Histogram);
        let active = ActiveRequests::default();
        let help = "The time from the head of a request to the end of its response";
        registry.register("http_server_request_duration_seconds", help, durations.clone());
        let durations = Durations { family: durations, first: [const { OnceLock::new() }; FIRST_SERIES] };
        registry.register(
            "http_server_active_requests",
            "Requests whose response has not ended",
            active.family.clone(),
        );
        let outcomes = Family::<[(&'static str, &'static str); 1], Counter>::default();
        let ended = RequestOutcome::ALL.map(|outcome| outcomes.get_or_create_owned(&[("outcome", outcome.label())]));
        registry.register("vestibule_requests", "Requests that ended, by outcome", outcomes);
        Arc::new(Self { durations, active, ended })
    }

    /// Counts a request that begins.
    pub(super) fn begin(&self, method: &'static str, scheme: &'static str) {
        self.active.of(method, scheme).inc();
    }

    /// Counts a request that has ended.
    pub(super) fn end(&self, labels: &RequestLabels, duration: Duration) {
        self.active.of(labels.method, labels.scheme).dec();
        self.durations.observe(labels, duration.as_secs_f64());
        self.ended[RequestOutcome::of(labels.status) as usize].inc();
    }
}

/// The labels of a request. They are few: a path or an id is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RequestLabels {
    pub(super) method: &'static str,
    pub(super) scheme: &'static str,
    pub(super) version: &'static str,
    /// `None` if there was no answer.
    pub(super) status: Option<StatusCode>,
    /// `None` if no route matched.
    pub(super) route: Option<RouteLabel>,
    /// The reason for which the request failed, if its status does not say it.
    pub(super) error_type: Option<&'static str>,
}

impl RequestLabels {
    pub(super) fn route(&self) -> Option<&str> {
        Some(self.route.as_ref()?.0.as_str())
    }

    /// Returns a number in which the labels that differ most are mixed (FNV-1a).
    fn mixed(&self) -> u64 {
        let mut mixed = self.status.map_or(0, |status| u64::from(status.as_u16()));
        for byte in self.method.bytes().chain(self.route().unwrap_or_default().bytes()) {
            mixed = (mixed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        mixed
    }

    /// Returns the reason for which the request failed. `None` if it did not: a mistake of the client is no failure.
    pub(super) fn error_type(&self) -> Option<&str> {
        match &self.status {
            Some(status) if status.is_server_error() => Some(self.error_type.unwrap_or(status.as_str())),
            _ => self.error_type,
        }
    }
}

impl EncodeLabelSet for RequestLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let labels = [
            ("http_request_method", Some(self.method)),
            ("url_scheme", Some(self.scheme)),
            ("network_protocol_version", Some(self.version)),
            ("http_response_status_code", self.status.as_ref().map(StatusCode::as_str)),
            ("http_route", self.route()),
            ("error_type", self.error_type()),
        ];
        for (name, value) in labels {
            if let Some(value) = value {
                (name, value).encode(encoder.encode_label())?;
            }
        }
        Ok(())
    }
}

/// The map of the series hashes each byte that it gets, with a hash that costs more than the rest of the search. So it
/// gets one number.
impl Hash for RequestLabels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.mixed());
    }
}

/// The pattern of a route, such as `/v1/orders/{id}`.
#[derive(Clone, Debug)]
pub(super) struct RouteLabel(pub(super) MatchedPath);

impl PartialEq for RouteLabel {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for RouteLabel {}

/// Returns the method for a label. A client can invent any number of methods, so those that are not known share one name.
pub(super) fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::CONNECT => "CONNECT",
        Method::PATCH => "PATCH",
        Method::TRACE => "TRACE",
        _ => "_OTHER",
    }
}

pub(super) fn version_label(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::exposition_format::ExpositionFormat;

    fn labels(version: &'static str, status: Option<StatusCode>) -> RequestLabels {
        RequestLabels { method: "GET", scheme: "http", version, status, route: None, error_type: None }
    }

    #[test]
    fn each_outcome_of_requests_exists_before_the_first_one() {
        let registry = MetricsRegistry::new("svc");
        let metrics = RequestMetrics::register(&registry);
        let count = |outcome| {
            let page = registry.encode(ExpositionFormat::OpenMetrics);
            let series = format!("vestibule_requests_total{{outcome=\"{outcome}\"}} ");
            let sample = page.lines().find_map(|line| line.strip_prefix(&series)).expect("the series exists");
            sample.parse::<u64>().expect("a number")
        };
        let outcomes = ["success", "client_error", "server_error", "no_answer"];
        assert_eq!(outcomes.map(count), [0; 4]);
        for status in [Some(204), Some(302), Some(404), Some(503), Some(599), Some(500), None] {
            let status = status.map(|status| StatusCode::from_u16(status).expect("a status"));
            metrics.begin("GET", "http");
            metrics.end(&labels("1.1", status), Duration::ZERO);
        }
        assert_eq!(outcomes.map(count), [2, 1, 3, 1]);
    }

    #[test]
    fn series_that_share_a_place_are_counted_apart() {
        let registry = MetricsRegistry::new("svc");
        let metrics = RequestMetrics::register(&registry);
        let labels = |version| labels(version, Some(StatusCode::OK));
        for version in ["1.1", "2", "1.1", "2", "1.1"] {
            metrics.begin("GET", "http");
            metrics.end(&labels(version), Duration::from_millis(1));
        }
        assert_eq!(labels("1.1").mixed(), labels("2").mixed());
        let page = registry.encode(ExpositionFormat::OpenMetrics);
        for (version, count) in [("1.1", 3), ("2", 2)] {
            let labels = "http_request_method=\"GET\",url_scheme=\"http\",network_protocol_version";
            let series = format!(
                "http_server_request_duration_seconds_count{{{labels}=\"{version}\",http_response_status_code=\"200\"}} \
                 {count}\n"
            );
            assert!(page.contains(&series), "{page}");
        }
    }
}
