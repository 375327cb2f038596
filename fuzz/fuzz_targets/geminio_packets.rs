//! See [`frontier_fuzz::geminio_packets`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frontier_fuzz::geminio_packets::run(data));
