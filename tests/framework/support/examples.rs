//! The framework's own examples, as programs.

use std::path::PathBuf;

/// Returns the program of an example. `cargo test` builds it, but not if it is told to run this test alone.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let program = test.ancestors().nth(2).expect("target/<profile>/deps/<test>").join("examples").join(name);
    assert!(program.exists(), "run `cargo build --package vestibule --examples` first");
    program
}

/// The folder of a configuration that suits every example.
pub(crate) const CONFIG_OF_EXAMPLES: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/vestibule/examples/two_databases/config");
