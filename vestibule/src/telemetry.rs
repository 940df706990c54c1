//! The log, and the report of a command that failed.
//!
//! ```text
//! event ─► filter ─► layer ─► line ─► LogBuffer ─► thread: LogWriter ─► standard output
//!                                        └─ full: dropped, and counted
//! ```

pub(crate) mod escape;
pub(crate) mod live_secrets;
pub(crate) mod panics;
pub(crate) mod standard_error;

mod buffer;
mod json;
mod request_filter;
mod secret_filter;
#[cfg(test)]
mod tests;
mod text;
mod writer;

use self::{
    buffer::LogBuffer, json::JsonLayer, request_filter::RequestFilter, text::TextWriter, writer::StandardOutput,
};
use crate::{
    config::{
        settings::{LogFormat, TelemetryConfig},
        units,
    },
    exit::{Phase, Report},
    metrics::{Counter, MetricsRegistry},
    package::Package,
};
use std::{
    io::{self, IsTerminal},
    sync::{Arc, OnceLock},
    time::Duration,
};
use tracing::level_filters::LevelFilter;
use tracing_log::{AsLog, log};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt};

/// The longest time that the end of the process waits for the log.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// The buffer of the installed log. Signal handlers need it, and nothing can be passed to them.
static INSTALLED: OnceLock<Arc<LogBuffer>> = OnceLock::new();

/// The installed log. A reload may change its filter.
pub(crate) struct Telemetry {
    filter: reload::Handle<EnvFilter, Registry>,
    buffer: Arc<LogBuffer>,
}

impl Telemetry {
    /// Installs the log of this package's process on standard output. Call it once per process.
    ///
    /// # Errors
    /// If the operating system has no thread for it. Then there is no log.
    pub(crate) fn install(config: &TelemetryConfig, package: &Package) -> io::Result<Self> {
        let configured = filter(&config.filter);
        let of_log_crate = level_of_log_crate(&configured);
        let (configured, handle) = reload::Layer::new(configured);
        let filter = RequestFilter::new(configured, package.module);
        let buffer = Arc::<LogBuffer>::default();
        let format = match config.format {
            LogFormat::Json => JsonLayer::new(buffer.clone()).boxed(),
            LogFormat::Pretty => {
                let writer = TextWriter::new(buffer.clone());
                fmt::layer().with_ansi(io::stdout().is_terminal()).with_writer(writer).boxed()
            }
        };
        // Fails if a log is installed already, as in a test. Then that log stays.
        if tracing_subscriber::registry().with(filter).with(format).try_init().is_ok() {
            log::set_max_level(of_log_crate);
            writer::start(buffer.clone(), config.format, StandardOutput)?;
            let _ = INSTALLED.set(buffer.clone());
        }
        Ok(Self { filter: handle, buffer })
    }

    /// Makes the telemetry of a service without a process, which has no log of its own.
    pub(crate) fn detached() -> Self {
        let (_, filter) = reload::Layer::new(EnvFilter::default());
        Self { filter, buffer: Arc::default() }
    }

    /// Replaces the filter. The configuration has checked it already.
    pub(crate) fn set_filter(&self, directives: &str) {
        let filter = filter(directives);
        let of_log_crate = level_of_log_crate(&filter);
        if self.filter.reload(filter).is_ok() {
            log::set_max_level(of_log_crate);
        }
    }

    /// Returns the number of lines that were withheld.
    pub(crate) fn withheld(&self) -> Counter {
        self.buffer.counters.withheld.clone()
    }

    /// Registers the metrics of the log.
    pub(crate) fn register(&self, metrics: &MetricsRegistry) {
        self.buffer.counters.register(metrics);
    }
}

/// Returns a JSON layer whose thread drops the lines, for benchmarks.
///
/// # Errors
/// If the operating system has no further thread.
pub(crate) fn discarding() -> io::Result<JsonLayer> {
    let buffer = Arc::<LogBuffer>::default();
    writer::start(buffer.clone(), LogFormat::Json, io::sink())?;
    Ok(JsonLayer::new(buffer))
}

/// Waits until the log has all lines, for a second at most. Call it before the process ends. A signal handler may call it.
pub(crate) fn flush() {
    if let Some(buffer) = INSTALLED.get() {
        buffer.wait_until_written(FLUSH_LIMIT);
    }
}

/// Returns a filter with these directives. The AWS SDK's own lines about the identity are off unless a directive names
/// them: they repeat each error of ours, with the whole answer of the other side.
fn filter(directives: &str) -> EnvFilter {
    let off = if directives.contains("aws_config") { "" } else { ",aws_config=off" };
    units::filter::parse(&format!("{directives}{off}")).unwrap_or_default()
}

/// Returns the level of the crate `log`. Its events are of libraries, for which a debug token does nothing.
fn level_of_log_crate(filter: &EnvFilter) -> log::LevelFilter {
    filter.max_level_hint().unwrap_or(LevelFilter::TRACE).as_log()
}

/// Reports a command that failed: as text on standard error, and also as one event if the log's format is JSON.
pub(crate) fn report_failure(report: &Report, format: LogFormat) {
    // If nobody can read standard error, the exit code still says that it failed.
    standard_error::write_line(&report.to_string());
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
