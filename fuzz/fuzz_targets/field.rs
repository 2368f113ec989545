//! Sizes, packages, labels, moments and addresses, as they stand in fields.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shared::fuzzing::field(bytes));
