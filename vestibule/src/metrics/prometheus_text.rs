//! Prometheus' text format 0.0.4. prometheus-client writes OpenMetrics only, so this makes one of the other, line by line.
//!
//! Both write samples, label values and their escapes alike. These differ:
//!
//! | in OpenMetrics | in Prometheus' text |
//! |---|---|
//! | a family has the name without the end `_total` or `_info` | the family has the name of its samples |
//! | the types `info` and `stateset` | `gauge` |
//! | the types `unknown` and `gaugehistogram` | `untyped` |
//! | `# UNIT`, `# EOF`, exemplars, samples that end with `_created` | nothing |

use std::fmt::Write;

/// Returns a page of OpenMetrics as Prometheus' text.
pub(super) fn from_openmetrics(page: &str) -> String {
    let mut text = String::with_capacity(page.len());
    let (mut help, mut created) = ("", String::new());
    for line in page.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            let sample = without_exemplar(line);
            if name_of(sample) != created {
                text.push_str(sample);
                text.push('\n');
            }
            continue;
        };
        let mut words = comment.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            // It is written with the type: that says which name the family has.
            (Some("HELP"), Some(_), Some(words)) => help = words,
            (Some("TYPE"), Some(name), Some(openmetrics_type)) => {
                let (suffix, text_type) = match openmetrics_type {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "stateset" => ("", "gauge"),
                    "gauge" | "histogram" | "summary" => ("", openmetrics_type),
                    _ => ("", "untyped"),
                };
                writeln!(text, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {text_type}")
                    .expect("writing to a String does not fail");
                help = "";
                created = format!("{name}_created");
            }
            _ => (),
        }
    }
    text
}

fn name_of(sample: &str) -> &str {
    match sample.find(['{', ' ']) {
        Some(end) => &sample[..end],
        None => sample,
    }
}

fn without_exemplar(sample: &str) -> &str {
    let labels_end = name_of(sample).len() + length_of_labels(&sample[name_of(sample).len()..]);
    match sample[labels_end..].find(" # ") {
        Some(value_end) => &sample[..labels_end + value_end],
        None => sample,
    }
}

/// Returns the length of the labels at the beginning of the rest of a sample, with their braces. A value of a label may
/// contain a brace.
fn length_of_labels(rest: &str) -> usize {
    if !rest.starts_with('{') {
        return 0;
    }
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, c) in rest.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            '}' if !is_quoted => return at + 1,
            _ => (),
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::{
        encoding::text,
        metrics::{
            counter::Counter, exemplar::CounterWithExemplar, exemplar::HistogramWithExemplars, family::Family,
            gauge::Gauge, histogram::Histogram, info::Info,
        },
        registry::{Registry, Unit},
    };

    /// Returns the text for a registry.
    fn text_of(registry: &Registry) -> String {
        let mut page = String::new();
        text::encode(&mut page, registry).unwrap();
        from_openmetrics(&page)
    }

    #[test]
    fn each_type_of_metric_is_written_as_text() {
        let mut registry = Registry::default();
        let counter: Counter = Counter::default();
        counter.inc_by(3);
        registry.register("calls", "Calls", counter);
        let gauge: Gauge = Gauge::default();
        gauge.set(-2);
        registry.register("queue", "Entries", gauge);
        let histogram = Histogram::new([0.5, 1.0]);
        histogram.observe(0.7);
        registry.register_with_unit("duration", "Durations", Unit::Seconds, histogram);
        registry.register("build", "The build", Info::new([("version", "1")]));
        let expected = "\
# HELP calls_total Calls.
# TYPE calls_total counter
calls_total 3
# HELP queue Entries.
# TYPE queue gauge
queue -2
# HELP duration_seconds Durations.
# TYPE duration_seconds histogram
duration_seconds_sum 0.7
duration_seconds_count 1
duration_seconds_bucket{le=\"0.5\"} 0
duration_seconds_bucket{le=\"1.0\"} 1
duration_seconds_bucket{le=\"+Inf\"} 1
# HELP build_info The build.
# TYPE build_info gauge
build_info{version=\"1\"} 1
";
        assert_eq!(text_of(&registry), expected);
    }

    #[test]
    fn types_that_text_does_not_have_become_others() {
        let page = "\
# HELP state States.
# TYPE state stateset
state{state=\"a\"} 1
# HELP any Anything.
# TYPE any unknown
any 1
# HELP rpc Calls.
# TYPE rpc summary
rpc{quantile=\"0.5\"} 1
rpc_sum 2
rpc_created 1.7e9
# EOF
";
        let expected = "\
# HELP state States.
# TYPE state gauge
state{state=\"a\"} 1
# HELP any Anything.
# TYPE any untyped
any 1
# HELP rpc Calls.
# TYPE rpc summary
rpc{quantile=\"0.5\"} 1
rpc_sum 2
";
        assert_eq!(from_openmetrics(page), expected);
    }

    #[test]
    fn exemplars_and_times_of_creation_are_left_out() {
        let mut registry = Registry::default();
        let counter: CounterWithExemplar<[(&str, &str); 1]> = CounterWithExemplar::default();
        counter.inc_by(1, Some([("trace_id", "3a")]), None);
        registry.register("calls", "Calls", counter);
        let histogram: HistogramWithExemplars<[(&str, &str); 1]> = HistogramWithExemplars::new([1.0].into_iter());
        histogram.observe(0.7, Some([("trace_id", "} # {")]), None);
        registry.register("duration", "Durations", histogram);
        let text = text_of(&registry);
        assert!(text.contains("calls_total 1\n") && text.contains("duration_bucket{le=\"1.0\"} 1\n"), "{text}");
        assert!(!text.contains("trace_id") && !text.contains("EOF"), "{text}");
        let created = "# HELP calls Calls.\n# TYPE calls counter\ncalls_total 1\ncalls_created 1.7e9\n# EOF\n";
        assert!(!from_openmetrics(created).contains("created"));
        let named_so = "# HELP calls_created Calls.\n# TYPE calls_created gauge\ncalls_created 1\n# EOF\n";
        assert!(from_openmetrics(named_so).ends_with("calls_created 1\n"), "it is no time of a counter");
    }

    #[test]
    fn values_of_labels_stay_as_they_are() {
        let hostile = ["a\"b", "a\\", "a\nb", "} 1 # {", "\\\" # {", "ä # é", ""];
        let mut registry = Registry::default();
        let family = Family::<[(&str, String); 2], Gauge>::default();
        for value in hostile {
            family.get_or_create_owned(&[("label", value.to_owned()), ("other", "x".to_owned())]).set(1);
        }
        registry.register("queue", "Entries", family);
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap();
        let text = from_openmetrics(&page);
        let samples = |page: &str| page.lines().filter(|line| !line.starts_with("# ")).map(str::to_owned).collect();
        let (before, after): (Vec<String>, Vec<String>) = (samples(&page), samples(&text));
        assert_eq!(before, after);
        assert_eq!(after.len(), hostile.len());
        for sample in after {
            let with_exemplar = format!("{sample} # {{trace_id=\"x\"}} 1.0 1.7");
            assert_eq!(without_exemplar(&with_exemplar), sample);
        }
    }
}
