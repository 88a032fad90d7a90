//! libFuzzer's side of [`fuzz::link_record`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::link_record(bytes));
