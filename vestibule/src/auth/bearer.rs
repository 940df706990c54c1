//! The header `Authorization: Bearer`, and the answers to it (RFC 6750).

use crate::http::problem::Problem;
use axum::http::{HeaderMap, StatusCode, header::AUTHORIZATION};

/// The realm of the challenges: the routes of one service are one.
const REALM: &str = "Bearer realm=\"service\"";

/// Returns the token of a request. `None` if the request has none, or credentials of another scheme.
///
/// # Errors
/// A 400 if it has several headers `Authorization`, and a 401 if the token has characters that no token has.
pub(super) fn token(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "the request has more than one header Authorization: send one",
        )
        .challenge(format!("{REALM}, error=\"invalid_request\"")));
    }
    let Some((scheme, token)) = value.as_bytes().split_at_checked("Bearer ".len()) else { return Ok(None) };
    if !scheme.eq_ignore_ascii_case(b"Bearer ") {
        return Ok(None);
    }
    let is_of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
    match std::str::from_utf8(token.trim_ascii()) {
        Ok(token) if token.bytes().all(|byte| is_of_token(&byte)) => Ok(Some(token)),
        _ => Err(invalid_token("it has characters that no token has")),
    }
}

/// Returns a 401 for a request without a token. It has no error code: the client may not know yet that it needs one.
pub(super) fn no_token() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "this needs a token: send it as `Authorization: Bearer <token>`")
        .challenge(REALM.to_owned())
}

/// Returns a 401 for a token that is refused.
pub(super) fn invalid_token(reason: &'static str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, format!("the token is refused: {reason}"))
        .challenge(format!("{REALM}, error=\"invalid_token\""))
}

/// Returns a 403 for a token without a scope.
pub(super) fn insufficient_scope(scope: &str) -> Problem {
    forbidden(format!("the token has not the scope `{scope}`"))
        .challenge(format!("{REALM}, error=\"insufficient_scope\", scope=\"{scope}\""))
}

pub(super) fn forbidden(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, detail)
}
