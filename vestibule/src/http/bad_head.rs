//! The response to a request whose head breaks RFC 9112, in points that hyper does not check.

use axum::http::{
    HeaderValue, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_TYPE, HOST, TRANSFER_ENCODING},
    uri::Authority,
};

/// The reason for which a request is refused before anybody else sees it. The connection ends with the response, because
/// the next hop and we may not agree on the place where the request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadHead {
    status: StatusCode,
    detail: &'static str,
}

impl BadHead {
    /// A client that used `http` in place of `https`.
    pub(super) const NO_TLS: Self = Self::bad_request("this port speaks HTTPS: use https:// in place of http://");

    const fn bad_request(detail: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, detail }
    }

    /// Returns the fault of a request of HTTP/1. `None` if the head is as it must be. HTTP/2 has its own frames.
    pub(super) fn of<B>(request: &Request<B>) -> Option<Self> {
        if request.version() > Version::HTTP_11 {
            return None;
        }
        // One pass over a few headers costs less than to look for each of the two.
        let (mut hosts, mut codings) = (Values::None, Values::None);
        for (name, value) in request.headers() {
            if *name == HOST {
                hosts.add(value);
            } else if *name == TRANSFER_ENCODING {
                codings.add(value);
            }
        }
        if !is_host_valid(request.version(), hosts) {
            return Some(Self::bad_request("the request needs one header Host, with a host and at most a port"));
        }
        if !is_encoding_known(codings) {
            let detail = "the only transfer coding is `chunked`, once";
            return Some(Self { status: StatusCode::NOT_IMPLEMENTED, detail });
        }
        None
    }

    /// Returns the response, with its body as a text.
    pub(super) fn response(self) -> Response<String> {
        let Self { status, detail } = self;
        let title = status.canonical_reason().unwrap_or("Error");
        let code = status.as_u16();
        let body = format!(r#"{{"type":"about:blank","title":"{title}","status":{code},"detail":"{detail}"}}"#);
        let head = Response::builder().status(status).header(CONTENT_TYPE, "application/problem+json");
        head.header(CONNECTION, "close").body(body).expect("the parts are valid")
    }
}

/// The values of a header that may be there once.
enum Values<'a> {
    None,
    One(&'a HeaderValue),
    Several,
}

impl<'a> Values<'a> {
    fn add(&mut self, value: &'a HeaderValue) {
        *self = match self {
            Self::None => Self::One(value),
            Self::One(_) | Self::Several => Self::Several,
        };
    }
}

/// Returns `true` if there is one valid `Host` (section 3.2). It may be empty. HTTP/1.0 can do without.
fn is_host_valid(version: Version, hosts: Values<'_>) -> bool {
    match hosts {
        Values::None => version < Version::HTTP_11,
        Values::One(host) => {
            let host = host.as_bytes();
            // Most hosts are plain names. The parser copies what it reads.
            host.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
                || Authority::try_from(host).is_ok_and(|authority| is_host_and_port(&authority))
        }
        Values::Several => false,
    }
}

/// Returns `true` if there is one host and at most a port. The parser also takes other text after a colon.
fn is_host_and_port(authority: &Authority) -> bool {
    let Some(after_host) = authority.as_str().strip_prefix(authority.host()) else { return false };
    let is_port = match after_host.strip_prefix(':') {
        // It may be empty (RFC 3986, section 3.2.3). `parse` takes a sign.
        Some(port) => {
            port.bytes().all(|byte| byte.is_ascii_digit()) && (port.is_empty() || port.parse::<u16>().is_ok())
        }
        None => after_host.is_empty(),
    };
    // A proxy may have made one line of two, with a comma.
    is_port && !authority.host().contains(',')
}

/// Returns `true` if the body has no transfer coding but `chunked` (section 6.1). hyper checks that it is the last one,
/// and hands out the body with the others still on.
fn is_encoding_known(codings: Values<'_>) -> bool {
    match codings {
        Values::None => true,
        Values::One(coding) => coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        Values::Several => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_at_most_a_port_which_is_a_number_of_16_bits() {
        let is_valid = |host| is_host_valid(Version::HTTP_11, Values::One(&HeaderValue::from_static(host)));
        for host in ["", "a", "a-b.example", "a:80", "a:65535", "a:", "a_b:80", "[::1]", "[::1]:80", "[::1]:"] {
            assert!(is_valid(host), "{host}");
        }
        for host in
            ["a:b", "a:+80", "a:65536", "a:80:80", "[::1]a", "[::1]80", ",a", "a,b:80", "u@a", "u:80@a", "a b", "a/b"]
        {
            assert!(!is_valid(host), "{host}");
        }
    }
}
