//! What processes use, as `/proc` tells it: the generator's own share of the processor, which it
//! takes away from a server on the same machine, and the memory of servers that are watched.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Unit of the times in `/proc/*/stat`: fixed at 100 per second in the kernel's interface.
const TICK: Duration = Duration::from_millis(10);

/// CPU time of the calling thread, measured from [`ThreadClock::start`]. A load runs on the one
/// thread that asked for it, so this leaves out a stub server in the same process.
#[derive(Debug)]
pub struct ThreadClock {
    started: Instant,
    used: Duration,
}

impl ThreadClock {
    /// Starts measuring.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn start() -> Result<Self> {
        Ok(Self { started: Instant::now(), used: cpu_time("thread-self")? })
    }

    /// Share of one core used since the start, in per cent.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn percent(&self) -> Result<f64> {
        let used = cpu_time("thread-self")?.saturating_sub(self.used);
        Ok(100.0 * used.as_secs_f64() / self.started.elapsed().as_secs_f64().max(1e-9))
    }
}

/// A process under watch: its memory and CPU time when the watch began.
#[derive(Debug)]
pub struct Watch {
    pid: u32,
    name: String,
    started: Instant,
    resident_kib: u64,
    used: Duration,
}

/// How a watched process changed over a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Process identifier.
    pub pid: u32,
    /// Its command name.
    pub name: String,
    /// Resident memory before the run, in KiB.
    pub resident_before_kib: u64,
    /// Resident memory after the run, in KiB.
    pub resident_after_kib: u64,
    /// Share of one core it used, in per cent.
    pub cpu_percent: f64,
}

impl Watch {
    /// Begins to watch `pid`.
    ///
    /// # Errors
    /// No such process, or it may not be looked at.
    pub fn start(pid: u32) -> Result<Self> {
        let process = pid.to_string();
        Ok(Self {
            pid,
            name: read(&process, "comm")?.trim().to_owned(),
            started: Instant::now(),
            resident_kib: resident_kib(&process)?,
            used: cpu_time(&process)?,
        })
    }

    /// What changed since.
    ///
    /// # Errors
    /// The process has ended meanwhile.
    pub fn change(&self) -> Result<Change> {
        let process = self.pid.to_string();
        let used = cpu_time(&process)?.saturating_sub(self.used);
        Ok(Change {
            pid: self.pid,
            name: self.name.clone(),
            resident_before_kib: self.resident_kib,
            resident_after_kib: resident_kib(&process)?,
            cpu_percent: 100.0 * used.as_secs_f64() / self.started.elapsed().as_secs_f64(),
        })
    }
}

fn read(process: &str, file: &str) -> Result<String> {
    let path = format!("/proc/{process}/{file}");
    fs::read_to_string(&path)
        .with_context(|| format!("cannot read {path}; is the process still running?"))
}

fn cpu_time(process: &str) -> Result<Duration> {
    let stat = read(process, "stat")?;
    cpu_ticks(&stat)
        .and_then(|ticks| TICK.checked_mul(ticks))
        .with_context(|| format!("/proc/{process}/stat has an unknown form: {stat}"))
}

/// User and system time, fields 14 and 15. The command name before them may hold any character, so
/// counting starts at its closing bracket.
fn cpu_ticks(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let user: u32 = times.next()?.parse().ok()?;
    let system: u32 = times.next()?.parse().ok()?;
    user.checked_add(system)
}

/// Resident memory of a process, by its number as text.
pub(crate) fn resident_kib(process: &str) -> Result<u64> {
    let status = read(process, "status")?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok())
        .with_context(|| format!("/proc/{process}/status tells no resident memory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_ticks_are_found_behind_hostile_command_names() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 150 25 0 0 20 0 1 0 99";
        assert_eq!(cpu_ticks(stat), Some(175));
        assert_eq!(cpu_ticks("42 (short) S 1"), None);
    }

    #[test]
    fn own_process_can_be_watched() {
        let change = Watch::start(std::process::id()).unwrap().change().unwrap();
        assert!(change.resident_before_kib > 100);
        assert!(change.resident_after_kib > 100);
        assert!(!change.name.is_empty());
    }

    #[test]
    fn a_missing_process_is_an_error_that_names_the_file() {
        let error = Watch::start(u32::MAX).unwrap_err();
        assert!(error.to_string().contains("/proc/4294967295/"), "{error}");
    }

    #[test]
    fn a_busy_thread_shows_its_share() {
        let clock = ThreadClock::start().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        // Others may have the processor first.
        while clock.percent().unwrap() <= 0.0 {
            assert!(Instant::now() < deadline, "it is never seen to be busy");
        }
    }
}
