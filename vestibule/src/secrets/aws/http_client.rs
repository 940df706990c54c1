//! The HTTP client of the AWS SDK, for the manager and for the platform's identity services.

use crate::cause::AtHost;
use aws_smithy_http_client::{Builder, ConnectorBuilder, proxy::ProxyConfig, tls};
use aws_smithy_runtime_api::client::{
    http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
    },
    orchestrator::HttpRequest,
    result::ConnectorError,
    runtime_components::RuntimeComponents,
};
use axum::http::Uri;

/// A client that sends requests without TLS past any proxy, and names the host in its errors.
///
/// A request without TLS goes to this machine (the metadata of an instance, the agent of a container, a stand-in). A
/// proxy would read the identity in its answer.
#[derive(Debug)]
pub(super) struct ManagerHttpClient {
    /// Uses `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    through_proxies: SharedHttpClient,
    direct: SharedHttpClient,
}

impl ManagerHttpClient {
    pub(super) fn new() -> Self {
        Self { through_proxies: client(ProxyConfig::from_env), direct: client(ProxyConfig::disabled) }
    }
}

impl HttpClient for ManagerHttpClient {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(SchemeConnector {
            https: self.through_proxies.http_connector(settings, components),
            http: self.direct.http_connector(settings, components),
        })
    }
}

/// Returns the SDK's own client, with these proxies.
fn client(proxies: fn() -> ProxyConfig) -> SharedHttpClient {
    Builder::new().build_with_connector_fn(move |settings, components| {
        let provider = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc);
        let mut builder = ConnectorBuilder::default().tls_provider(provider).proxy_config(proxies());
        builder.set_connector_settings(settings.cloned());
        builder.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        builder.build()
    })
}

/// A connector for each scheme.
#[derive(Debug)]
struct SchemeConnector {
    https: SharedHttpConnector,
    http: SharedHttpConnector,
}

impl HttpConnector for SchemeConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let uri: Uri = request.uri().parse().unwrap_or_default();
        let host = uri.authority().map(ToString::to_string).unwrap_or_default();
        let connector = if uri.scheme_str() == Some("https") { &self.https } else { &self.http };
        let answer = connector.call(request);
        HttpConnectorFuture::new(async move { answer.await.map_err(|error| at_host(host, error)) })
    }
}

/// Returns an error of the same class that names the host.
fn at_host(host: String, error: ConnectorError) -> ConnectorError {
    let (is_timeout, is_user, is_io, other) = (error.is_timeout(), error.is_user(), error.is_io(), error.as_other());
    let named = Box::new(AtHost { host, source: error.into_source() });
    if is_timeout {
        ConnectorError::timeout(named)
    } else if is_user {
        ConnectorError::user(named)
    } else if is_io {
        ConnectorError::io(named)
    } else {
        ConnectorError::other(named, other)
    }
}
