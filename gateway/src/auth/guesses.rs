//! Wrong keys, counted by the address they come from.
//!
//! A key is looked at before its address is: a valid one is always served, also from behind the address of
//! somebody who guesses (a NAT, an office, a proxy nobody named), or a guesser could lock its neighbours out.
//! So this does not keep anybody from guessing; that a key has 256 random bits does. It makes guesses slow
//! and cheap to answer, and it makes them seen: by a metric, a line in the log and one in the audit log.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::connection::group;

/// How long wrong keys are counted together.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are counted apart; beyond them all others are counted as one.
const MAX_ADDRESSES: usize = 10_000;
/// How long an answer to one guess too many is kept back, and how many are at once: who sends more gets
/// them sooner, and each on a connection of its own.
const DELAY: Duration = Duration::from_secs(1);
const MAX_DELAYED: usize = 256;
/// Stands for all addresses that are too many.
const OTHERS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// The wrong keys of the last minute.
#[derive(Debug)]
pub(crate) struct Guesses {
    most: u32,
    counts: Mutex<HashMap<IpAddr, Count>>,
    delayed: Semaphore,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    wrong: u32,
    since: Instant,
}

/// One guess too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany {
    /// How many there were.
    pub(crate) wrong: u32,
    /// Whether it is the first one too many within its time.
    pub(crate) is_first: bool,
    /// When the count begins anew.
    pub(crate) retry_after: Duration,
}

impl Guesses {
    /// So many wrong keys of an address within a minute are answered as usual; 0: any number.
    pub(crate) fn new(most: u32) -> Self {
        Self { most, counts: Mutex::default(), delayed: Semaphore::new(MAX_DELAYED) }
    }

    /// Counts a wrong key, and says whether it is one too many.
    pub(crate) fn count(&self, client: IpAddr) -> Option<TooMany> {
        self.count_at(client, Instant::now())
    }

    fn count_at(&self, client: IpAddr, now: Instant) -> Option<TooMany> {
        if self.most == 0 {
            return None;
        }
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut client = group(client);
        if counts.len() >= MAX_ADDRESSES && !counts.contains_key(&client) {
            counts.retain(|_, count| now < count.since + WINDOW);
            if counts.len() >= MAX_ADDRESSES {
                client = OTHERS;
            }
        }
        let count = counts.entry(client).or_insert(Count { wrong: 0, since: now });
        if now >= count.since + WINDOW {
            *count = Count { wrong: 0, since: now };
        }
        count.wrong = count.wrong.saturating_add(1);
        let Count { wrong, since } = *count;
        (wrong > self.most).then(|| TooMany {
            wrong,
            is_first: wrong == self.most + 1,
            retry_after: since + WINDOW - now,
        })
    }

    /// Keeps an answer back for a moment, if not too many are.
    pub(crate) async fn delay(&self) {
        if let Ok(_turn) = self.delayed.try_acquire() {
            sleep(DELAY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number))
    }

    #[test]
    fn an_address_is_told_when_it_may_guess_again() {
        let (guesses, begin) = (Guesses::new(2), Instant::now());
        let after = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(guesses.count_at(address(1), begin), None);
        assert_eq!(guesses.count_at(address(1), begin), None);
        let first = guesses.count_at(address(1), begin).unwrap();
        assert_eq!((first.wrong, first.is_first), (3, true));
        let second = guesses.count_at(address(1), after(20)).unwrap();
        assert_eq!((second.is_first, second.retry_after), (false, Duration::from_secs(40)));
        assert_eq!(guesses.count_at(address(2), after(20)), None, "others are counted apart");
        assert_eq!(guesses.count_at(address(1), after(60)), None);
        assert_eq!(Guesses::new(0).count(address(1)), None);
    }

    #[test]
    fn memory_is_bounded_and_nobody_gets_around_it() {
        let (guesses, begin) = (Guesses::new(1), Instant::now());
        for number in 1..=20_000 {
            guesses.count_at(address(number), begin);
        }
        assert_eq!(guesses.counts.lock().unwrap().len(), MAX_ADDRESSES + 1);
        assert!(guesses.count_at(address(30_000), begin).is_some());
        assert_eq!(guesses.count_at(address(40_000), begin + WINDOW), None);
        assert_eq!(guesses.counts.lock().unwrap().len(), 1);
    }
}
