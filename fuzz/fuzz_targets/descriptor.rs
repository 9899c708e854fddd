//! See `workring::fuzzing::descriptor`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| workring::fuzzing::descriptor(data));
