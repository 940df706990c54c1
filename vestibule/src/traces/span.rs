//! A span that has begun, in the form in which it is sent.

use super::{query_summary::QuerySummary, tracer::Tracer};
use crate::trace_context::SpanParent;
use axum::http::Uri;
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{Span, SpanFlags, Status, span::SpanKind, status::StatusCode},
};
use std::{
    num::NonZeroU64,
    time::{Duration, Instant, SystemTime},
};

/// A span that has begun. It ends when it is dropped, and joins the queue then. If nobody has said by then how it ended, it
/// was abandoned: at a timeout, for example.
///
/// It has names, numbers and places: no query of a URL, no header, no value of a statement, no text of an error.
pub(crate) struct OpenSpan {
    tracer: Tracer,
    started: Instant,
    span: Span,
    /// `true` once it is known how it ended.
    is_over: bool,
}

impl OpenSpan {
    /// Begins the span with the ids of `own`.
    pub(super) fn begin(tracer: &Tracer, kind: SpanKind, own: SpanParent, parent: Option<NonZeroU64>) -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let span = Span {
            trace_id: own.trace_id.to_be_bytes().to_vec(),
            span_id: own.span_id.get().to_be_bytes().to_vec(),
            parent_span_id: parent.map(|id| id.get().to_be_bytes().to_vec()).unwrap_or_default(),
            // The lowest bit says that it is sampled.
            flags: 1 | SpanFlags::ContextHasIsRemoteMask as u32,
            kind: kind.into(),
            start_time_unix_nano: nanos(since_1970),
            ..Span::default()
        };
        Self { tracer: tracer.clone(), started: Instant::now(), span, is_over: false }
    }

    /// Says that the parent is a span of another process.
    pub(super) fn set_remote_parent(&mut self) {
        self.span.flags |= SpanFlags::ContextIsRemoteMask as u32;
    }

    pub(crate) fn set_name(&mut self, name: impl Into<String>) {
        self.span.name = name.into();
    }

    /// Names the span after a statement. Adds what the statement does, and on which table.
    pub(crate) fn describe_query(&mut self, sql: &str) {
        let summary = QuerySummary::of(sql);
        self.set("db.operation.name", summary.operation);
        if let Some(table) = &summary.table {
            self.set("db.collection.name", table);
        }
        let name = summary.to_string();
        self.set("db.query.summary", &name);
        self.set_name(name);
    }

    /// Adds the host of a URL. Leaves out the path, because some people keep a secret there.
    pub(crate) fn describe_target(&mut self, url: &Uri) {
        let is_tls = url.scheme_str() == Some("https");
        self.set("url.scheme", if is_tls { "https" } else { "http" });
        self.set("server.address", url.host().unwrap_or_default());
        self.set_number("server.port", url.port_u16().unwrap_or(if is_tls { 443 } else { 80 }));
    }

    pub(crate) fn set(&mut self, name: &'static str, text: &str) {
        self.add(attribute(name, text));
    }

    pub(crate) fn set_number(&mut self, name: &'static str, number: impl Into<i64>) {
        let value = Some(AnyValue { value: Some(Value::IntValue(number.into())) });
        self.add(KeyValue { key: name.into(), value, ..KeyValue::default() });
    }

    /// Records that it succeeded.
    pub(crate) fn succeed(&mut self) {
        self.is_over = true;
    }

    /// Records that it failed, and why: a word of a fixed list.
    pub(crate) fn fail(&mut self, error_type: &str) {
        self.is_over = true;
        self.set("error.type", error_type);
        self.span.status = Some(Status { code: StatusCode::Error.into(), message: String::new() });
    }

    fn add(&mut self, attribute: KeyValue) {
        self.span.attributes.push(attribute);
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        if !self.is_over {
            self.fail("abandoned");
        }
        let mut span = std::mem::take(&mut self.span);
        span.end_time_unix_nano = span.start_time_unix_nano.saturating_add(nanos(self.started.elapsed()));
        self.tracer.push(span);
    }
}

/// Returns an attribute with a text.
pub(super) fn attribute(name: &str, text: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(text.into())) });
    KeyValue { key: name.into(), value, ..KeyValue::default() }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
