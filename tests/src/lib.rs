//! Harness of the end-to-end tests: real `isol8` processes on real Docker and real Redis, each
//! stack with a directory, a configuration and a queue of its own, and a check that nothing of it
//! is left behind.

pub mod api;
pub mod binary;
pub mod case;
pub mod chaos;
pub mod cluster;
pub mod compose;
pub mod dns;
pub mod docker;
pub mod forbidden;
pub mod gate;
pub mod isolation;
pub mod node;
pub mod queue;
pub mod registry;
pub mod results;
pub mod stack;
pub mod stream;
pub mod upstream;

pub use api::{Api, Reply, code, command};
pub use case::{Case, Findings, run_cases};
pub use stack::Stack;
pub use upstream::{Upstream, reflect};
