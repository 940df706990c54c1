//! Listings in documents are the code that is tested.

#[test]
fn the_listing_in_the_architecture_is_the_code_that_is_tested() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/ARCHITECTURE.md");
    let document = std::fs::read_to_string(document).unwrap();
    let shown = document.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next());
    assert_eq!(shown, Some(include_str!("../../vestibule/tests/outside/relay.rs")));
}
