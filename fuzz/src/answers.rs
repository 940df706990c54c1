//! Answers of other programs: the status of a replica, and headers.

use crate::assert_printable;
use axum::http::{HeaderMap, HeaderValue, header::RETRY_AFTER};
use vestibule::fuzzing;

/// Checks the text as each answer.
pub(crate) fn check(text: &str) {
    for shown in fuzzing::replica_status(text).into_iter().flatten() {
        assert_printable(&shown);
    }
    fuzzing::is_reload_status(text);
    if let Ok(value) = HeaderValue::from_str(text) {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, value)]);
        assert!(fuzzing::retry_after(&headers).is_none_or(|pause| pause.as_secs() <= u32::MAX.into()));
    }
    fuzzing::seconds_ahead(text);
}
