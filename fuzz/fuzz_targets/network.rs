//! Hosts, patterns of hosts, and addresses.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shared::fuzzing::network(bytes));
