//! Where a stream's events wait for their reader. Bounded: what finds no room is not kept, and the
//! reader is told to fetch it from the queue's store, where every event is kept.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use shared::execution::{Event, EventKind};
use tokio::sync::Notify;

/// Most events that wait.
const MAX_EVENTS: usize = 256;
/// Most bytes of output that wait.
const MAX_BYTES: usize = 1 << 20;

/// One stream's events on their way from the reply channel. One writer, one reader.
#[derive(Default)]
pub(crate) struct Mailbox {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Default)]
struct Waiting {
    events: VecDeque<Event>,
    bytes: usize,
    /// One more than the highest number that came, kept or not.
    end: u64,
}

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mail {
    /// The next event that is here; those before it may be missing.
    Event(Event),
    /// Events up to, not including, this number came and found no room.
    NotKept(u64),
}

impl Mailbox {
    /// Takes in an event. Never waits.
    pub(crate) fn put(&self, event: Event) {
        let mut waiting = self.lock();
        waiting.end = waiting.end.max(event.number + 1);
        let bytes = size(&event);
        if waiting.events.len() < MAX_EVENTS && waiting.bytes + bytes <= MAX_BYTES {
            waiting.bytes += bytes;
            waiting.events.push_back(event);
        }
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Waits for what comes next for a reader who has all events before `next`.
    pub(crate) async fn take(&self, next: u64) -> Mail {
        loop {
            if let Some(mail) = self.try_take(next) {
                return mail;
            }
            self.arrived.notified().await;
        }
    }

    /// What is here for a reader who has all events before `next`.
    fn try_take(&self, next: u64) -> Option<Mail> {
        let mut waiting = self.lock();
        while let Some(event) = waiting.events.pop_front() {
            waiting.bytes -= size(&event);
            // A reader who has fetched from the store has some of them already.
            if event.number >= next {
                return Some(Mail::Event(event));
            }
        }
        (waiting.end > next).then_some(Mail::NotKept(waiting.end))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in here panics half-way, so a poisoned queue is still a good one.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size(event: &Event) -> usize {
    match &event.kind {
        EventKind::Output { data, .. } => data.len(),
        EventKind::SetupEnded | EventKind::Restarted => 0,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use shared::execution::{Phase, Stream};

    use super::*;

    fn event(number: u64, bytes: usize) -> Event {
        let data = Bytes::from(vec![b'x'; bytes]);
        let kind = EventKind::Output { stream: Stream::Stdout, offset: 0, data };
        Event { number, phase: Phase::Code, kind }
    }

    #[tokio::test]
    async fn events_come_out_in_order() {
        let mailbox = Mailbox::default();
        mailbox.put(event(0, 1));
        mailbox.put(event(1, 1));
        assert_eq!(mailbox.take(0).await, Mail::Event(event(0, 1)));
        assert_eq!(mailbox.take(1).await, Mail::Event(event(1, 1)));
        assert_eq!(mailbox.try_take(2), None);
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken() {
        let mailbox = Mailbox::default();
        let (mail, ()) = tokio::join!(mailbox.take(0), async { mailbox.put(event(0, 1)) });
        assert_eq!(mail, Mail::Event(event(0, 1)));
    }

    #[test]
    fn what_finds_no_room_is_announced_even_if_nothing_follows() {
        for (bytes, kept) in [(1, 256), (300 << 10, 3)] {
            let mailbox = Mailbox::default();
            for number in 0..400 {
                mailbox.put(event(number, bytes));
            }
            assert_eq!(mailbox.lock().events.len(), kept);
            for number in 0..kept as u64 {
                let mail = mailbox.try_take(number);
                assert!(matches!(mail, Some(Mail::Event(event)) if event.number == number));
            }
            assert_eq!(mailbox.try_take(kept as u64), Some(Mail::NotKept(400)));
            assert_eq!(mailbox.try_take(400), None);
            assert_eq!(mailbox.lock().bytes, 0);
        }
    }

    #[test]
    fn what_the_reader_has_already_is_skipped() {
        let mailbox = Mailbox::default();
        for number in 0..5 {
            mailbox.put(event(number, 1));
        }
        assert_eq!(mailbox.try_take(3), Some(Mail::Event(event(3, 1))));
        assert_eq!(mailbox.try_take(5), None);
    }
}
