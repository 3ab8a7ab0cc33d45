//! Fuzzes appends and reads against a model.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| annals_tests::fuzz::append_model(bytes));
