//! libFuzzer's side of [`fuzz::blob`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::blob(bytes));
