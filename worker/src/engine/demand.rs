//! How many fresh sandboxes of one kind should wait for jobs, and when the next one is tried after one could
//! not be made: later each time, so that what is broken is not hammered.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

/// Demand above the minimum is forgotten by half each time this passes without a miss.
const HALF_LIFE: Duration = Duration::from_secs(30);
/// Pause after the first failure; each that follows doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// A pause is up to this part of it longer, so that the workers of an engine do not come together.
const SPREAD: u32 = 4;

/// What is wanted of one profile.
pub(super) struct Demand {
    minimum: usize,
    extra: usize,
    last_miss: Instant,
    failure: Option<Failure>,
}

/// The last of the failures since one was made.
struct Failure {
    words: String,
    pause: Duration,
    until: Instant,
}

impl Demand {
    /// At least `minimum`, for ever.
    pub(super) fn new(minimum: usize) -> Self {
        Self { minimum, extra: 0, last_miss: Instant::now(), failure: None }
    }

    /// How many should wait.
    pub(super) fn wanted(&self) -> usize {
        self.minimum + self.extra
    }

    /// Whether it is time to make one.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.failure.as_ref().is_none_or(|failure| failure.until < now)
    }

    /// A job found none; there should be one more, but not more than `most`.
    pub(super) fn note_miss(&mut self, most: usize) {
        self.extra = (self.extra + 1).min(most.saturating_sub(self.minimum));
        self.last_miss = Instant::now();
    }

    /// Forgets what was some time ago.
    pub(super) fn fade(&mut self, now: Instant) {
        if now.duration_since(self.last_miss) > HALF_LIFE {
            self.extra /= 2;
            self.last_miss = now;
        }
    }

    /// One could not be made. Whether that is news, and the pause until the next try.
    pub(super) fn note_failure(&mut self, words: String, now: Instant) -> (bool, Duration) {
        let last = self.failure.take();
        let is_news = last.as_ref().is_none_or(|last| last.words != words);
        let pause = last.map_or(FIRST_PAUSE, |last| (last.pause * 2).min(LONGEST_PAUSE));
        self.failure = Some(Failure { words, pause, until: now + spread(pause) });
        (is_news, pause)
    }

    /// One was made. Whether the last one could not be.
    pub(super) fn note_success(&mut self) -> bool {
        self.failure.take().is_some()
    }
}

/// A little longer than `pause`, never the same.
fn spread(pause: Duration) -> Duration {
    let thousandths = u32::try_from(RandomState::new().hash_one(()) % 1000).unwrap_or(0);
    pause + pause / SPREAD * thousandths / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_again_is_tried_less_often_and_told_once() {
        let (mut demand, now) = (Demand::new(1), Instant::now());
        assert!(demand.is_due(now));
        let pauses: Vec<_> =
            (0..8).map(|_| demand.note_failure("no image".to_owned(), now)).collect();
        let told: Vec<bool> = pauses.iter().map(|(is_news, _)| *is_news).collect();
        assert_eq!(told, [true, false, false, false, false, false, false, false]);
        let seconds: Vec<u64> = pauses.iter().map(|(_, pause)| pause.as_secs()).collect();
        assert_eq!(seconds, [5, 10, 20, 40, 80, 120, 120, 120]);
        assert!(!demand.is_due(now + LONGEST_PAUSE - Duration::from_secs(1)));
        assert!(demand.is_due(now + LONGEST_PAUSE * 5 / 4 + Duration::from_secs(1)));
        // Another cause is told, and one that was made ends it.
        assert!(demand.note_failure("no room".to_owned(), now).0);
        assert!(demand.note_success() && !demand.note_success());
        assert!(demand.is_due(now));
        assert_eq!(demand.note_failure("no image".to_owned(), now), (true, FIRST_PAUSE));
    }

    #[test]
    fn demand_grows_with_misses_and_fades() {
        let mut demand = Demand::new(1);
        (0..9).for_each(|_| demand.note_miss(4));
        assert_eq!(demand.wanted(), 4);
        demand.fade(Instant::now());
        assert_eq!(demand.wanted(), 4);
        let later = Instant::now() + HALF_LIFE + Duration::from_secs(1);
        demand.fade(later);
        assert_eq!(demand.wanted(), 2);
        demand.fade(later + HALF_LIFE + Duration::from_secs(1));
        assert_eq!(demand.wanted(), 1);
    }
}
