//! Everything of a worker that the fuzzer feeds with bytes (`fuzz/`): what sandboxes send to it.

pub use crate::egress::fuzzing::proxy;
pub use crate::engine::fuzzing::{archive, link};
