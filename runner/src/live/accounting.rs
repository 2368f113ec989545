//! What one call of a living interpreter has used: the difference of two readings of a process that
//! goes on.

use std::fs;

use crate::sys;

/// CPU time a process and the children it waited for have used so far, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CpuTime {
    pub(super) user_us: u64,
    pub(super) system_us: u64,
}

impl CpuTime {
    /// Reads it now; zero where the process is gone.
    ///
    /// The kernel tells user and system time apart in ticks of 10 ms only, but the sum exactly; what
    /// the ticks do not explain counts as user time.
    pub(super) fn of(pid: i32) -> Self {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            return Self::default();
        };
        // Fields after the name, which may hold anything but ends with the last parenthesis.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: Vec<u64> = rest
            .split_whitespace()
            .skip(11)
            .take(4)
            .filter_map(|field| field.parse().ok())
            .collect();
        let [user, system, children_user, children_system] = ticks[..] else {
            return Self::default();
        };
        let tick_us = sys::clock_tick_us();
        let own_us = sys::process_cpu_us(pid).unwrap_or((user + system) * tick_us);
        Self {
            user_us: own_us.saturating_sub(system * tick_us) + children_user * tick_us,
            system_us: (system + children_system) * tick_us,
        }
    }

    /// What was used since an earlier reading.
    pub(super) fn since(self, earlier: Self) -> Self {
        let (before, now) = (earlier.user_us + earlier.system_us, self.user_us + self.system_us);
        let total_us = now.saturating_sub(before);
        let system_us = self.system_us.saturating_sub(earlier.system_us).min(total_us);
        Self { user_us: total_us - system_us, system_us }
    }
}

/// Largest resident set the process ever had, in bytes.
pub(super) fn peak_memory_bytes(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status.lines().find_map(|line| {
        line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<u64>().ok()
    });
    kib.unwrap_or(0) << 10
}
