//! A fleet: fifty processes of the example in its release binary, and a model of up to 10,000 replicas that is checked
//! against the fifty.
//!
//! `cargo bench --bench fleet` runs all scenarios with both, compares their counts, fails if they differ, and writes tables in
//! Markdown. `cargo bench --bench fleet -- processes` runs only the fifty and the model of fifty; with `-- model`, only the
//! model, also of other numbers of replicas: `-- model 3000`.

// The futures of the scenarios have those of the stack in them.
#![recursion_limit = "256"]

mod model;
mod processes;
mod scenarios;
#[path = "../support"]
#[expect(dead_code, reason = "other benchmarks use the rest")]
mod support {
    pub(crate) mod load;
}

use devstack::{Binary, home};
use model::{Outcome, Parameters, Scenario};
use scenarios::{Measured, reload_in_waves, rotate, start};
use std::{env, fmt::Write, fs, process::ExitCode, time::Duration};

const PROGRAM: &str = env!(concat!("CARGO_BIN_EXE_", env!("CARGO_PKG_NAME")));

/// The example.
static EXAMPLE: Binary = Binary::at(PROGRAM);

/// The number of processes.
const PROCESSES: usize = 50;

/// The numbers of replicas of the model.
const REPLICAS: [usize; 4] = [50, 200, 1_000, 10_000];

/// The calls of `GetSecretValue` and `DescribeSecret` per second that AWS answers, for an account in a Region (*AWS Secrets
/// Manager quotas*).
const QUOTA: u32 = 10_000;

/// The quota of the processes: their share of [`QUOTA`] if 10,000 replicas have it all.
const QUOTA_OF_PROCESSES: u32 = QUOTA * PROCESSES as u32 / 10_000;

/// `secrets.refresh_every` of the processes, in the scenario of the poll.
const REFRESH_EVERY: Duration = Duration::from_secs(10);

/// `secrets.refresh_every` of the model, and of the framework.
const DEFAULT_REFRESH_EVERY: Duration = Duration::from_secs(5 * 60);

/// The runs of the model that the processes are compared with.
const RUNS: u64 = 20;

/// The part of the model's largest count by which the processes may be beyond its counts, if those are random.
const MARGIN: f64 = 0.3;

const HEAD: &str = "| scenario | replicas | quota | first | last | calls | throttled | in a second | log-ins | rejected | connections | left out | failed requests |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("skipped: this is a benchmark; run `cargo bench --bench fleet`");
        return ExitCode::SUCCESS;
    }
    let is_wanted = |part: &str| {
        let mut parts = arguments.iter().filter(|argument| !argument.starts_with('-')).peekable();
        parts.peek().is_none() || parts.any(|argument| argument == part)
    };
    let mut replicas: Vec<usize> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    if replicas.is_empty() {
        replicas.extend(REPLICAS);
    }
    let (mut text, mut differences) = (String::new(), Vec::new());
    if is_wanted("processes") {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let measured = runtime.block_on(measure());
        text.push_str(HEAD);
        for (measured, compared) in &measured {
            let Measured { scenario: name, quota, outcome, .. } = measured;
            text.push_str(&measured.row());
            if let Some(Compared { scenario, spread, refresh_every }) = compared {
                let (replicas, quota) = (PROCESSES, *quota);
                let (spread, refresh_every) = (*spread, *refresh_every);
                let parameters = |seed| Parameters { replicas, quota, spread, refresh_every, seed };
                let modelled: Vec<_> = (0..RUNS).map(|seed| model::run(*scenario, parameters(seed))).collect();
                text.push_str(&range_row(quota, &modelled));
                differences.extend(compare(name, outcome, &modelled));
            }
        }
        text.push('\n');
    }
    if is_wanted("model") {
        text.push_str(&model_of_many(&replicas));
    }
    let file = home().expect("there is a target folder").join("fleet.md");
    fs::write(&file, &text).expect("the folder is there");
    println!("\n{text}\nThis is in {}.", file.display());
    for difference in &differences {
        eprintln!("the processes and the model differ: {difference}");
    }
    if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs all scenarios with the model, for each of these numbers of replicas. Returns the table.
fn model_of_many(fleets: &[usize]) -> String {
    let modelled = |scenario: Scenario, replicas| {
        let (quota, spread) = (Some(QUOTA), Duration::ZERO);
        let refresh_every = if scenario == Scenario::Poll { DEFAULT_REFRESH_EVERY } else { Duration::ZERO };
        let outcome = model::run(scenario, Parameters { replicas, quota, spread, refresh_every, seed: 1 });
        let row = row(scenario.name(), replicas, quota, &outcome, None);
        print!("{row}");
        row
    };
    std::thread::scope(|scope| {
        let fleets_of =
            |scenario| move || fleets.iter().map(|&replicas| modelled(scenario, replicas)).collect::<String>();
        let threads = Scenario::ALL.map(|scenario| scope.spawn(fleets_of(scenario)));
        let tables = threads.map(|thread| thread.join().expect("the model does not panic"));
        HEAD.to_owned() + &tables.concat()
    })
}

