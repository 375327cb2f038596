//! See [`frontier_fuzz::native_connection`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frontier_fuzz::native_connection::run(data));
