//! libFuzzer's side of [`fuzz::board_line`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::board_line(bytes));
