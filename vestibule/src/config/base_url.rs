//! The URL of another service.

use super::units;
use axum::http::{
    Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, net::IpAddr};

/// The URL of another service, as a setting.
///
/// It is `https://…`, because requests carry a key. `http://…` is allowed only to this machine. The URL has no user, no
/// query and no fragment, because these often hold a credential.
///
/// ```
/// use vestibule::config::BaseUrl;
///
/// let url = BaseUrl::parse("https://payments.example/v1").expect("a URL with TLS");
/// assert_eq!(url.authority(), "payments.example");
/// assert!(BaseUrl::parse("http://payments.example/v1").is_none());
/// assert!(BaseUrl::parse("http://localhost:9000").is_some());
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct BaseUrl(Uri);

impl BaseUrl {
    const EXPECTED: &str = "a URL such as \"https://example.com/hook\" without user, query or fragment; http:// only to \
         this machine";

    /// Parses such a URL. Returns `None` if the text is none.
    pub fn parse(text: &str) -> Option<Self> {
        // A `Uri` drops the fragment silently.
        if text.contains('#') {
            return None;
        }
        let uri: Uri = text.parse().ok()?;
        let authority = uri.authority()?;
        let host = authority.host();
        let is_safe = match uri.scheme_str()? {
            "https" => true,
            "http" => is_this_machine(host),
            _ => false,
        };
        if is_safe && is_valid_host(host) && has_valid_port(authority, host) && uri.query().is_none() {
            Some(Self(uri))
        } else {
            None
        }
    }

    /// Returns the host, and the port if the URL names one: for messages.
    pub fn authority(&self) -> &str {
        match self.0.authority() {
            Some(authority) => authority.as_str(),
            None => "",
        }
    }

    pub(crate) fn is_https(&self) -> bool {
        self.0.scheme() == Some(&Scheme::HTTPS)
    }

    /// Returns the URL of `reference` below this one. `reference` is a path, perhaps with a query; `/` alone is this URL.
    /// Returns `None` if it names another place.
    pub(crate) fn join(&self, reference: &Uri) -> Option<Uri> {
        if reference.authority().is_some() || !reference.path().starts_with('/') {
            return None;
        }
        let (base, below) = (self.0.path(), reference.path_and_query()?.as_str());
        let path = match below.strip_prefix('/')? {
            "" => base.to_owned(),
            query if query.starts_with('?') => format!("{base}{query}"),
            _ => format!("{}{below}", base.trim_end_matches('/')),
        };
        let mut parts = self.0.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
        Uri::from_parts(parts).ok()
    }
}

/// Returns `true` if a host is this machine.
fn is_this_machine(host: &str) -> bool {
    let name = without_brackets(host);
    match name.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

/// Returns `true` if a host is a name or an address that a client can connect to.
fn is_valid_host(host: &str) -> bool {
    let name = without_brackets(host);
    if host.starts_with('[') && name.parse::<IpAddr>().is_ok() {
        return true;
    }
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

/// Returns `true` if nothing but a valid port, or nothing at all, is around the host. So a user is refused too:
/// `user@host` does not begin with the host, and after the first `host` of `host@host` comes no port.
fn has_valid_port(authority: &Authority, host: &str) -> bool {
    let Some(rest) = authority.as_str().strip_prefix(host) else { return false };
    if rest.is_empty() {
        return true;
    }
    let Some(port) = rest.strip_prefix(':') else { return false };
    port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Returns a host without the brackets of an IPv6 address.
fn without_brackets(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Leaves out the path, because some people keep a secret there.
impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BaseUrl").field(&self.authority()).finish()
    }
}

impl Serialize for BaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for BaseUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        units::text(deserializer, Self::EXPECTED, Self::parse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_travels_by_https_or_stays_on_this_machine() {
        for url in [
            "https://example.com",
            "https://example.com:8443/hook/",
            "https://[2001:db8::1]:8443/hook",
            "http://localhost:9000/hook",
            "http://127.0.0.1:9000",
            "http://127.1.2.3/",
            "http://[::1]:9000/hook",
            "HTTPS://EXAMPLE.com/x",
        ] {
            assert!(BaseUrl::parse(url).is_some(), "{url}");
        }
        for url in [
            "",
            "/hook",
            "example.com",
            "example.com/hook",
            "ftp://example.com/",
            "http://example.com/hook",
            "http://10.0.0.1/",
            "http://localhost.example.com/",
            "http://127.0.0.1.example.com/",
            "https://user@example.com/",
            "https://user:word@example.com/",
            "http://127.0.0.1@example.com/",
            "https://example.com/#here",
            "https://example.com/hook?sig=abc",
            "https://example.com:99999/",
            "https://example.com:0/",
            "https://:443/",
            "https://exa mple.com/",
            "https://%65xample.com/",
        ] {
            assert!(BaseUrl::parse(url).is_none(), "{url}");
        }
    }

    #[test]
    fn a_path_is_joined_and_never_leads_to_another_host() {
        let joined = |base, reference: &str| {
            let reference = reference.parse::<Uri>().unwrap();
            BaseUrl::parse(base).unwrap().join(&reference).map(|uri| uri.to_string())
        };
        for (base, reference, url) in [
            ("https://a.example", "/", "https://a.example/"),
            ("https://a.example/hook", "/", "https://a.example/hook"),
            ("https://a.example/hook", "/?a=b", "https://a.example/hook?a=b"),
            ("https://a.example/hook/", "/v1/items?a=b", "https://a.example/hook/v1/items?a=b"),
            ("https://a.example:8443", "/v1", "https://a.example:8443/v1"),
            ("https://a.example", "//b.example/v1", "https://a.example//b.example/v1"),
        ] {
            assert_eq!(joined(base, reference).as_deref(), Some(url), "{base} {reference}");
        }
        for reference in ["https://b.example/", "http://a.example/", "b.example", "b.example:80", "*"] {
            assert_eq!(joined("https://a.example", reference), None, "{reference}");
        }
    }
}
