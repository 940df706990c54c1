//! The format of `/metrics`, as the scraper asks for it.

use axum::http::{HeaderMap, header::ACCEPT};

/// A format of `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExpositionFormat {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4, which every scraper reads.
    PrometheusText,
}

impl ExpositionFormat {
    /// Returns the format for a request with these headers. It is OpenMetrics if `Accept` names that, with a weight that is
    /// not below that of text. A header that is malformed asks for nothing.
    ///
    /// The version of OpenMetrics in `Accept` does not count: scrapers that ask for 0.0.1 read 1.0.0 too.
    pub(crate) fn accepted(headers: &HeaderMap) -> Self {
        let mut weights = Weights::default();
        for value in headers.get_all(ACCEPT) {
            if value.to_str().ok().and_then(|text| weights.add(text)).is_none() {
                return Self::PrometheusText;
            }
        }
        let text = weights.text.or(weights.any_text).or(weights.anything).unwrap_or(0.0);
        match weights.openmetrics {
            Some(weight) if weight > 0.0 && weight >= text => Self::OpenMetrics,
            _ => Self::PrometheusText,
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            // OpenMetrics 1.0.0, section *Protocol Negotiation*.
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::PrometheusText => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The highest weight that `Accept` gives to each range of media types. `None` if it does not name the range.
#[derive(Default)]
struct Weights {
    openmetrics: Option<f32>,
    text: Option<f32>,
    any_text: Option<f32>,
    anything: Option<f32>,
}

impl Weights {
    /// Adds the ranges of one header. Returns `None` if it is malformed.
    fn add(&mut self, accept: &str) -> Option<()> {
        for element in accept.split(',') {
            let mut parts = element.split(';').map(str::trim);
            let range = parts.next().unwrap_or_default().to_ascii_lowercase();
            let mut weight = 1.0;
            for parameter in parts {
                let (name, value) = parameter.split_once('=')?;
                if name.eq_ignore_ascii_case("q") {
                    weight = parse_weight(value)?;
                }
            }
            let known = match range.as_str() {
                "application/openmetrics-text" => &mut self.openmetrics,
                "text/plain" => &mut self.text,
                "text/*" => &mut self.any_text,
                "*/*" => &mut self.anything,
                // RFC 9110, section 5.6.1.2: an empty element of a list means nothing.
                "" if element.trim().is_empty() => continue,
                other => match other.split_once('/') {
                    Some((kind, subtype)) if !kind.is_empty() && !subtype.is_empty() => continue,
                    _ => return None,
                },
            };
            *known = Some(known.map_or(weight, |highest| weight.max(highest)));
        }
        Some(())
    }
}

/// Parses a weight of RFC 9110, section 12.4.2: from 0 to 1.
fn parse_weight(text: &str) -> Option<f32> {
    let is_decimal = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    let weight = text.parse().ok()?;
    if is_decimal && (0.0..=1.0).contains(&weight) { Some(weight) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &[&'static str], expected: ExpositionFormat) {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(ACCEPT, value.parse().unwrap());
        }
        assert_eq!(ExpositionFormat::accepted(&headers), expected, "{accept:?}");
    }

    #[test]
    fn prometheus_gets_openmetrics() {
        for accept in [
            // Prometheus 2.5 to 2.43.
            "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            // Prometheus 2.44 to 2.54.
            "application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,\
             text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            // Prometheus 2.54 with native histograms.
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.5,\
             application/openmetrics-text;version=1.0.0;q=0.4,application/openmetrics-text;version=0.0.1;q=0.3,\
             text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            // Prometheus 3.
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
             application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
             text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            "application/openmetrics-text",
            "Application/OpenMetrics-Text;Q=1.000, text/plain",
        ] {
            check(&[accept], ExpositionFormat::OpenMetrics);
        }
        check(&["text/plain;q=0.5", "application/openmetrics-text"], ExpositionFormat::OpenMetrics);
    }

    #[test]
    fn whoever_does_not_prefer_openmetrics_gets_text() {
        check(&[], ExpositionFormat::PrometheusText);
        for accept in [
            "",
            "*/*",
            "text/plain;version=0.0.4",
            "text/plain;version=0.0.4;q=1,*/*;q=0.1",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "application/openmetrics-text;q=0.5,text/plain;q=0.6",
            "application/openmetrics-text;q=0.5,text/*;q=0.6",
            "application/openmetrics-text;q=0.5,*/*;q=0.6",
            "application/openmetrics-text;q=0",
            "application/*",
        ] {
            check(&[accept], ExpositionFormat::PrometheusText);
        }
        check(&["text/plain", "application/openmetrics-text;q=0.9"], ExpositionFormat::PrometheusText);
    }

    #[test]
    fn a_malformed_header_asks_for_nothing() {
        for accept in [
            "application/openmetrics-text;q=2",
            "application/openmetrics-text;q=-1",
            "application/openmetrics-text;q=NaN",
            "application/openmetrics-text;q=+1",
            "application/openmetrics-text;q=",
            "application/openmetrics-text;q",
            "application/openmetrics-text,nothing",
            "application/openmetrics-text,/",
            "application/openmetrics-text;;q=1",
        ] {
            check(&[accept], ExpositionFormat::PrometheusText);
        }
        let mut headers = HeaderMap::new();
        headers.append(ACCEPT, "application/openmetrics-text".parse().unwrap());
        headers.append(ACCEPT, axum::http::HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(ExpositionFormat::accepted(&headers), ExpositionFormat::PrometheusText);
    }
}
