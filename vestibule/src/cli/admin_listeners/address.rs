//! The address of a replica's admin listener.

use crate::cli::{admin, audit::replica::ReplicaStatus, trust::Connector};
use axum::http::{Uri, uri::Scheme};
use rustls::pki_types::ServerName;
use std::{fmt, net::SocketAddr};
use time::OffsetDateTime;

const NOT_HTTP: &str = "it is not an http or https URL";

/// The address of a replica's admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReplicaAddress {
    scheme: Scheme,
    authority: String,
    /// The name that the address was found by, for which its certificate must be. `None` if it was given as it is.
    name: Option<ServerName<'static>>,
}

impl ReplicaAddress {
    /// Parses `http://host:port`, `https://host:port`, or `host:port`, which is http.
    ///
    /// # Errors
    /// The mistake in it. Never quotes the text: a URL may contain a password.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = url.parse().map_err(|_| "it is not a URL")?;
        let Some(scheme) = uri.scheme() else { return Err(NOT_HTTP) };
        if ![Scheme::HTTP, Scheme::HTTPS].contains(scheme) {
            return Err(NOT_HTTP);
        }
        let authority = match uri.authority() {
            Some(authority) => authority.as_str(),
            None => "",
        };
        if authority.contains('@') {
            return Err("it contains a user or a password, which are not allowed in it");
        }
        if uri.port_u16().is_none() {
            return Err("it has no port");
        }
        if let Some(path) = uri.path_and_query()
            && path != "/"
        {
            return Err("it does not end after the port");
        }
        Ok(Self { scheme: scheme.clone(), authority: authority.to_owned(), name: None })
    }

    /// Returns one of the addresses of the name in this URL.
    pub(super) fn found(&self, address: SocketAddr) -> Self {
        let name = ServerName::try_from(self.host().to_owned()).ok();
        Self { scheme: self.scheme.clone(), authority: address.to_string(), name }
    }

    /// Returns the host of the URL, without the brackets of an IPv6 address.
    pub(super) fn host(&self) -> &str {
        let host = self.authority.rsplit_once(':').map_or(&*self.authority, |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Returns the port of the URL.
    pub(super) fn port(&self) -> u16 {
        self.status_url().port_u16().expect("it was parsed before")
    }

    /// Returns the name that the certificate must be for, if the address was found by one.
    pub(in crate::cli) fn name(&self) -> Option<&ServerName<'static>> {
        self.name.as_ref()
    }

    /// Returns `true` if it is an https URL.
    pub(in crate::cli) fn is_https(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// Returns the URL of the replica's status.
    pub(crate) fn status_url(&self) -> Uri {
        self.url("/status")
    }

    /// Returns the URL of a path of the replica.
    pub(in crate::cli) fn url(&self, path: &str) -> Uri {
        format!("{self}{path}").parse().expect("it was parsed before")
    }

    /// Gets the status of the replica.
    ///
    /// # Errors
    /// The reason why there is no status, as text for people.
    #[expect(clippy::disallowed_methods, reason = "a status has no secret, and serde's message is dropped")]
    pub(in crate::cli) async fn status(&self, connector: Connector) -> Result<ReplicaStatus, String> {
        let answer = admin::get(self.status_url(), connector).await.map_err(|unreachable| unreachable.to_string())?;
        if !answer.status().is_success() {
            return Err(format!("it answers {}", answer.status()));
        }
        let status: ReplicaStatus = serde_json::from_str(answer.body())
            .map_err(|_| "the program that answers there is not a service of this framework")?;
        let status = status.by_our_clock(OffsetDateTime::now_utc());
        if status.has_nothing() {
            return Err("its status has no credentials".into());
        }
        Ok(status)
    }
}

impl fmt::Display for ReplicaAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_scheme_a_host_and_a_port() {
        for text in ["http://10.0.0.7:9090", "10.0.0.7:9090", "http://10.0.0.7:9090/", "HTTP://10.0.0.7:9090"] {
            assert_eq!(
                ReplicaAddress::parse(text).map(|address| address.to_string()),
                Ok("http://10.0.0.7:9090".into())
            );
        }
        for text in ["https://10.0.0.7:9090", "HTTPS://10.0.0.7:9090/"] {
            assert_eq!(
                ReplicaAddress::parse(text).map(|address| address.to_string()),
                Ok("https://10.0.0.7:9090".into())
            );
        }
        for text in ["svc-0.svc:9090", "[::1]:9090"] {
            assert_eq!(ReplicaAddress::parse(text).map(|address| address.to_string()), Ok(format!("http://{text}")));
        }
        for text in [
            "",
            "http://",
            "https://10.0.0.7",
            "ftp://10.0.0.7",
            "http://me:sentinel@10.0.0.7:9090",
            "http://10.0.0.7",
            "10.0.0.7:9090/status",
            "10.0.0.7:9090?",
            "10.0.0.7:port",
            "two words",
        ] {
            let error = ReplicaAddress::parse(text).map(|address| address.to_string()).expect_err(text);
            assert!(!error.contains("sentinel"), "{error}");
        }
    }
}
