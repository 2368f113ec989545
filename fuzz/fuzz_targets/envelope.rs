//! Bodies of requests, up to the job that comes of them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gateway::fuzzing::envelope(bytes));
