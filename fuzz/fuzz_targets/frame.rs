//! Fuzzes the decoders of frames and records.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| annals_tests::fuzz::frame(bytes));
