//! What the machine does without isol8, measured in the same run: absolute times drift on shared
//! machines, ratios much less.

pub mod docker;
pub mod http;
pub mod redis;
