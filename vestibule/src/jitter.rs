//! Jitter: random differences, so that processes which started together do not act together.

/// Returns a random factor from `1 - part` to `1 + part`. All values in between are equally likely.
pub(crate) fn factor(part: f64) -> f64 {
    1.0 - part + 2.0 * part * fastrand::f64()
}
