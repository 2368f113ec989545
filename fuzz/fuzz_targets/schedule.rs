//! Cron patterns in time zones, and the runs that come of them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shared::fuzzing::schedule(bytes));
