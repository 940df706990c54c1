//! What documents show is what is tested.

#[test]
fn the_fifth_kind_in_the_architecture_is_the_one_that_is_tested() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/ARCHITECTURE.md");
    let document = std::fs::read_to_string(document).unwrap();
    let shown = document.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next());
    assert_eq!(shown, Some(include_str!("../../vestibule/tests/outside/relay.rs")));
}
