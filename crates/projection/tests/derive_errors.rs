//! Mistakes in `#[derive(Event)]` are told where they stand, and say what to write instead.

#[test]
fn each_mistake_has_its_message() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/derive/*.rs");
}
