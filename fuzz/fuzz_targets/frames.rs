//! Frames and messages of the runner's protocol, both ways.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| runner::fuzzing::frames(bytes));
