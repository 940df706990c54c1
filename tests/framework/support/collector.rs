//! A collector of traces: it takes spans over OTLP.

use crate::SERVICE;
use devstack::{Launch, Receiver, Tenant, eventually};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message;
use std::collections::BTreeMap;

/// A collector of traces. It accepts the keys of the tenant's credential `otlp`.
pub(crate) struct Collector(pub(crate) Receiver);

/// A span, as the collector sees it.
#[derive(Clone, Debug)]
pub(crate) struct CollectedSpan {
    pub(crate) span: Span,
    /// The attributes as texts.
    pub(crate) attributes: BTreeMap<String, String>,
    /// The attributes of the process.
    pub(crate) resource: BTreeMap<String, String>,
}

impl Collector {
    /// Puts a key at the manager, and starts a collector that accepts it.
    pub(crate) async fn start(tenant: &Tenant) -> Self {
        tenant.put_random("otlp", "api_key").await.expect("the manager stores it");
        let receiver = Receiver::start().expect("a port");
        receiver.accept_keys_of(tenant, "otlp");
        Self(receiver)
    }

    /// Prepares the service with this collector.
    pub(crate) fn launch(&self, tenant: &Tenant, sample_ratio: &str) -> Launch {
        self.configure(SERVICE.launch(tenant), tenant, sample_ratio)
    }

    /// Lets a service send its spans to this collector.
    pub(crate) fn configure(&self, launch: Launch, tenant: &Tenant, sample_ratio: &str) -> Launch {
        launch
            .env("APP_TRACES__ENDPOINT", format!("http://{}/v1/traces", self.0.address()))
            .env("APP_TRACES__SAMPLE_RATIO", sample_ratio)
            .env("APP_SECRETS__IDS__OTLP", tenant.id("otlp"))
    }

    /// Returns the spans that were taken.
    pub(crate) fn spans(&self) -> Vec<CollectedSpan> {
        self.0.deliveries().iter().flat_map(|delivery| spans(&delivery.body)).collect()
    }

    /// Waits until the spans meet a condition, and returns them.
    #[track_caller]
    pub(crate) fn wait_until(
        &self,
        what: &str,
        condition: impl Fn(&[CollectedSpan]) -> bool,
    ) -> impl Future<Output = Vec<CollectedSpan>> {
        eventually(what, async move || {
            let spans = self.spans();
            if condition(&spans) { Ok(spans) } else { Err(format!("{spans:#?} {:?}", self.0.requests())) }
        })
    }
}

impl CollectedSpan {
    /// Returns an attribute, empty if it is missing.
    pub(crate) fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }

    /// Returns `true` if `other` is the parent of this span.
    pub(crate) fn is_child_of(&self, other: &Self) -> bool {
        self.span.trace_id == other.span.trace_id && self.span.parent_span_id == other.span.span_id
    }

    /// Returns the `traceparent` that names this span.
    pub(crate) fn traceparent(&self) -> String {
        format!("00-{}-{}-01", hex(&self.span.trace_id), hex(&self.span.span_id))
    }
}

/// Returns the only span of this name.
///
/// # Panics
/// If there is none, or more than one.
#[track_caller]
pub(crate) fn only<'a>(spans: &'a [CollectedSpan], name: &str) -> &'a CollectedSpan {
    let found: Vec<_> = spans.iter().filter(|span| span.span.name == name).collect();
    assert_eq!(found.len(), 1, "{name} in {spans:#?}");
    found[0]
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn spans(body: &[u8]) -> Vec<CollectedSpan> {
    let request = ExportTraceServiceRequest::decode(body).expect("OTLP");
    let mut spans = Vec::new();
    for of_resource in request.resource_spans {
        let resource = texts(&of_resource.resource.expect("a resource").attributes);
        for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push(CollectedSpan { attributes: texts(&span.attributes), span, resource: resource.clone() });
        }
    }
    spans
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}
