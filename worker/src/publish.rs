//! Output on its way from a running program to the queue: the first piece at once, then whatever has
//! gathered while the former call was under way. No timers, and no more in memory than the program's
//! output limit.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use shared::execution::{EventKind, Phase, Stream};
use shared::redis::{Publication, Queue};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::engine::{Live, complete_characters};

/// Most bytes of one event.
const MAX_PIECE_BYTES: usize = 64 << 10;
/// Most bytes of output in one call.
const MAX_CALL_BYTES: usize = 256 << 10;
/// Most events in one call.
const MAX_CALL_EVENTS: usize = 256;
/// Pieces that wait before new output joins older output of its stream, out of turn with the other
/// stream: single bytes by turns would take many times their size.
const MAX_PIECES: usize = 4096;
/// Pauses between attempts while the queue cannot be reached.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long the output of a program that has ended is offered to a queue that cannot be reached.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

/// The program's end: takes output as it comes. Dropped when the program has ended.
pub(crate) struct Feed(Arc<Shared>);

/// The queue's end.
pub(crate) struct Publisher(Arc<Shared>);

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    news: Notify,
}

/// What waits to be published. Bounded: the engine cuts each stream at the job's output limit.
#[derive(Default)]
struct Pending {
    pieces: VecDeque<Piece>,
    /// Bytes of each stream and phase taken out so far.
    offsets: HashMap<(Phase, Stream), u64>,
    /// No more comes.
    is_ended: bool,
    /// Nobody publishes any more.
    is_abandoned: bool,
}

enum Piece {
    Output {
        phase: Phase,
        stream: Stream,
        data: BytesMut,
    },
    SetupEnded,
    /// What was published before was an earlier attempt's.
    Restarted,
}

/// Both ends of a new stream.
pub(crate) fn stream() -> (Feed, Publisher) {
    let shared = Arc::<Shared>::default();
    (Feed(Arc::clone(&shared)), Publisher(shared))
}

impl Live for Feed {
    fn output(&mut self, phase: Phase, stream: Stream, data: &[u8]) {
        self.0.lock().push(phase, stream, data);
        self.0.news.notify_one();
    }

    fn setup_ended(&mut self) {
        let mut pending = self.0.lock();
        if !pending.is_abandoned {
            pending.pieces.push_back(Piece::SetupEnded);
        }
        drop(pending);
        self.0.news.notify_one();
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.0.lock().is_ended = true;
        self.0.news.notify_one();
    }
}

impl Publisher {
    /// Publishes until the program has ended and all is told, or cannot be. Returns how many events
    /// there were, untold ones included, so that readers can see that some are missing. Cancels
    /// `run` if the job is not this worker's any more.
    pub(crate) async fn run(
        self,
        queue: &Queue,
        publication: &Publication,
        run: &CancellationToken,
    ) -> u64 {
        let mut told = publication.first();
        if told > 0 {
            self.0.lock().pieces.push_front(Piece::Restarted);
        }
        loop {
            let (events, is_ended) = {
                let mut pending = self.0.lock();
                (pending.take(), pending.is_ended)
            };
            if events.is_empty() {
                if is_ended {
                    return told;
                }
                self.0.news.notified().await;
                continue;
            }
            let is_told = self.tell(queue, publication, told, &events).await;
            told += events.len() as u64;
            match is_told {
                Some(true) => {}
                Some(false) => {
                    run.cancel();
                    return self.abandon(told);
                }
                None => return self.abandon(told),
            }
        }
    }

