//! How a process stands with the scheduler. Linux lets programs change that of their own user's processes alone;
//! gVisor's kernel lets them change anybody's, and each process hands its own down to those it starts: what one
//! program sets for the runner, the next one could read.

use crate::sys::{self, Processors};

/// Precedence and processors of one process; `None` for what the kernel does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    niceness: Option<i32>,
    processors: Option<Processors>,
}

impl Standing {
    /// Of a process.
    pub(crate) fn of(pid: i32) -> Self {
        Self { niceness: sys::niceness(pid), processors: sys::processors(pid) }
    }

    /// Gives it back to a process that has another, as far as the kernel lets us; the caller verifies.
    pub(crate) fn restore(&self, pid: i32) {
        if Self::of(pid) == *self {
            return;
        }
        if let Some(niceness) = self.niceness {
            sys::set_niceness(pid, niceness);
        }
        if let Some(processors) = &self.processors {
            sys::set_processors(pid, processors);
        }
    }
}
