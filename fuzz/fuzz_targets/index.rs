//! Fuzzes a store with index files of any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| annals_tests::fuzz::index(bytes));
