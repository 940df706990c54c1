//! The progress lines of `cargo dev`.

/// Prints a line about the progress.
pub(crate) fn print_progress(text: &str) {
    eprintln!("cargo dev: {text}");
}
