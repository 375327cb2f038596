//! See [`frontier_fuzz::yamux_engine`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frontier_fuzz::yamux_engine::run(data));
