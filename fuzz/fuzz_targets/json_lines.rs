//! Fuzzes the reading of JSON Lines.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| annals_cli::fuzz::json_lines(bytes));
