//! Counters on `/metrics`: the same series over all generations, from the start of the process.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// The names and values of a series' labels.
type LabelPairs = Vec<(&'static str, &'static str)>;

/// A counter on `/metrics`, from 0. Clones count the same. [`Build::counter`](crate::Build::counter) returns one.
///
/// ```
/// use vestibule::Counter;
///
/// struct Mailer {
///     sent: Counter,
/// }
///
/// impl Mailer {
///     fn send_all(&self, mails: &[&str]) {
///         for mail in mails {
///             println!("sending {mail}");
///             self.sent.increment();
///         }
///     }
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds 1.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds this many.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All counters of a process, by name.
#[derive(Default)]
pub(crate) struct Counters(Mutex<BTreeMap<String, Family>>);

/// The series of one name.
#[derive(Clone)]
pub(crate) struct Family {
    pub(crate) help: &'static str,
    pub(crate) series: BTreeMap<LabelPairs, Counter>,
}

impl Counters {
    /// Returns the counter of a service with this name and these labels. It is the same one each time.
    ///
    /// # Errors
    /// The problem, if the name or a label is malformed, or if a counter of that name has another help text or other
    /// labels.
    pub(crate) fn counter(
        &self,
        service: &str,
        name: &str,
        help: &'static str,
        labels: &[(&'static str, &'static str)],
    ) -> Result<Counter, &'static str> {
        if !is_name(name) || name.ends_with("_total") || labels.iter().any(|(label, _)| !is_name(label)) {
            return Err(
                "the names of a counter and of its labels start with a-z and have only a-z, 0-9 and _; a counter's name does \
                        not end with _total",
            );
        }
        self.own(&format!("{}_{name}", metric_prefix(service)), help, labels)
    }

    /// Returns a counter of the framework itself: as [`counter`](Self::counter), but `name` stays as it is.
    ///
    /// # Errors
    /// The problem, if a counter of that name has another help text or other labels.
    pub(crate) fn own(
        &self,
        name: &str,
        help: &'static str,
        labels: &[(&'static str, &'static str)],
    ) -> Result<Counter, &'static str> {
        let mut families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let family = match families.entry(name.to_owned()) {
            Entry::Vacant(entry) => entry.insert(Family { help, series: BTreeMap::new() }),
            Entry::Occupied(entry) => entry.into_mut(),
        };
        if family.help != help || family.series.keys().any(|known| label_names(known) != label_names(labels)) {
            return Err("counters of one name differ in their help, or in the names of their labels");
        }
        Ok(family.series.entry(labels.to_vec()).or_default().clone())
    }

    /// Returns the counters as they are at this moment.
    pub(crate) fn families(&self) -> BTreeMap<String, Family> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counters")
    }
}

fn label_names(labels: &[(&'static str, &'static str)]) -> Vec<&'static str> {
    labels.iter().map(|(name, _)| *name).collect()
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(is_name_char)
}

/// Returns the name of a package in the form of a metric's name: `My-svc` becomes `my_svc`.
fn metric_prefix(service: &str) -> String {
    service.to_ascii_lowercase().replace(|c| !is_name_char(c), "_")
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_series_has_one_counter() {
        let counters = Counters::default();
        let count = |outcome| counters.counter("svc", "calls", "Calls", &[("outcome", outcome)]).unwrap();
        count("good").increment();
        count("good").add(2);
        count("bad").increment();
        assert_eq!((count("good").get(), count("bad").get()), (3, 1));
    }

    #[test]
    fn names_that_clash_or_are_malformed_are_refused() {
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
    fn the_name_of_a_service_becomes_the_prefix_of_its_counters() {
        for (service, name) in [("svc", "svc_calls"), ("my-svc2", "my_svc2_calls"), ("My_Svc", "my_svc_calls")] {
            let counters = Counters::default();
            counters.counter(service, "calls", "Calls", &[]).unwrap();
            counters.own("vestibule_calls", "Calls of ours", &[]).unwrap();
            assert!(counters.families().into_keys().eq([name, "vestibule_calls"]), "{service}");
        }
    }
}
