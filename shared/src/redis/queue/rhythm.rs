//! How often workers do what any of them can do: the more there are, the more rarely each.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::Queue;

/// Workers up to which each does it as often as one alone.
const SMALL_FLEET: u32 = 64;

/// Workers of a large fleet that wait for jobs at a time, about.
const WAITING: u32 = SMALL_FLEET;

/// The workers of the fleet, as they were last counted; 0 before that.
#[derive(Debug, Default)]
pub(super) struct Fleet(AtomicUsize);

impl Fleet {
    pub(super) fn count(&self, workers: usize) {
        self.0.store(workers, Ordering::Relaxed);
    }

    fn workers(&self) -> u32 {
        u32::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
    }
}

impl Queue {
    /// How often a worker does what one alone would do every `period`: in a large fleet more rarely, so that
    /// all together do it about as often as a small one, but three times in a lease time at least. The fleet
    /// is counted by [`housekeep`](Self::housekeep).
    #[must_use]
    pub fn rhythm(&self, period: Duration) -> Duration {
        let rarest = Duration::from_millis(self.inner.config.lease_ms / 3);
        slowed(period, self.inner.fleet.workers(), rarest)
    }

    /// Whether a worker that has found no job is to rest before it waits for one. Redis offers a job that comes
    /// to every worker that waits: in a large fleet some wait, by chance, and those who get one go on waiting.
    #[must_use]
    pub fn is_to_rest(&self) -> bool {
        let drawn = RandomState::new().build_hasher().finish();
        rests(self.inner.fleet.workers(), drawn)
    }
}

fn rests(workers: u32, drawn: u64) -> bool {
    drawn % u64::from(workers.max(1)) >= u64::from(WAITING)
}

fn slowed(period: Duration, workers: u32, rarest: Duration) -> Duration {
    let slower = period.saturating_mul(workers.max(SMALL_FLEET)) / SMALL_FLEET;
    slower.min(rarest.max(period))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_fleet_does_it_about_as_often_as_a_small_one() {
        let (period, rarest) = (Duration::from_millis(500), Duration::from_secs(5));
        for (workers, expected_ms) in [(0, 500), (1, 500), (64, 500), (128, 1000), (10_000, 5000)] {
            let slowed = slowed(period, workers, rarest);
            assert_eq!(slowed, Duration::from_millis(expected_ms), "{workers} workers");
        }
        // So many wait as do in a small one.
        for workers in [0, 1, 64, 65, 1000] {
            let waiting = (0..u64::from(workers)).filter(|drawn| !rests(workers, *drawn)).count();
            assert_eq!(waiting, workers.min(WAITING) as usize, "{workers} workers");
        }
        // A short lease makes nothing more frequent than asked for.
        assert_eq!(slowed(period, 500, Duration::from_millis(100)), period);
    }
}
