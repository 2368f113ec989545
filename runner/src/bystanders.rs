//! Processes of a session that were there before a program started and must outlive it, told apart
//! from those the program started. The runner's own helpers are neither: they are the only ones of the
//! sandbox user in the runner's session, which no program can enter.

use std::collections::HashMap;
use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getsid};

use crate::identity::sandbox_processes;

/// Where a process comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Origin {
    parent: i32,
    /// In clock ticks since boot. With the number it names a process for good.
    started_at: u64,
}

/// The processes that must be left alone.
pub(crate) struct Bystanders {
    known: HashMap<i32, u64>,
}

impl Bystanders {
    /// All processes of the sandbox user as of now, but for `program`.
    pub(crate) fn record() -> Self {
        let known = programs().map(|(pid, origin)| (pid, origin.started_at));
        Self { known: known.collect() }
    }

    /// This process is the program itself.
    pub(crate) fn exclude(&mut self, pid: i32) {
        self.known.remove(&pid);
    }

    /// Signals what was started since, sparing `program`.
    pub(crate) fn signal_others(&self, program: i32, signal: Signal) {
        let now: HashMap<i32, Origin> = programs().collect();
        for pid in now.keys().filter(|pid| **pid != program && !self.covers(**pid, &now)) {
            // Already gone is fine.
            let _ = kill(Pid::from_raw(*pid), signal);
        }
    }

    /// Signals all that was started since.
    pub(crate) fn signal_all(&self, signal: Signal) {
        self.signal_others(0, signal);
    }

    /// Whether this process, or one it descends from, was there before.
    fn covers(&self, pid: i32, now: &HashMap<i32, Origin>) -> bool {
        let mut pid = pid;
        // Bounded: numbers that are used again could form a circle.
        for _ in 0..64 {
            let Some(origin) = now.get(&pid) else {
                return false;
            };
            if self.known.get(&pid) == Some(&origin.started_at) {
                return true;
            }
            pid = origin.parent;
        }
        false
    }
}

/// Processes of the sandbox user, without the runner's helpers and those that have ended.
fn programs() -> impl Iterator<Item = (i32, Origin)> {
    let session = getsid(None).map_or(0, Pid::as_raw);
    let found = sandbox_processes(&[1]).into_iter();
    found.filter_map(move |pid| Some((pid, origin(pid, session)?)))
}

fn origin(pid: i32, runner_session: i32) -> Option<Origin> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Fields after the name, which may hold anything but ends with the last parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ended = matches!(fields.first(), Some(&("Z" | "X")));
    let helper = fields.get(3)?.parse() == Ok(runner_session);
    let origin =
        Origin { parent: fields.get(1)?.parse().ok()?, started_at: fields.get(19)?.parse().ok()? };
    (!ended && !helper).then_some(origin)
}
