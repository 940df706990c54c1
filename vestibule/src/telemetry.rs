//! The log, and what must not leave the process: core dumps.

use crate::{
    config::{self, settings::LogFormat},
    exit::{Phase, Report},
};
use std::{
    any::Any,
    io::{IsTerminal, Write},
};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt};

/// The installed log, whose filter a reload may change.
pub(crate) struct Telemetry {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Telemetry {
    /// Installs the log on standard output. Once a process.
    pub(crate) fn install(config: &config::TelemetryConfig) -> Self {
        let (filter, handle) = reload::Layer::new(EnvFilter::new(&config.filter));
        let format = match config.format {
            LogFormat::Json => fmt::layer().json().with_current_span(false).with_span_list(false).boxed(),
            LogFormat::Pretty => fmt::layer().with_ansi(std::io::stdout().is_terminal()).boxed(),
        };
        // Fails where a log is installed already, as in a test: then that one counts.
        let _ = tracing_subscriber::registry().with(filter).with(format).try_init();
        Self { filter: handle }
    }

    /// Takes up another filter, which was checked when the configuration was read.
    pub(crate) fn filter(&self, filter: &str) {
        let _ = self.filter.reload(EnvFilter::new(filter));
    }
}

/// Sends panics to the log, or to standard error while there is none.
pub(crate) fn tell_of_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        let message = harmless(panic.payload());
        if tracing::dispatcher::has_been_set() {
            tracing::error!(panic.location = location, panic.message = message, "a task panicked");
        } else {
            let _ = writeln!(std::io::stderr(), "a task panicked at {location}: {message}");
        }
    }));
}

/// A literal. Formatted text may quote anything: an `unwrap` of a parser's error quotes the secret that it parsed.
fn harmless(payload: &dyn Any) -> &'static str {
    payload.downcast_ref::<&'static str>().copied().unwrap_or("left out, since formatted text may quote a secret")
}

/// Tells of a failed start: once for people on standard error, and once as an event where the log is JSON.
pub(crate) fn tell(report: &Report, format: LogFormat) {
    // With nobody to read it, the exit code still tells.
    let _ = writeln!(std::io::stderr(), "{report}");
    if format == LogFormat::Json {
        let faults: Vec<_> = report
            .faults()
            .iter()
            .map(|fault| {
                serde_json::json!({
                    "exit_code": fault.exit as u8,
                    "subject": fault.subject,
                    "problem": fault.problem,
                    "remedy": fault.remedy,
                })
            })
            .collect();
        let (exit_code, faults) = (report.exit() as u8, serde_json::Value::from(faults));
        match report.phase {
            Phase::Serve => tracing::error!(exit_code, %faults, "the service failed"),
            Phase::Command => tracing::error!(exit_code, %faults, "the command failed"),
            phase => tracing::error!(%phase, exit_code, %faults, "the start failed"),
        }
    }
}

/// Keeps credentials out of core dumps and away from debuggers of the same user.
pub(crate) fn no_core_dumps() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let limited = setrlimit(Resource::Core, none).is_ok();
    #[cfg(target_os = "linux")]
    let limited =
        limited && rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).is_ok();
    if !limited {
        tracing::warn!("core dumps could not be turned off: a crash may write credentials to disk");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_tells_what_was_written_in_the_source_and_no_more() {
        assert_eq!(harmless(&"no room"), "no room");
        let parsed = serde_json::from_str::<u16>("\"sentinel\"").expect_err("it is text");
        let payload: Box<dyn Any> = Box::new(format!("called `Result::unwrap()` on an `Err` value: {parsed:?}"));
        assert!(!harmless(&*payload).contains("sentinel"));
    }
}
