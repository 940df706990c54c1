//! The HTTP client of the AWS SDK, for the manager and for the platform's identity services.

use crate::cause::AtHost;
use aws_smithy_http_client::{
    Builder, ConnectorBuilder, HttpClientError,
    proxy::ProxyConfig,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::{
    http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
    },
    orchestrator::HttpRequest,
    result::ConnectorError,
    runtime_components::RuntimeComponents,
};
use axum::http::{Uri, uri::Authority};
use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::pki_types::CertificateDer;
use std::{env, io, net::IpAddr, sync::LazyLock};

/// A client that sends requests without TLS past any proxy, and names the host in its errors.
///
/// Without TLS, the metadata of an instance and the agent of a container answer with an identity, and a proxy would read
/// it.
#[derive(Debug)]
pub(super) struct ManagerHttpClient {
    plain: PlainHttp,
    /// Uses `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    through_proxies: SharedHttpClient,
    /// For requests without TLS.
    direct: SharedHttpClient,
}

impl ManagerHttpClient {
    /// Makes a client that trusts these authorities, at least one.
    pub(super) fn new(authorities: &[CertificateDer<'_>], plain: PlainHttp) -> Result<Self, HttpClientError> {
        let trusted = TrustStore::empty().with_pem_certificate(pem(authorities));
        let tls = |trusted| TlsContext::builder().with_trust_store(trusted).build();
        Ok(Self {
            plain,
            through_proxies: client(tls(trusted)?, ProxyConfig::from_env),
            direct: client(tls(TrustStore::empty())?, ProxyConfig::disabled),
        })
    }
}

/// The places to which requests without TLS may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlainHttp {
    /// This machine and its link: the instance metadata, and the agent of a container.
    ToAgents,
    Anywhere,
}

impl PlainHttp {
    fn allows(self, uri: &Uri) -> bool {
        // RFC 3927 for IPv4; AWS has its IPv6 addresses in fd00:ec2::/32 (*Instance metadata*, *Pod Identity*).
        let host = uri.host().unwrap_or_default();
        self == Self::Anywhere
            || match host.trim_start_matches('[').trim_end_matches(']').parse() {
                Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_link_local(),
                Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.segments()[..2] == [0xfd00, 0x0ec2],
                Err(_) => host == "localhost",
            }
    }
}

/// Encodes certificates as the SDK takes them.
fn pem(certificates: &[CertificateDer<'_>]) -> String {
    let mut pem = String::new();
    for certificate in certificates {
        let base64 = STANDARD.encode(certificate);
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        for start in (0..base64.len()).step_by(64) {
            pem.push_str(&base64[start..base64.len().min(start + 64)]);
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem
}

impl HttpClient for ManagerHttpClient {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        let (client, of_https, components_of_https) =
            (self.through_proxies.clone(), settings.clone(), components.clone());
        let https = move || client.http_connector(&of_https, &components_of_https);
        SharedHttpConnector::new(SchemeConnector {
            plain: self.plain,
            https: LazyLock::new(Box::new(https)),
            http: self.direct.http_connector(settings, components),
        })
    }
}

/// Returns the SDK's own client, with these authorities and proxies.
fn client(tls: TlsContext, proxies: fn() -> ProxyConfig) -> SharedHttpClient {
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut builder = ConnectorBuilder::default()
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .tls_context(tls.clone())
            .proxy_config(proxies());
        builder.set_connector_settings(settings.cloned());
        builder.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        builder.build()
    })
}

type MakeConnector = Box<dyn FnOnce() -> SharedHttpConnector + Send + Sync>;

/// A connector for each scheme.
#[derive(Debug)]
struct SchemeConnector {
    plain: PlainHttp,
    /// Made at the first request with TLS, because it reads all authorities.
    https: LazyLock<SharedHttpConnector, MakeConnector>,
    http: SharedHttpConnector,
}

impl HttpConnector for SchemeConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let uri: Uri = request.uri().parse().unwrap_or_default();
        // Without a user, whose password an error would show.
        let authority = uri.authority().map(Authority::as_str).unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default().to_owned();
        let is_https = uri.scheme_str() == Some("https");
        // The failure may be the proxy's.
        let host = match proxy_variable() {
            Some(name) if is_https => format!("{host} ({name} is set)"),
            _ => host,
        };
        let connector = if is_https { &*self.https } else { &self.http };
        if !is_https && !self.plain.allows(&uri) {
            let refused = ConnectorError::user(io::Error::other("the endpoint has no TLS, and must have it").into());
            return HttpConnectorFuture::ready(Err(at_host(host, refused)));
        }
        let answer = connector.call(request);
        HttpConnectorFuture::new(async move { answer.await.map_err(|error| at_host(host, error)) })
    }
}

/// Returns the name of the variable that names a proxy for HTTPS, if there is one.
fn proxy_variable() -> Option<&'static str> {
    #[expect(clippy::disallowed_methods, reason = "the variables are the platform's, and no settings of ours")]
    let is_set = |name: &&str| env::var_os(name).is_some_and(|value| !value.is_empty());
    ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"].into_iter().find(is_set)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_without_tls_goes_to_agents_of_this_machine_only() {
        for uri in
            ["http://169.254.169.254/latest", "http://[fd00:ec2::23]/v1", "http://127.0.0.1:8080", "http://[::1]/"]
        {
            assert!(PlainHttp::ToAgents.allows(&uri.parse().unwrap()), "{uri}");
        }
        for uri in ["http://sts.eu-west-1.amazonaws.com/", "http://10.0.0.7/", "http://[fd00::23]/"] {
            let uri = uri.parse().unwrap();
            assert!(!PlainHttp::ToAgents.allows(&uri) && PlainHttp::Anywhere.allows(&uri), "{uri}");
        }
    }
}
