//! See `workring::fuzzing::attach`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| workring::fuzzing::attach(data));
