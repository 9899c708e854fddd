//! See `workring::fuzzing::recovery`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| workring::fuzzing::recovery(data));
