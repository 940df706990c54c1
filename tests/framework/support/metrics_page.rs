//! `/metrics`, as Prometheus reads it.

use devstack::{RunningService, eventually, reqwest::StatusCode};
use std::collections::{BTreeMap, HashSet};

/// The samples of one scrape, by name and labels.
pub(crate) struct MetricsPage(BTreeMap<String, f64>);

impl MetricsPage {
    /// Scrapes the service.
    ///
    /// # Panics
    /// If the page is not OpenMetrics.
    pub(crate) async fn of(running: &RunningService<'_>) -> Self {
        let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        let (code, kind, text) = running.page_as("/metrics", accept).await;
        assert_eq!(code, StatusCode::OK);
        assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        Self(samples(&text))
    }

    /// Returns the value of a series.
    ///
    /// # Panics
    /// If the page does not have the series.
    #[track_caller]
    pub(crate) fn get(&self, series: &str) -> f64 {
        self.find(series).unwrap_or_else(|| panic!("no {series} in {:#?}", self.0))
    }

    /// Returns the value of a series, if the page has it.
    pub(crate) fn find(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }

    /// Returns the number of reloads with this trigger and this outcome.
    #[track_caller]
    pub(crate) fn reloads(&self, trigger: &str, outcome: &str) -> f64 {
        self.get(&format!("vestibule_reloads_total{{trigger=\"{trigger}\",outcome=\"{outcome}\"}}"))
    }

    /// Returns `true` if this version of a credential is loaded and has the label AWSCURRENT.
    pub(crate) fn has_current(&self, credential: &str, version: &str) -> bool {
        let labels = format!("name=\"{credential}\",version=\"{version}\",stage=\"current\"");
        self.find(&format!("vestibule_credential_info{{{labels}}}")) == Some(1.0)
    }

    /// Returns the numbers of idle and of used connections of a generation.
    pub(crate) fn connections(&self, generation: u64) -> Option<(f64, f64)> {
        Some((self.connections_in(generation, "idle")?, self.connections_in(generation, "used")?))
    }

    fn connections_in(&self, generation: u64, state: &str) -> Option<f64> {
        self.find(&format!("db_client_connection_count{{generation=\"{generation}\",state=\"{state}\"}}"))
    }

    /// Returns all series: the names with their labels.
    pub(crate) fn series(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

/// Waits until the first generation has these numbers of idle and of used connections.
#[track_caller]
pub(crate) fn wait_for_pool(running: &RunningService<'_>, idle_and_used: (f64, f64)) -> impl Future<Output = ()> {
    eventually("idle and used connections", async move || {
        let seen = MetricsPage::of(running).await.connections(1);
        if seen == Some(idle_and_used) { Ok(()) } else { Err(format!("{seen:?}, and not {idle_and_used:?}")) }
    })
}

/// Parses a page. It is as strict as OpenMetrics 1.0.0 about the parts that this page has.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.strip_suffix("# EOF\n").expect("the page has an end");
    let (mut helped, mut family, mut families) = (None, (String::new(), ""), HashSet::new());
    let mut samples = BTreeMap::new();
    for line in lines.lines() {
        let words: Vec<_> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] if !help.is_empty() => helped = Some(name),
            ["#", "TYPE", name, kind] => {
                assert_eq!(helped, Some(name), "no HELP before {line}");
                assert!(families.insert(name.to_owned()), "a second {name}");
                family = (name.to_owned(), kind);
            }
            _ => {
                let (series, value) = sample(line, &family.0, family.1);
                assert!(samples.insert(series.to_owned(), value).is_none(), "a second {series}");
            }
        }
    }
    samples
}

/// Parses one sample of a family. Returns its series and its value.
fn sample<'a>(line: &'a str, family: &str, kind: &str) -> (&'a str, f64) {
    let (series, value) = line.rsplit_once(' ').expect("a series and a value");
    let name = series.split_once('{').map_or(series, |(name, _)| name);
    let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("no TYPE before {line}"));
    let suffixes: &[&str] = match kind {
        "counter" => &["_total"],
        "gauge" => &[""],
        "histogram" => &["_sum", "_count", "_bucket"],
        "info" => &["_info"],
        kind => panic!("this page has no metric of the type {kind}"),
    };
    assert!(suffixes.contains(&suffix), "{line} is not a sample of a {kind}");
    (series, value.parse().unwrap_or_else(|_| panic!("no number in {line}")))
}
