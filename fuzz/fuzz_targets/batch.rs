//! Uploads of batches, in pieces.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gateway::fuzzing::batch(bytes));
