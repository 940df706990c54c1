//! The panic hook, which logs panics.

use super::standard_error;
use crate::caught::caught;
use std::any::Any;

/// Installs the hook: panics go to the log, or to standard error until the log is installed.
pub(crate) fn install_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let location = match panic.location() {
            Some(location) => location.to_string(),
            None => "an unknown place".to_owned(),
        };
        let message = literal_message(panic.payload());
        if tracing::dispatcher::has_been_set() {
            tracing::error!(panic.location = location, panic.message = message, "a task panicked");
        } else {
            standard_error::write_line(&format!("a task panicked at {location}: {message}"));
        }
    }));
}

/// Calls a function whose panic the caller reports, so the hook does not. Returns `None` if it panics. Call it before there is
/// another thread: the hook is everybody's.
pub(crate) fn unlogged<T>(call: impl FnOnce() -> T) -> Option<T> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let called = caught(call);
    std::panic::set_hook(hook);
    called
}

/// Returns the panic's message if it is a literal. Formatted text may quote anything: an `unwrap` of a parser's error
/// quotes the secret that was parsed.
fn literal_message(payload: &dyn Any) -> &'static str {
    match payload.downcast_ref::<&'static str>() {
        Some(literal) => literal,
        None => "left out: formatted text may quote a secret",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "nothing is secret here")]
    #[test]
    fn only_a_literal_message_of_a_panic_is_logged() {
        assert_eq!(literal_message(&"no room"), "no room");
        let parse_error = serde_json::from_str::<u16>("\"sentinel\"").expect_err("it is text");
        let payload: Box<dyn Any> = Box::new(format!("called `Result::unwrap()` on an `Err` value: {parse_error:?}"));
        assert!(!literal_message(&*payload).contains("sentinel"));
    }
}
