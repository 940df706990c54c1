//! The log, and the report of a command that failed.

pub(crate) mod panics;

use crate::{
    config::{
        settings::{LogFormat, TelemetryConfig},
        units,
    },
    exit::{Phase, Report},
};
use std::io::{IsTerminal, Write};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt};

/// The installed log. A reload may change its filter.
pub(crate) struct Telemetry {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Telemetry {
    /// Installs the log on standard output. Call it once per process.
    pub(crate) fn install(config: &TelemetryConfig) -> Self {
        let (filter, handle) = reload::Layer::new(filter(&config.filter));
        let format = match config.format {
            LogFormat::Json => fmt::layer().json().with_current_span(false).with_span_list(false).boxed(),
            LogFormat::Pretty => fmt::layer().with_ansi(std::io::stdout().is_terminal()).boxed(),
        };
        // Fails if a log is installed already, as in a test. Then that log stays.
        let _ = tracing_subscriber::registry().with(filter).with(format).try_init();
        Self { filter: handle }
    }

    /// Makes the telemetry of a service without a process, which has no log of its own.
    pub(crate) fn detached() -> Self {
        let (_, filter) = reload::Layer::new(EnvFilter::default());
        Self { filter }
    }

    /// Replaces the filter. The configuration has checked it already.
    pub(crate) fn set_filter(&self, directives: &str) {
        let _ = self.filter.reload(filter(directives));
    }
}

/// Returns a filter with these directives. The AWS SDK's own lines about the identity are off unless a directive names
/// them: they repeat each error of ours, with the whole answer of the other side.
fn filter(directives: &str) -> EnvFilter {
    let off = if directives.contains("aws_config") { "" } else { ",aws_config=off" };
    units::filter::parse(&format!("{directives}{off}")).unwrap_or_default()
}

/// Reports a command that failed: as text on standard error, and also as one event if the log's format is JSON.
pub(crate) fn report_failure(report: &Report, format: LogFormat) {
    // If nobody can read standard error, the exit code still says that it failed.
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
