//! How slowly a client may send or take: not for how long in all, but how much longer than at the least rate.
//! So an upload of hours is fine, and one byte now and then is not.

use std::time::Duration;

/// What a client has to keep up with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// How long it may keep us waiting beyond what its bytes may take.
    stall: Duration,
    /// How long a byte may take; nothing: any byte makes up for all waiting.
    per_byte: Option<Duration>,
}

/// How a client keeps up.
#[derive(Debug)]
pub(crate) struct Account {
    pace: Pace,
    /// How long it has kept us waiting that it has not made up for.
    debt: Duration,
}

impl Pace {
    /// At least so many bytes a second, but for `stall`.
    pub(crate) fn new(stall: Duration, bytes_per_second: u32) -> Self {
        let per_byte = Duration::from_secs(1).checked_div(bytes_per_second);
        Self { stall, per_byte }
    }

    /// The account of one that begins.
    pub(crate) const fn begin(self) -> Account {
        Account { pace: self, debt: Duration::ZERO }
    }
}

impl Account {
    /// It kept us waiting.
    pub(crate) fn waited(&mut self, time: Duration) {
        self.debt = self.debt.saturating_add(time);
    }

    /// So many bytes came, or went.
    pub(crate) fn moved(&mut self, bytes: usize) {
        if bytes == 0 || self.debt.is_zero() {
            return;
        }
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.debt = match self.pace.per_byte {
            Some(per_byte) => self.debt.saturating_sub(per_byte.saturating_mul(bytes)),
            None => Duration::ZERO,
        };
    }

    /// How much longer it may keep us waiting.
    pub(crate) fn left(&self) -> Duration {
        self.pace.stall.saturating_sub(self.debt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn bytes_make_up_for_waiting_and_nothing_is_saved_up() {
        let mut account = Pace::new(10 * SECOND, 100).begin();
        account.moved(1_000_000);
        assert_eq!(account.left(), 10 * SECOND);
        account.waited(4 * SECOND);
        assert_eq!(account.left(), 6 * SECOND);
        account.moved(100);
        assert_eq!(account.left(), 7 * SECOND);
        account.moved(10_000);
        assert_eq!(account.left(), 10 * SECOND);
        for _ in 0..11 {
            account.waited(SECOND);
            account.moved(1);
        }
        assert!(account.left().is_zero(), "a byte a second is too slow: {account:?}");
    }

    #[test]
    fn without_a_rate_any_byte_will_do() {
        let mut account = Pace::new(10 * SECOND, 0).begin();
        account.waited(9 * SECOND);
        account.moved(1);
        assert_eq!(account.left(), 10 * SECOND);
    }
}
