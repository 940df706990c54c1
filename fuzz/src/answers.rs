//! Answers of other programs: the status of a replica, its answer to a reload, and headers.

use crate::assert_printable;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header::RETRY_AFTER};
use vestibule::fuzzing;

/// Checks the text as each answer.
pub(crate) fn check(text: &str) {
    for shown in fuzzing::replica_status(text).into_iter().flatten() {
        assert_printable(&shown);
    }
    fuzzing::is_reload_status(text);
    for code in [StatusCode::OK, StatusCode::CONFLICT] {
        for shown in fuzzing::reload_answer(code, text) {
            assert_printable(&shown.replace('\n', ""));
        }
    }
    if let Ok(value) = HeaderValue::from_str(text) {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, value)]);
        assert!(fuzzing::retry_after(&headers).is_none_or(|pause| pause.as_secs() <= u32::MAX.into()));
    }
    fuzzing::seconds_ahead(text);
}
