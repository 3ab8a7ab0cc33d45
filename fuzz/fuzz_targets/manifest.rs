//! Fuzzes the manifest, and a log that has it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| annals_tests::fuzz::manifest(bytes));
