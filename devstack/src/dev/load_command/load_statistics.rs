use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::Failure;

/// DER.
pub(super) type Certificate = Vec<u8>;

/// A request that has ended: how long after it was due, and over which certificate, or why it failed.
pub(super) struct Sample {
    pub(super) took: Duration,
    pub(super) outcome: Result<Option<Certificate>, String>,
}

/// Requests that have ended.
#[derive(Default)]
pub(super) struct Tally {
    took: Vec<Duration>,
    failed: BTreeMap<String, u64>,
    certificates: BTreeSet<Certificate>,
}

impl Tally {
    pub(super) fn add(&mut self, sample: Sample) {
        self.took.push(sample.took);
        match sample.outcome {
            Ok(certificate) => self.certificates.extend(certificate),
            Err(why) => *self.failed.entry(why).or_default() += 1,
        }
    }

    pub(super) fn absorb(&mut self, other: &mut Self) {
        self.took.append(&mut other.took);
        self.certificates.append(&mut other.certificates);
        for (why, count) in std::mem::take(&mut other.failed) {
            *self.failed.entry(why).or_default() += count;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.took.is_empty()
    }

    fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// The time within which this share of the requests ended.
    fn percentile(&mut self, percent: usize) -> Milliseconds {
        self.took.sort_unstable();
        let rank = (self.took.len() * percent).div_ceil(100);
        Milliseconds(self.took.get(rank.saturating_sub(1)).copied())
    }

    /// The columns of a second.
    pub(super) fn line(&mut self) -> String {
        let (p50, p99) = (self.percentile(50), self.percentile(99));
        format!("{:>8}  {:>8}  {p50}  {p99}", self.took.len(), self.failures())
    }

    /// Everything there is to say at the end, when so many requests were due.
    pub(super) fn report(mut self, due: u64, length: Duration, generations: &BTreeSet<u64>) -> Result<(), Failure> {
        let unanswered = due.saturating_sub(self.took.len() as u64);
        if unanswered > 0 {
            self.failed.insert("unanswered at the end".into(), unanswered);
        }
        let failures = self.failures();
        let generations: Vec<_> = generations.iter().map(u64::to_string).collect();
        println!();
        println!("requests     {due} in {:.1} s", length.as_secs_f64());
        println!("failures     {failures}");
        for (why, count) in &self.failed {
            println!("             {count} × {why}");
        }
        for (name, percent) in [("p50", 50), ("p99", 99), ("max", 100)] {
            println!("{name:<13}{}", self.percentile(percent).to_string().trim_start());
        }
        println!("generations  {}", generations.join(", "));
        if !self.certificates.is_empty() {
            println!("certificates {}", self.certificates.len());
        }
        match failures {
            0 => Ok(()),
            _ => Err(Failure::new(format!("{failures} of {due} requests failed"))),
        }
    }
}

struct Milliseconds(Option<Duration>);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(took) => write!(f, "{:>6.1} ms", took.as_secs_f64() * 1000.0),
            None => write!(f, "{:>9}", "-"),
        }
    }
}
