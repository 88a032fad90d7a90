//! libFuzzer's side of [`fuzz::handshake`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::handshake(bytes));
