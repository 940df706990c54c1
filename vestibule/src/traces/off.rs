//! The types of a program that was built without the feature `otlp`. No span is ever made.

use super::ChildKind;
use crate::{
    application::{Application, Build},
    config::settings::traces::TracesConfig,
    credentials::api_key::ApiKey,
    metrics::MetricsRegistry,
    resources::build_error::BuildError,
    secrets::credential::Credential,
    trace_context::SpanParent,
};
use axum::http::{HeaderMap, Uri};
use std::{
    future::{Ready, ready},
    sync::Arc,
};
use tokio_util::sync::CancellationToken;

/// A tracer that makes no spans.
#[derive(Clone)]
pub(crate) struct NoTracer;

/// A span that cannot be.
pub(crate) enum NoSpan {}

/// An exporter that cannot be.
pub(crate) enum NoExporter {}

impl NoTracer {
    pub(crate) fn register(_: &MetricsRegistry) -> Self {
        Self
    }

    pub(crate) fn begin_request(&self, _: SpanParent, _: Option<SpanParent>) -> Option<NoSpan> {
        None
    }

    pub(crate) fn begin_child(&self, _: ChildKind) -> Option<NoSpan> {
        None
    }

    pub(crate) fn begin_call(&self, _: &mut HeaderMap) -> Option<NoSpan> {
        None
    }

    pub(crate) fn publish(&self, _: Option<&Arc<NoExporter>>) {}

    pub(crate) fn export(self, _: impl Fn() -> Option<Arc<NoExporter>>, _: CancellationToken) -> Ready<()> {
        ready(())
    }
}

impl NoSpan {
    pub(crate) fn set_name(&mut self, _: impl Into<String>) {
        match *self {}
    }

    pub(crate) fn describe_query(&mut self, _: &str) {
        match *self {}
    }

    pub(crate) fn describe_target(&mut self, _: &Uri) {
        match *self {}
    }

    pub(crate) fn set(&mut self, _: &'static str, _: &str) {
        match *self {}
    }

    pub(crate) fn set_number(&mut self, _: &'static str, _: impl Into<i64>) {
        match *self {}
    }

    pub(crate) fn succeed(&mut self) {
        match *self {}
    }

    pub(crate) fn fail(&mut self, _: &str) {
        match *self {}
    }
}

impl NoExporter {
    pub(crate) fn open<A: Application>(
        _: &Build<'_, A>,
        _: &TracesConfig,
        _: Option<&Credential<ApiKey>>,
        _: Option<&Arc<Self>>,
        _: &NoTracer,
    ) -> Ready<Result<Option<Arc<Self>>, BuildError>> {
        ready(Ok(None))
    }

    pub(crate) fn is_of(_: Option<&Arc<Self>>, _: &TracesConfig) -> bool {
        true
    }
}
