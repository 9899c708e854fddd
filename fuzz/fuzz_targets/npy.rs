//! See `workring::fuzzing::npy`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| workring::fuzzing::npy(data));
