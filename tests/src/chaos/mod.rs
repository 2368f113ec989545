//! The chaos run: load on whole fleets while their processes are killed and paused, their Redis is
//! restarted and fails over, and connections break; then a check that nothing was lost, doubled or left
//! behind. `run` is all of it; `check` judges what was written down.

mod append_only;
mod check;
mod client;
mod evidence;
mod fleet;
mod journal;
mod ledger;
mod load;
mod outputs;
mod plan;
mod proxy;
mod random;
mod report;
mod rest;
mod series;
mod sessions;
mod store;
mod storm;

use std::path::PathBuf;
use std::time::Duration;

pub use check::Verdict;
pub use report::Report;
pub use storm::run;

/// A kind of fleet, and what can befall it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Workers that answer jobs without running them: many jobs, all faults but failovers.
    NoOp,
    /// Workers that run programs on the machine's engine: output, retries, sessions; the same faults.
    Docker,
    /// Workers that run nothing, and a Redis that fails over: jobs that ask for `durability`.
    Failover,
}

impl Kind {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::NoOp, Self::Docker, Self::Failover];

    /// Its name, as on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoOp => "no-op",
            Self::Docker => "docker",
            Self::Failover => "failover",
        }
    }

    /// How many gateways and workers it has.
    #[must_use]
    pub const fn members(self) -> (usize, usize) {
        match self {
            Self::NoOp => (2, 3),
            Self::Docker | Self::Failover => (2, 2),
        }
    }
}

/// What to do to one fleet.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which.
    pub kind: Kind,
    /// The same seed gives the same faults at the same times.
    pub seed: u64,
    /// How long it is under load.
    pub length: Duration,
    /// How many faults in that time.
    pub faults: usize,
    /// How much is asked meanwhile.
    pub clients: usize,
    /// Longest pause between two requests of a client.
    pub pause_ms: u64,
    /// Where the event log and all evidence go; made if it is not there.
    pub directory: PathBuf,
}
