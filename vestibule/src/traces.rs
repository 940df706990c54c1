//! Traces over OTLP: the spans of sampled requests. They are on if `traces.endpoint` is set.
//!
//! ```text
//! request ─► sampler ─► span of the request ──────────┐
//!                └─ sampled: database, API client ────┴─► queue ─► exporter ─► collector
//!                                                           └─ full: dropped, and counted
//! ```
//!
//! The spans are made here, in the form in which they are sent, and not by `tracing`: a request that is not sampled pays
//! for an id and a decision. The queue and the batches are ours too: those of OpenTelemetry's SDK run on a thread without
//! a reactor, where an HTTP client panics (opentelemetry-rust 3125), and do not say what they drop.

#[cfg(feature = "otlp")]
mod exporter;
#[cfg(not(feature = "otlp"))]
mod off;
#[cfg(feature = "otlp")]
mod query_summary;
mod sampler;
#[cfg(feature = "otlp")]
mod span;
#[cfg(feature = "otlp")]
mod tracer;

#[cfg(not(feature = "otlp"))]
pub(crate) use self::off::{NoExporter as Exporter, NoSpan as OpenSpan, NoTracer as Tracer};
pub(crate) use self::sampler::{SampledBy, Sampler};
#[cfg(feature = "otlp")]
pub(crate) use self::{exporter::Exporter, span::OpenSpan, tracer::Tracer};

/// The relation of a span to its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChildKind {
    /// A call of another program.
    Call,
    /// A wait within this process.
    Wait,
}
