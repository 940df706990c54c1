//! Waits for something on `/status`, and checks of a reload there.

use devstack::RunningService;
use serde_json::Value;

/// Waits until this generation is in service. Returns `/status`.
#[track_caller]
pub(crate) fn wait_for_generation(running: &RunningService<'_>, number: u64) -> impl Future<Output = Value> {
    running.wait_until("another generation", move |status| status["generation"] == number)
}

/// Waits until `/status` shows this version of a credential. A request may be served with it a moment earlier.
#[track_caller]
pub(crate) fn wait_for_version(running: &RunningService<'_>, name: &str, version: &str) -> impl Future<Output = Value> {
    let (name, version) = (name.to_owned(), version.to_owned());
    running.wait_until("another version of a credential", move |status| {
        let held = status["credentials"].as_array().into_iter().flatten().find(|held| held["name"] == *name);
        held.is_some_and(|held| held["version"] == *version)
    })
}

/// Waits until `/status` shows a reload. Returns `/status`.
#[track_caller]
pub(crate) fn wait_for_last_reload(running: &RunningService<'_>) -> impl Future<Output = Value> {
    running.wait_until("the report of a reload", |status| !status["last_reload"].is_null())
}

/// Waits until no generation drains. Returns `/status`.
#[track_caller]
pub(crate) fn wait_until_drained(running: &RunningService<'_>) -> impl Future<Output = Value> {
    running.wait_until("the end of draining", |status| status["draining"].as_array().is_some_and(Vec::is_empty))
}

/// Checks that a reload has failed with this exit code, and that the generation before it stays in service.
#[track_caller]
pub(crate) fn assert_kept(reload: &Value, exit_code: i64) {
    assert_eq!((&reload["outcome"], &reload["exit_code"]), (&"kept".into(), &exit_code.into()), "{reload}");
}

/// Checks a reload that takes up all that is new but `name`, which stays as held. Retries for `name` are due meanwhile. If one
/// of them takes up the rest just before the signal, the reload of the signal fails with this problem alone.
#[track_caller]
pub(crate) fn assert_carried_over(reload: &Value, name: &str, problem: &str) {
    let said = match reload["outcome"].as_str() {
        Some("published") => {
            assert_eq!(reload["carried_over"][0]["credential"], name, "{reload}");
            reload["carried_over"][0]["problem"].as_str()
        }
        Some("kept") => reload["error"].as_str(),
        _ => None,
    };
    assert!(said.is_some_and(|said| said.contains(problem)), "{reload}");
}

/// Checks that all that is new is in service after a reload. Retries were due before it, so that one of them may have taken it
/// up just before the signal.
#[track_caller]
pub(crate) fn assert_taken_up(reload: &Value) {
    assert_eq!((&reload["exit_code"], &reload["carried_over"]), (&0.into(), &serde_json::json!([])), "{reload}");
}
