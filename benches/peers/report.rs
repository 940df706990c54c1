//! The table of the comparison, in Markdown.

use crate::{services::Service, support::statistics::Rounds};
use std::fmt::Write;

/// A quantity that is measured.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Measure {
    /// Of all rounds, the most.
    Failed,
    /// Of all rounds, the most.
    RejectedLogins,
    /// In milliseconds. Of all rounds, the most.
    Slowest,
    /// In milliseconds. The median of the rounds.
    P99,
    /// In milliseconds, from the moment at which the manager has a good value to the end of the last request that fails or is
    /// slow. Of all rounds, the most.
    Recovery,
    /// In milliseconds. The median of the rounds.
    Time,
    /// In microseconds. The median of the rounds.
    CpuTime,
    /// Per second. The median of the rounds. The only one of which more is better.
    Rate,
    /// In bytes. The median of the rounds.
    Memory,
}

impl Measure {
    fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed requests",
            Self::RejectedLogins => "logins that PostgreSQL rejected",
            Self::Slowest => "slowest request",
            Self::P99 => "p99",
            Self::Recovery => "time to recover",
            Self::Time => "time",
            Self::CpuTime => "CPU time of a request",
            Self::Rate => "requests per second",
            Self::Memory => "resident memory",
        }
    }

    /// Returns one value for those of all rounds.
    fn of(self, rounds: &Rounds) -> f64 {
        match self {
            Self::Failed | Self::RejectedLogins | Self::Slowest | Self::Recovery => {
                rounds.0.iter().copied().fold(0.0, f64::max)
            }
            Self::P99 | Self::Time | Self::CpuTime | Self::Rate | Self::Memory => rounds.median(),
        }
    }

    fn print(self, value: f64) -> String {
        match self {
            Self::Failed | Self::RejectedLogins => format!("{value:.0}"),
            Self::Slowest | Self::P99 | Self::Recovery | Self::Time if value >= 1e3 => {
                format!("{:.1} s", value / 1e3)
            }
            Self::Slowest | Self::P99 | Self::Recovery | Self::Time if value >= 10.0 || value == 0.0 => {
                format!("{value:.0} ms")
            }
            Self::Slowest | Self::P99 | Self::Recovery | Self::Time => format!("{value:.1} ms"),
            Self::CpuTime => format!("{value:.0} µs"),
            Self::Rate => format!("{:.0}", (value / 10.0).round() * 10.0),
            Self::Memory => format!("{:.0} MB", value / 1e6),
        }
    }

    /// Returns true if the first value is better than the second.
    fn is_better(self, one: f64, other: f64) -> bool {
        if self == Self::Rate { one > other } else { one < other }
    }
}

/// All values of all scenarios.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

struct Row {
    scenario: &'static str,
    measure: Measure,
    values: [Rounds; 3],
}

impl Row {
    /// Returns a value for each service, as a number and as a text.
    fn cells(&self) -> [(f64, String); 3] {
        self.values.each_ref().map(|rounds| {
            let value = self.measure.of(rounds);
            (value, self.measure.print(value))
        })
    }
}

impl Report {
    /// Adds the value of one round of a service.
    pub(crate) fn record(&mut self, scenario: &'static str, measure: Measure, service: usize, value: f64) {
        let found = self.rows.iter().position(|row| row.scenario == scenario && row.measure == measure);
        let index = found.unwrap_or_else(|| {
            self.rows.push(Row { scenario, measure, values: Default::default() });
            self.rows.len() - 1
        });
        self.rows[index].values[service].0.push(value);
    }

    /// Returns the table, and the places where a peer is better than the example.
    pub(crate) fn markdown(&self, services: &[Service; 3]) -> String {
        let [ours, go, python] = services.each_ref().map(Service::name);
        let mut text = format!("| scenario | measure | {ours} | {go} | {python} |\n|---|---|---|---|---|\n");
        let mut better = String::new();
        for row in &self.rows {
            let (scenario, measure) = (row.scenario, row.measure.name());
            let cells = row.cells();
            let [first, second, third] = cells.each_ref().map(|(_, text)| text);
            writeln!(text, "| {scenario} | {measure} | {first} | {second} | {third} |").expect("a string takes all");
            for (peer, (value, printed)) in services.iter().zip(&cells).skip(1) {
                // Two values that look alike in the table are no difference.
                if row.measure.is_better(*value, cells[0].0) && printed != first {
                    let name = peer.name();
                    writeln!(better, "- {scenario}, {measure}: {printed} in {name}, {first} here.")
                        .expect("a string takes all");
                }
            }
        }
        if better.is_empty() {
            better.push_str("- Nowhere in this run.\n");
        }
        format!("{text}\nWhere a peer is better:\n\n{better}")
    }
}
