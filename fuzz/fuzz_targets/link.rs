//! What a runner, or whoever poses as one, sends a worker.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| worker::fuzzing::link(bytes));
