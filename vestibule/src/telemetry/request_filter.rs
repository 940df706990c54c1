//! The filter of the log: the configured one, and what it also lets through for a request with a debug token.

use crate::request_context::RequestContext;
use tracing::{
    Level, Metadata,
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
    subscriber::Interest,
};
use tracing_subscriber::{EnvFilter, Layer, Registry, layer::Context, reload};

/// The configured filter. While a request with a debug token runs, debug events of the service and of the framework pass
/// too. Those of other crates do not: a library may log a header or a row at debug.
///
/// Only the call sites of these two crates are asked each time. Those that the configured filter turns off in other crates
/// cost as little as without this filter.
pub(super) struct RequestFilter {
    configured: reload::Layer<EnvFilter, Registry>,
    /// The crate of the service.
    service: &'static str,
}

impl RequestFilter {
    pub(super) fn new(configured: reload::Layer<EnvFilter, Registry>, module: &'static str) -> Self {
        Self { configured, service: crate_of(module) }
    }

    /// Returns `true` for what a debug token can turn on.
    fn is_ours(&self, metadata: &Metadata<'_>) -> bool {
        let of_crate = crate_of(metadata.target());
        *metadata.level() <= Level::DEBUG && (of_crate == "vestibule" || of_crate == self.service)
    }
}

impl Layer<Registry> for RequestFilter {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        let interest = self.configured.register_callsite(metadata);
        if interest.is_never() && self.is_ours(metadata) { Interest::sometimes() } else { interest }
    }

    fn enabled(&self, metadata: &Metadata<'_>, cx: Context<'_, Registry>) -> bool {
        let is_for_request = RequestContext::current().is_some_and(|request| request.debug) && self.is_ours(metadata);
        is_for_request || self.configured.enabled(metadata, cx)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.configured.max_level_hint()?.max(LevelFilter::DEBUG))
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, cx: Context<'_, Registry>) {
        self.configured.on_new_span(attributes, id, cx);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, cx: Context<'_, Registry>) {
        self.configured.on_record(id, values, cx);
    }

    fn on_enter(&self, id: &Id, cx: Context<'_, Registry>) {
        self.configured.on_enter(id, cx);
    }

    fn on_exit(&self, id: &Id, cx: Context<'_, Registry>) {
        self.configured.on_exit(id, cx);
    }

    fn on_close(&self, id: Id, cx: Context<'_, Registry>) {
        self.configured.on_close(id, cx);
    }
}

/// Returns the first part of a path.
fn crate_of(path: &str) -> &str {
    path.split("::").next().unwrap_or_default()
}
