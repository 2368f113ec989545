//! The way of an installer to its registries, and to nothing else.

use std::collections::HashSet;

use shared::execution::{Egress, EgressLimits, EgressPhases};

use super::install::Failure;
use crate::egress::{Gate, Outside, Target};

/// Package managers fetch many files at once.
const MAX_CONNECTIONS: u32 = 64;
/// Bytes both ways; what is unpacked is bounded by its room.
const MAX_BYTES: u64 = 8 << 30;

/// A gate to `places`. They are the operator's choice, so their addresses may be private: a mirror is.
pub(super) fn gate(outside: &Outside, places: HashSet<Target>) -> Result<Gate, Failure> {
    let broken = |error: &dyn std::fmt::Display| Failure::Engine(error.to_string());
    let everywhere = ["0.0.0.0/0", "::/0"].into_iter().map(str::parse);
    let egress = Egress {
        private_addresses: everywhere.collect::<Result<_, _>>().map_err(|error| broken(&error))?,
        limits: EgressLimits {
            max_connections: MAX_CONNECTIONS,
            max_bytes: MAX_BYTES,
            max_bytes_per_second: 0,
        },
        phases: EgressPhases { setup: true, run: false },
        ..Egress::default()
    };
    outside.gate_to(places, &egress).map_err(|error| broken(&error))
}
