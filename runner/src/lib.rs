//! The wire between a worker and the init process of a sandbox.
//!
//! Both ends compile this crate, so the two halves of the protocol cannot drift apart. The
//! binary beside it (`isol8-runner`) is the init process itself.

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod protocol;
