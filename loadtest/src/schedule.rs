//! When the requests of an open-loop run are meant to start, and a timer exact enough to start them
//! then: the runtime's own timer counts whole milliseconds, more than the latencies measured here.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;

/// A schedule holds one entry per request; this bounds it at 160 MB.
const MAX_STARTS: f64 = 10_000_000.0;

/// How the intended starts are spread over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// One every `1 / rate` seconds.
    Fixed,
    /// Independent arrivals: exponential gaps drawn from a generator seeded with `seed`.
    Poisson {
        /// The same seed gives the same schedule.
        seed: u64,
    },
}

/// Offsets from the start of the run at which requests are meant to start, ascending, all below
/// `length`.
///
/// # Errors
/// `rate` is not a positive number, or the schedule would be larger than ten million entries.
pub fn starts(arrivals: Arrivals, rate: f64, length: Duration) -> Result<Vec<Duration>> {
    ensure!(rate.is_finite() && rate > 0.0, "a rate of {rate} jobs/s is not a positive number");
    let expected = rate * length.as_secs_f64();
    ensure!(
        expected <= MAX_STARTS,
        "{rate} jobs/s for {} s are more than {MAX_STARTS} jobs; lower one of them",
        length.as_secs()
    );
    let gap = 1.0 / rate;
    let mut random = match arrivals {
        Arrivals::Fixed => None,
        Arrivals::Poisson { seed } => Some(SplitMix { state: seed }),
    };
    let mut starts = Vec::new();
    let mut poisson_at = 0.0;
    for index in 0_u32.. {
        let at = match &mut random {
            // From the index, not by adding gaps: rounding errors would add up.
            None => f64::from(index) * gap,
            Some(random) => {
                poisson_at -= random.unit().ln() * gap;
                poisson_at
            }
        };
        if at >= length.as_secs_f64() {
            break;
        }
        starts.push(Duration::from_secs_f64(at));
    }
    Ok(starts)
}

/// The splitmix64 generator: small, seedable, and good enough for arrival times.
struct SplitMix {
    state: u64,
}

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `(0, 1]`, so that its logarithm is finite.
    fn unit(&mut self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "53 bits are what a float holds exactly")]
        let whole = ((self.next() >> 11) + 1) as f64;
        whole / 9_007_199_254_740_992.0
    }
}

/// A timer with the kernel's own resolution.
#[derive(Debug)]
pub struct ExactTimer {
    descriptor: AsyncFd<Descriptor>,
}

/// What the runtime needs to watch a timer.
#[derive(Debug)]
struct Descriptor(TimerFd);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl ExactTimer {
    /// A timer of the current runtime.
    ///
    /// # Errors
    /// The kernel gives no more file descriptors.
    pub fn new() -> Result<Self> {
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )
        .context("cannot create a timer; raise the limit of open files")?;
        #[expect(
            deprecated,
            reason = "its successor must be called in an unsafe block, which this workspace \
                      forbids; the descriptor is owned here and stays the same"
        )]
        let descriptor = AsyncFd::new(Descriptor(timer)).context("cannot watch a timer")?;
        Ok(Self { descriptor })
    }

    /// Waits until `moment`; returns at once when that is past.
    ///
    /// # Errors
    /// The kernel refuses the timer, which would be a bug here.
    pub async fn until(&mut self, moment: Instant) -> Result<()> {
        loop {
            let wait = moment.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return Ok(());
            }
            self.descriptor
                .get_ref()
                .0
                .set(Expiration::OneShot(TimeSpec::from_duration(wait)), TimerSetTimeFlags::empty())
                .context("cannot set a timer")?;
            let mut ready = self.descriptor.readable().await.context("cannot wait for a timer")?;
            ready.clear_ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_starts_are_evenly_spread_and_begin_at_once() {
        let starts = starts(Arrivals::Fixed, 4.0, Duration::from_secs(1)).unwrap();
        let millis: Vec<u128> = starts.iter().map(Duration::as_millis).collect();
        assert_eq!(millis, [0, 250, 500, 750]);
    }

    #[test]
    fn poisson_starts_follow_the_seed_and_keep_the_rate() {
        let draw =
            |seed| starts(Arrivals::Poisson { seed }, 1000.0, Duration::from_secs(20)).unwrap();
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        let starts = draw(7);
        assert!(starts.is_sorted());
        assert!(starts.iter().all(|start| *start < Duration::from_secs(20)));
        // 20,000 expected, standard deviation 141: five of them on both sides.
        assert!((19_300..20_700).contains(&starts.len()), "{}", starts.len());
    }

    #[test]
    fn gaps_of_poisson_starts_vary_as_much_as_their_mean() {
        let starts =
            starts(Arrivals::Poisson { seed: 1 }, 1000.0, Duration::from_secs(20)).unwrap();
        let gaps: Vec<f64> = starts.windows(2).map(|w| (w[1] - w[0]).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((0.9..1.1).contains(&(variance.sqrt() / mean)));
    }

    #[test]
    fn senseless_rates_are_refused() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
            assert!(starts(Arrivals::Fixed, rate, Duration::from_secs(10)).is_err(), "{rate}");
        }
    }

    #[tokio::test]
    async fn timer_never_fires_early_and_can_be_used_again() {
        let mut timer = ExactTimer::new().unwrap();
        for wait_ms in [3, 0, 2] {
            let moment = Instant::now() + Duration::from_millis(wait_ms);
            timer.until(moment).await.unwrap();
            assert!(Instant::now() >= moment);
        }
    }
}
