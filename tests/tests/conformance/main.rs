//! The contract with isol8's clients, point by point, on a fleet of two gateways and two workers.
//! `docs/conformance.md` says which test shows which point.

mod checklist;
mod engine;
mod remote;
mod server;

use serde_json::{Value, json};
use tests::{Api, Stack};

/// Two gateways and two workers, and the gateways' addresses.
fn fleet(changes: &Value) -> (Stack, [Api; 2]) {
    let mut stack = Stack::fleet(changes);
    let gateways = [stack.gateway(), stack.gateway()];
    stack.worker();
    stack.worker();
    (stack, gateways)
}

/// The settings most tests here use.
fn settings() -> Value {
    json!({"worker": {"prewarm": ["python"]}, "auth": {"enabled": true}})
}
