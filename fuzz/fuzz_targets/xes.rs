//! Fuzzes the reading of XES files.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| annals_cli::fuzz::xes(bytes));
