//! The exporter: it sends batches of spans to a collector, over OTLP with protobuf.
//!
//! It calls the collector as a service calls another one ([`ApiClient`]). So the key rotates without a restart, and a
//! collector that rejects it causes a reload. Its own calls have no parent, and so no spans.

use super::{span::attribute, tracer::Tracer};
use crate::{
    application::{Application, Build},
    cause::reasons,
    config::settings::traces::TracesConfig,
    credentials::api_key::ApiKey,
    package::Package,
    resources::{
        api_client::{
            ApiClient,
            endpoint::{ApiEndpoint, KeyHeader},
        },
        build_error::BuildError,
    },
    secrets::credential::Credential,
};
use axum::{
    body::Bytes,
    http::{Request, Response, StatusCode, header},
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::InstrumentationScope,
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message;
use std::sync::Arc;

/// The exporter of a generation.
pub(crate) struct Exporter {
    client: ApiClient,
    /// The attributes of this process.
    resource: Resource,
    pub(super) config: TracesConfig,
}

impl Exporter {
    /// Makes the exporter of a configuration. `None` if traces are off. It shares with `before`, the one in service, what
    /// is the same. The tracer uses it when its generation is published.
    ///
    /// # Errors
    /// As [`Build::client`].
    pub(crate) async fn open<A: Application>(
        cx: &Build<'_, A>,
        config: &TracesConfig,
        key: Option<&Credential<ApiKey>>,
        before: Option<&Arc<Self>>,
        tracer: &Tracer,
    ) -> Result<Option<Arc<Self>>, BuildError> {
        let Some(url) = &config.endpoint else { return Ok(None) };
        let endpoint = ApiEndpoint {
            timeout: config.timeout,
            key_header: config.key_header.clone().map_or(KeyHeader::Bearer, KeyHeader::Configured),
            rejects_key_with_403: true,
            ..ApiEndpoint::at(url.clone())
        };
        let client = match key {
            Some(key) => cx.client(key, &endpoint).await?,
            // The collector is on this machine, most often.
            None => cx.keyless_client(&endpoint, before.map(|before| &before.client)).await?,
        };
        let resource = resource(&A::PACKAGE, config, tracer);
        Ok(Some(Arc::new(Self { client, resource, config: config.clone() })))
    }

    /// Returns `true` if this is the exporter that a configuration asks for. `None` is the one if traces are off.
    pub(crate) fn is_of(exporter: Option<&Arc<Self>>, config: &TracesConfig) -> bool {
        match exporter {
            Some(exporter) => exporter.config == *config,
            None => config.endpoint.is_none(),
        }
    }

    /// Sends a batch. Returns the number of spans that the collector refused.
    ///
    /// # Errors
    /// The reason, if the collector did not take the batch.
    pub(super) async fn send(&self, spans: Vec<Span>) -> Result<u64, String> {
        let scope = InstrumentationScope {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..InstrumentationScope::default()
        };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
        let resource = Some(self.resource.clone());
        let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
        let batch = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        let request = Request::post("/")
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            // OTLP allows to send a batch twice, and the client does so only with this.
            .header("idempotency-key", fastrand::u64(..))
            .body(Bytes::from(batch))
            .expect("it is a request");
        refused(&self.client.send(request).await.map_err(|error| reasons(&error))?)
    }
}

/// Returns the number of spans that a response refuses.
///
/// # Errors
/// The status, if it refuses the whole batch.
fn refused(response: &Response<Bytes>) -> Result<u64, String> {
    match response.status() {
        StatusCode::OK => {}
        status if status.is_success() => return Ok(0),
        status => return Err(format!("the answer is {}", status.as_u16())),
    }
    // A body that is no message says nothing of refused spans.
    let answer = ExportTraceServiceResponse::decode(response.body().clone()).unwrap_or_default();
    Ok(answer.partial_success.map_or(0, |partial| u64::try_from(partial.rejected_spans).unwrap_or_default()))
}

/// Returns the attributes of this process.
fn resource(package: &Package, config: &TracesConfig, tracer: &Tracer) -> Resource {
    let mut attributes = vec![
        attribute("service.name", package.name),
        attribute("service.version", package.version),
        attribute("service.instance.id", &tracer.instance().to_string()),
        attribute("telemetry.sdk.language", "rust"),
        attribute("telemetry.sdk.name", env!("CARGO_PKG_NAME")),
        attribute("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
    ];
    attributes.extend(config.attributes.iter().map(|own| attribute(&own.name, &own.value)));
    Resource { attributes, ..Resource::default() }
}