    /// Whether the job is still ours; `None` if the queue could not be reached until it was too late.
    async fn tell(
        &self,
        queue: &Queue,
        publication: &Publication,
        first: u64,
        events: &[(Phase, EventKind)],
    ) -> Option<bool> {
        let mut pause = FIRST_PAUSE;
        let mut ended_at = None;
        loop {
            match queue.publish(publication, first, events).await {
                Ok(is_ours) => return Some(is_ours),
                Err(error) => tracing::debug!(%error, "cannot publish output; trying again"),
            }
            if self.0.lock().is_ended {
                let ended_at = *ended_at.get_or_insert_with(Instant::now);
                if ended_at.elapsed() > LAST_PATIENCE {
                    tracing::warn!("gave up publishing the output of a job; its result follows");
                    return None;
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Forgets what was not published; counts it.
    fn abandon(&self, told: u64) -> u64 {
        let mut pending = self.0.lock();
        pending.is_abandoned = true;
        told + std::mem::take(&mut pending.pieces).len() as u64
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn push(&mut self, phase: Phase, stream: Stream, data: &[u8]) {
        if self.is_abandoned {
            return;
        }
        let looked_at = if self.pieces.len() < MAX_PIECES { 1 } else { usize::MAX };
        let same = self.pieces.iter_mut().rev().take(looked_at).find_map(|piece| match piece {
            Piece::Output { phase: its_phase, stream: its_stream, data: gathered }
                if (*its_phase, *its_stream) == (phase, stream) =>
            {
                Some(gathered)
            }
            _ => None,
        });
        match same {
            Some(gathered) => gathered.extend_from_slice(data),
            None => {
                self.pieces.push_back(Piece::Output { phase, stream, data: BytesMut::from(data) });
            }
        }
    }

    /// The next call's worth of events.
    fn take(&mut self) -> Vec<(Phase, EventKind)> {
        let mut events = Vec::new();
        let mut room = MAX_CALL_BYTES;
        while let Some(piece) = self.pieces.front_mut() {
            let (phase, stream, data) = match piece {
                Piece::Output { phase, stream, data } => (phase, stream, data),
                Piece::SetupEnded | Piece::Restarted => {
                    let kind = match piece {
                        Piece::Restarted => EventKind::Restarted,
                        _ => EventKind::SetupEnded,
                    };
                    self.pieces.pop_front();
                    events.push((Phase::Setup, kind));
                    continue;
                }
            };
            let (phase, stream) = (*phase, *stream);
            if events.len() >= MAX_CALL_EVENTS || (room < MAX_PIECE_BYTES && data.len() > room) {
                break;
            }
            let mut length = data.len().min(MAX_PIECE_BYTES);
            if length < data.len() {
                length = complete_characters(&data[..length]);
            }
            let taken = data.split_to(length).freeze();
            if data.is_empty() {
                self.pieces.pop_front();
            }
            room = room.saturating_sub(taken.len());
            let offset = self.offsets.entry((phase, stream)).or_default();
            let kind = EventKind::Output { stream, offset: *offset, data: taken.clone() };
            *offset += taken.len() as u64;
            events.push((phase, kind));
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(events: &[(Phase, EventKind)]) -> Vec<(Phase, Stream, u64, String)> {
        let output = |(phase, kind): &(Phase, EventKind)| match kind {
            EventKind::Output { stream, offset, data } => {
                Some((*phase, *stream, *offset, String::from_utf8(data.to_vec()).unwrap()))
            }
            EventKind::SetupEnded | EventKind::Restarted => None,
        };
        events.iter().filter_map(output).collect()
    }

    #[test]
    fn what_gathers_is_one_event_as_long_as_the_stream_is_the_same() {
        let (mut feed, publisher) = stream();
        feed.output(Phase::Setup, Stream::Stdout, b"s");
        feed.setup_ended();
        for data in ["a", "b"] {
            feed.output(Phase::Code, Stream::Stdout, data.as_bytes());
        }
        feed.output(Phase::Code, Stream::Stderr, b"e");
        feed.output(Phase::Code, Stream::Stdout, b"c");
        let events = publisher.0.lock().take();
        assert_eq!(events[1], (Phase::Setup, EventKind::SetupEnded));
        assert_eq!(
            outputs(&events),
            [
                (Phase::Setup, Stream::Stdout, 0, "s".into()),
                (Phase::Code, Stream::Stdout, 0, "ab".into()),
                (Phase::Code, Stream::Stderr, 0, "e".into()),
                (Phase::Code, Stream::Stdout, 2, "c".into()),
            ]
        );
        assert!(publisher.0.lock().take().is_empty());
        assert!(!publisher.0.lock().is_ended);
        drop(feed);
        assert!(publisher.0.lock().is_ended);
    }

    #[test]
    fn much_output_goes_in_bounded_pieces_and_calls_that_end_between_characters() {
        let (mut feed, publisher) = stream();
        let text = "\u{20ac}".repeat(300_000);
        feed.output(Phase::Code, Stream::Stdout, text.as_bytes());
        let mut joined = String::new();
        loop {
            let events = publisher.0.lock().take();
            if events.is_empty() {
                break;
            }
            let mut call_bytes = 0;
            for (_, _, offset, data) in outputs(&events) {
                assert_eq!(offset, joined.len() as u64);
                assert!(data.len() <= MAX_PIECE_BYTES);
                call_bytes += data.len();
                joined.push_str(&data);
            }
            assert!(call_bytes <= MAX_CALL_BYTES);
        }
        assert_eq!(joined, text);
    }

    #[test]
    fn streams_by_turns_take_a_bounded_number_of_pieces_and_lose_nothing() {
        let (mut feed, publisher) = stream();
        for _ in 0..MAX_PIECES {
            feed.output(Phase::Code, Stream::Stdout, b"o");
            feed.output(Phase::Code, Stream::Stderr, b"e");
        }
        assert_eq!(publisher.0.lock().pieces.len(), MAX_PIECES);
        let mut lengths = HashMap::from([(Stream::Stdout, 0), (Stream::Stderr, 0)]);
        loop {
            let events = publisher.0.lock().take();
            if events.is_empty() {
                break;
            }
            for (_, stream, offset, data) in outputs(&events) {
                let length = lengths.get_mut(&stream).unwrap();
                assert_eq!(offset, *length);
                *length += data.len() as u64;
            }
        }
        assert!(lengths.values().all(|length| *length == MAX_PIECES as u64), "{lengths:?}");
    }

    #[test]
    fn an_abandoned_stream_takes_no_memory() {
        let (mut feed, publisher) = stream();
        feed.output(Phase::Code, Stream::Stdout, b"a");
        assert_eq!(publisher.abandon(3), 4);
        feed.output(Phase::Code, Stream::Stdout, b"b");
        feed.setup_ended();
        assert!(publisher.0.lock().pieces.is_empty());
    }
}