/// A scenario of the model that a scenario with processes is compared with. The processes cannot begin all at once on two
/// cores, so `spread` is the time that they took.
struct Compared {
    scenario: Scenario,
    spread: Duration,
    refresh_every: Duration,
}

/// Runs all scenarios with processes. Beside each one is that of the model to compare it with.
async fn measure() -> Vec<(Measured, Option<Compared>)> {
    let quota = Some(QUOTA_OF_PROCESSES);
    let mut all = Vec::new();
    let mut add = |measured: Measured, compared| {
        print!("{}", measured.row());
        all.push((measured, compared));
    };
    let compared = |scenario, spread| Some(Compared { scenario, spread, refresh_every: Duration::ZERO });
    let (fleet, started) = start(PROCESSES, None, Duration::ZERO).await;
    let spread_of_start = started.span;
    add(started, compared(Scenario::Start, spread_of_start));
    let signalled = rotate(&fleet, Scenario::Signal, None).await;
    let spread_of_signal = signalled.span;
    add(signalled, compared(Scenario::Signal, spread_of_signal));
    for (scenario, spread) in
        [(Scenario::Signal, spread_of_signal), (Scenario::Rejected, Duration::ZERO), (Scenario::Crash, spread_of_start)]
    {
        add(rotate(&fleet, scenario, quota).await, compared(scenario, spread));
    }
    add(reload_in_waves(&fleet, quota).await, None);
    drop(fleet);
    let polling = |scenario, spread| Some(Compared { scenario, spread, refresh_every: REFRESH_EVERY });
    let (fleet, started) = start(PROCESSES, quota, REFRESH_EVERY).await;
    add(started, polling(Scenario::Start, spread_of_start));
    add(rotate(&fleet, Scenario::Poll, quota).await, polling(Scenario::Poll, Duration::ZERO));
    all
}

impl Measured {
    fn row(&self) -> String {
        row(self.scenario, PROCESSES, self.quota, &self.outcome, self.failed_requests)
    }
}

/// A count of an outcome.
type Count = fn(&Outcome) -> usize;

/// The counts that are compared: those that do not depend on the speed of the machine.
const COUNTS: [(&str, Count); 5] = [
    ("left out", |outcome| outcome.failed),
    ("answered calls", |outcome| outcome.calls - outcome.throttled),
    ("throttled calls", |outcome| outcome.throttled),
    ("log-ins", |outcome| outcome.log_ins),
    ("rejected log-ins", |outcome| outcome.rejected),
];

/// Compares the counts of the processes with those of the model. If all runs of the model have the same count, the processes
/// must have it too.
fn compare(scenario: &str, outcome: &Outcome, modelled: &[Outcome]) -> Vec<String> {
    let mut differences = Vec::new();
    for (name, count) in COUNTS {
        let (least, most) = range(modelled, count);
        let margin = if least == most { 0 } else { (most as f64 * MARGIN).ceil() as usize };
        let measured = count(outcome);
        if measured < least.saturating_sub(margin) || measured > most + margin {
            differences.push(format!("{scenario}, {name}: {measured}, and {least} to {most} in the model"));
        }
    }
    differences
}

fn range<T: Copy + Ord>(modelled: &[Outcome], value: fn(&Outcome) -> T) -> (T, T) {
    let values = modelled.iter().map(value);
    (values.clone().min().expect("there are runs"), values.max().expect("there are runs"))
}

/// Returns a row of the table.
fn row(
    scenario: &str,
    replicas: usize,
    quota: Option<u32>,
    outcome: &Outcome,
    failed_requests: Option<usize>,
) -> String {
    let Outcome { failed, calls, throttled, busiest_second, log_ins, rejected, connections, .. } = outcome;
    let (first, last) = (seconds(outcome.first), seconds(outcome.last));
    let quota = quota.map_or("none".into(), |quota| format!("{quota}/s"));
    let failed_requests = failed_requests.map_or(String::new(), |failed| failed.to_string());
    format!(
        "| {scenario} | {replicas} | {quota} | {first} | {last} | {calls} | {throttled} | {busiest_second} | {log_ins} | \
         {rejected} | {connections} | {failed} | {failed_requests} |\n"
    )
}

/// Returns the row of several runs of the model.
fn range_row(quota: Option<u32>, modelled: &[Outcome]) -> String {
    let quota = quota.map_or("none".into(), |quota| format!("{quota}/s"));
    let mut text = format!("| *the model* | {PROCESSES} | {quota} |");
    let times: [fn(&Outcome) -> Duration; 2] = [|outcome| outcome.first, |outcome| outcome.last];
    for time in times {
        let (least, most) = range(modelled, time);
        write!(text, " {} – {} |", seconds(least), seconds(most)).expect("a string takes all");
    }
    let counts: [Count; 7] = [
        |outcome| outcome.calls,
        |outcome| outcome.throttled,
        |outcome| outcome.busiest_second,
        |outcome| outcome.log_ins,
        |outcome| outcome.rejected,
        |outcome| outcome.connections,
        |outcome| outcome.failed,
    ];
    for count in counts {
        match range(modelled, count) {
            (least, most) if least == most => write!(text, " {least} |"),
            (least, most) => write!(text, " {least} – {most} |"),
        }
        .expect("a string takes all");
    }
    text + " |\n"
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
