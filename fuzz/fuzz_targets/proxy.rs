//! What a program says to the proxy of the filtered network.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| worker::fuzzing::proxy(bytes));
