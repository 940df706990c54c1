//! The statistics of a load.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::dev::error::DevError;

/// A certificate as DER.
pub(super) type DerCertificate = Vec<u8>;

/// A request that has ended.
pub(super) struct FinishedRequest {
    /// The time from the moment at which the request was due.
    pub(super) took: Duration,
    /// The certificate of its connection, if any, or the kind of its failure.
    pub(super) outcome: Result<Option<DerCertificate>, String>,
}

/// The statistics of requests that have ended.
#[derive(Default)]
pub(super) struct LoadStatistics {
    took: Vec<Duration>,
    failed: BTreeMap<String, u64>,
    certificates: BTreeSet<DerCertificate>,
}

impl LoadStatistics {
    pub(super) fn add(&mut self, request: FinishedRequest) {
        self.took.push(request.took);
        match request.outcome {
            Ok(certificate) => self.certificates.extend(certificate),
            Err(kind) => *self.failed.entry(kind).or_default() += 1,
        }
    }

    /// Adds the requests of `other`.
    pub(super) fn absorb(&mut self, other: Self) {
        self.took.extend(other.took);
        self.certificates.extend(other.certificates);
        for (kind, count) in other.failed {
            *self.failed.entry(kind).or_default() += count;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.took.is_empty()
    }

    fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Returns the time within which this share of the requests ended, as text.
    fn percentile(&mut self, percent: usize) -> String {
        self.took.sort_unstable();
        let rank = (self.took.len() * percent).div_ceil(100);
        match self.took.get(rank.saturating_sub(1)) {
            Some(took) => format!("{:>6.1} ms", took.as_secs_f64() * 1000.0),
            None => format!("{:>9}", "-"),
        }
    }

    /// Returns the columns of a second.
    pub(super) fn line(&mut self) -> String {
        let (p50, p99) = (self.percentile(50), self.percentile(99));
        format!("{:>8}  {:>8}  {p50}  {p99}", self.took.len(), self.failures())
    }

    /// Prints everything at the end of a load in which `due` requests were due. Returns an error if one failed.
    pub(super) fn report(mut self, due: u64, length: Duration, generations: &BTreeSet<u64>) -> Result<(), DevError> {
        let unanswered = due.saturating_sub(self.took.len() as u64);
        if unanswered > 0 {
            self.failed.insert("unanswered at the end".into(), unanswered);
        }
        let failures = self.failures();
        let generations: Vec<_> = generations.iter().map(u64::to_string).collect();
        println!();
        println!("requests     {due} in {:.1} s", length.as_secs_f64());
        println!("failures     {failures}");
        for (kind, count) in &self.failed {
            println!("             {count} × {kind}");
        }
        for (name, percent) in [("p50", 50), ("p99", 99), ("max", 100)] {
            println!("{name:<13}{}", self.percentile(percent).trim_start());
        }
        println!("generations  {}", generations.join(", "));
        if !self.certificates.is_empty() {
            println!("certificates {}", self.certificates.len());
        }
        if failures > 0 {
            return Err(DevError::new(format!("{failures} of {due} requests failed")));
        }
        Ok(())
    }
}
