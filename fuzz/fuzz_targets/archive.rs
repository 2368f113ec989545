//! The archive that leaves an installer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| worker::fuzzing::archive(bytes));
