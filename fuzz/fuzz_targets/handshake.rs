//! See `workring::fuzzing::handshake`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| workring::fuzzing::handshake(data));
