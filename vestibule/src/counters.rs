//! What a service counts: the same series over all generations, from the start of the process.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Names and values.
type Labels = Vec<(&'static str, &'static str)>;

/// Counts one thing, from 0. A handle: clones count the same.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All that the service counts, by name.
#[derive(Default)]
pub(crate) struct Counters(Mutex<BTreeMap<String, Family>>);

#[derive(Clone)]
pub(crate) struct Family {
    pub(crate) help: &'static str,
    pub(crate) series: BTreeMap<Labels, Counter>,
}

impl Counters {
    /// The `service`'s counter of this name and these labels: the same one each time. `Err`: what is wrong with them.
    pub(crate) fn counter(
        &self,
        service: &str,
        name: &str,
        help: &'static str,
        labels: &[(&'static str, &'static str)],
    ) -> Result<Counter, &'static str> {
        if !is_name(name) || name.ends_with("_total") || labels.iter().any(|(label, _)| !is_name(label)) {
            return Err("a counter is named in a-z, 0-9 and _, without _total, and so are its labels");
        }
        self.own(&format!("{}_{name}", as_name(service)), help, labels)
    }

    /// The same for the framework's own.
    pub(crate) fn own(
        &self,
        name: &str,
        help: &'static str,
        labels: &[(&'static str, &'static str)],
    ) -> Result<Counter, &'static str> {
        let mut families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let family = match families.entry(name.to_owned()) {
            Entry::Vacant(place) => place.insert(Family { help, series: BTreeMap::new() }),
            Entry::Occupied(held) => held.into_mut(),
        };
        let names = |labels: &[(&'static str, _)]| labels.iter().map(|(label, _)| *label).collect::<Vec<_>>();
        if family.help != help || family.series.keys().next().is_some_and(|held| names(held) != names(labels)) {
            return Err("counters of one name differ in their help, or in the names of their labels");
        }
        Ok(family.series.entry(labels.to_vec()).or_default().clone())
    }

    /// As they are at this moment.
    pub(crate) fn families(&self) -> BTreeMap<String, Family> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counters")
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(is_of_name)
}

/// What a package is called, as metrics are: `My-svc` is `my_svc`.
fn as_name(service: &str) -> String {
    service.to_ascii_lowercase().replace(|c| !is_of_name(c), "_")
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_the_same_whoever_asks_for_it() {
        let counters = Counters::default();
        let count = |outcome| counters.counter("svc", "calls", "Calls", &[("outcome", outcome)]).unwrap();
        count("good").increment();
        count("good").add(2);
        count("bad").increment();
        assert_eq!((count("good").get(), count("bad").get()), (3, 1));
    }

    #[test]
    fn names_that_clash_or_that_no_page_can_have_are_refused() {
        let counters = Counters::default();
        counters.counter("svc", "calls", "Calls", &[("outcome", "good")]).unwrap();
        assert!(counters.counter("svc", "calls", "Other", &[("outcome", "good")]).is_err());
        assert!(counters.counter("svc", "calls", "Calls", &[("result", "good")]).is_err());
        assert!(counters.counter("svc", "calls", "Calls", &[]).is_err());
        for name in ["", "Calls", "calls-made", "calls_total", "1calls"] {
            assert!(counters.counter("svc", name, "Calls", &[]).is_err(), "{name}");
        }
        assert!(counters.counter("svc", "others", "Others", &[("a b", "c")]).is_err());
    }

    #[test]
    fn a_counter_is_named_after_its_service_as_metrics_are_named() {
        for (service, name) in [("svc", "svc_calls"), ("my-svc2", "my_svc2_calls"), ("My_Svc", "my_svc_calls")] {
            let counters = Counters::default();
            counters.counter(service, "calls", "Calls", &[]).unwrap();
            counters.own("vestibule_calls", "Calls of ours", &[]).unwrap();
            assert!(counters.families().into_keys().eq([name, "vestibule_calls"]), "{service}");
        }
    }
}
