#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dz_agent::fuzz::events(bytes));
