//! libFuzzer's side of [`fuzz::transit`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::transit(bytes));
