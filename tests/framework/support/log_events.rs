//! The log events of a running service.

use devstack::TestProcess;
use serde_json::Value;

/// Returns the events of a level so far, such as `ERROR`.
pub(crate) fn events_of_level(process: &TestProcess, level: &str) -> Vec<Value> {
    process.events().into_iter().filter(|event| event["level"] == level).collect()
}

/// Returns the events so far whose message contains `text`.
pub(crate) fn events_that_say(process: &TestProcess, text: &str) -> Vec<Value> {
    process.events().into_iter().filter(|event| says(event, text)).collect()
}

fn says(event: &Value, text: &str) -> bool {
    event["fields"]["message"].as_str().is_some_and(|message| message.contains(text))
}
