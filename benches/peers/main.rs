//! The example beside the same service in Go (`go/`) and in Python (`python/`): what clients and PostgreSQL see of
//! rotations that go well or badly, how fast each one starts, and what a request costs.
//!
//! `cargo bench --bench peers` runs every scenario, and writes a table in Markdown. `cargo bench --bench peers -- start` runs
//! one; with `quick`, each one once. All three services have one worker thread and ten connections, and use the same
//! PostgreSQL and the same secrets manager. They take turns.

// The futures of the measurements have those of the stack in them.
#![recursion_limit = "256"]

mod paced;
mod report;
mod scenarios;
mod services;
#[path = "../support"]
#[expect(dead_code, reason = "other benchmarks use the rest")]
mod support {
    pub(crate) mod contenders;
    pub(crate) mod load;
    pub(crate) mod server;
    pub(crate) mod statistics;
}

use scenarios::{SCENARIOS, Scenarios};
use services::{Service, first_line, target};
use std::{env, fs, path::Path, process::ExitCode};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("skipped: this is a benchmark; run `cargo bench --bench peers`");
        return ExitCode::SUCCESS;
    }
    let mut wanted: Vec<&str> = arguments.iter().map(String::as_str).filter(|part| !part.starts_with('-')).collect();
    let is_quick = wanted.contains(&"quick");
    wanted.retain(|part| *part != "quick");
    if let Some(unknown) = wanted.iter().find(|part| !SCENARIOS.contains(part)) {
        eprintln!("there is no scenario {unknown}; there are: {}, and `quick`", SCENARIOS.join(", "));
        return ExitCode::FAILURE;
    }
    let services = match Service::all() {
        Ok(services) => services,
        Err(reason) => {
            eprintln!("the peers cannot be built: {reason}");
            return ExitCode::FAILURE;
        }
    };
    let mut scenarios = Scenarios::new(services, is_quick);
    for scenario in SCENARIOS {
        if wanted.is_empty() || wanted.contains(&scenario) {
            println!("{scenario} …");
            scenarios.run(scenario).await;
        }
    }
    let text = format!("{}\n\n{}", machine(), scenarios.report.markdown(&scenarios.services));
    let file = target().join("peers.md");
    fs::write(&file, &text).expect("the folder is there");
    println!("\n{text}\nThis is in {}.", file.display());
    ExitCode::SUCCESS
}

/// Returns a sentence that says what was measured, and where.
fn machine() -> String {
    let commit = first_line(Path::new("git"), &["rev-parse", "--short", "HEAD"]);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("of an unknown model", |(_, model)| model);
    let go = first_line(Path::new("go"), &["env", "GOVERSION"]);
    let python = first_line(&target().join("peers-python/bin/python"), &["--version"]);
    format!("Measured at commit `{commit}`, on {cores} cores ({model}), with {go} and {python}.")
}
