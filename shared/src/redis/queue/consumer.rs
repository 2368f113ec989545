//! One worker's place in the queue: its blocking connection, and how it reads the streams. Where only
//! one priority is in use that is one read; where several are, each gets its share. Besides the plain lines
//! it reads those of the placements that it is told of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use redis::streams::{StreamId, StreamReadReply};
use redis::{RedisResult, cmd};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::lanes::Lanes;
use super::{Placements, Queue, Unreadable};
use crate::error::Error;
use crate::execution::Priority;
use crate::id::WorkerId;
use crate::redis::client::{COMMAND_TIMEOUT, failure, is_group_missing};
use crate::redis::connection::Private;
use crate::redis::keys;
use crate::redis::scripts::Entry;

/// How long priorities get their shares after one other than normal was seen.
const MIXED_FOR: Duration = Duration::from_secs(10);
/// Turns after which the shares begin anew, or a multiple of it.
const PICK_CYCLE: u64 = 1 << 20;

/// One worker's place in the queue: its blocking connection and how far it has looked.
pub struct Consumer {
    pub(super) worker: WorkerId,
    pub(super) name: String,
    /// Whether it reads only what requires labels.
    only_placed: bool,
    /// The placements that it reads.
    pub(super) placements: Placements,
    /// The streams, all lines of the most urgent priority first.
    pub(super) places: Vec<Place>,
    connection: Option<Private>,
    /// On a cluster, where one read cannot wait for all shards, in place of the connection.
    lanes: Option<Arc<Lanes>>,
    /// A read that was started and not yet answered: dropping `claim` leaves it here, so that
    /// what Redis delivers meanwhile is handed out by the next call.
    read: Option<Read>,
    /// Until when priorities are to get their shares: other than normal ones were seen not long ago.
    mixed_until: Option<Instant>,
    /// Whether the shares of all priorities were empty when last looked at.
    has_looked: bool,
    /// Entries that were read by shares.
    picked: u64,
    /// Entries delivered and not yet started, by stream; kept for the same reason.
    pub(super) delivered: Vec<Delivered>,
    /// Jobs that were delivered and cannot be read here; whoever claims takes them out.
    pub(super) unreadable: Vec<Unreadable>,
    /// Line that is served first; moves on, so that none is always last.
    pub(super) first: usize,
    pub(super) swept: Instant,
}

struct Read {
    reply: BoxFuture<'static, RedisResult<Option<StreamReadReply>>>,
    /// When a connection without an answer counts as broken.
    overdue: Instant,
}

/// One stream.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) shard: u16,
    pub(super) priority: Priority,
    pub(super) stream: Arc<str>,
    /// Where the next scan for dead workers' jobs begins.
    pub(super) cursor: String,
    /// Which of the lines it belongs to.
    line: usize,
}

pub(super) struct Delivered {
    pub(super) shard: u16,
    pub(super) stream: Arc<str>,
    pub(super) entries: Vec<Entry>,
    priority: Priority,
    line: usize,
}

impl Place {
    pub(super) fn delivers(&self, entries: Vec<Entry>) -> Delivered {
        let Self { shard, priority, line, .. } = *self;
        Delivered { shard, stream: Arc::clone(&self.stream), entries, priority, line }
    }
}

impl Queue {
    /// Opens a worker's place in the queue.
    ///
    /// # Errors
    /// [`crate::ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn consumer(&self, worker: WorkerId) -> Result<Consumer, Error> {
        self.consumer_of(worker, false).await
    }

    /// The same for a worker that may take only jobs that require labels: it reads nothing until it is told
    /// of [placements](Consumer::read_placements).
    ///
    /// # Errors
    /// As [`consumer`](Self::consumer).
    pub async fn consumer_of(
        &self,
        worker: WorkerId,
        only_placed: bool,
    ) -> Result<Consumer, Error> {
        let client = self.client();
        let lanes =
            client.cluster().map(|it| Arc::new(Lanes::new(Arc::clone(it), self.shards().end)));
        let connection = match &lanes {
            Some(_) => None,
            None => Some(client.private().await.map_err(failure)?),
        };
        let placements = Placements::default();
        Ok(Consumer {
            worker,
            name: worker.to_string(),
            places: places(self.shards(), only_placed, &placements, &[]),
            only_placed,
            placements,
            connection,
            lanes,
            read: None,
            mixed_until: None,
            has_looked: false,
            picked: 0,
            delivered: Vec::new(),
            unreadable: Vec::new(),
            first: 0,
            swept: Instant::now(),
        })
    }
}

/// The streams to read; where one was read before, the look at it goes on where it was.
fn places(
    shards: std::ops::Range<u16>,
    only_placed: bool,
    placements: &Placements,
    former: &[Place],
) -> Vec<Place> {
    let plain = shards.filter(|_| !only_placed).map(|shard| (shard, None));
    let placed = placements.iter().map(|(shard, placement)| (shard, Some(placement)));
    let lines: Vec<_> = plain.chain(placed).collect();
    let place = |priority, line, (shard, placement)| {
        let stream: Arc<str> = keys::line(shard, priority, placement).into();
        let before = former.iter().find(|it| it.stream == stream);
        let cursor = before.map_or_else(|| "0-0".to_owned(), |it| it.cursor.clone());
        Place { shard, priority, stream, cursor, line }
    };
    let of_priority = |priority: &Priority| {
        let priority = *priority;
        lines.iter().enumerate().map(move |(line, it)| place(priority, line, *it))
    };
    Priority::ALL.iter().flat_map(of_priority).collect()
}

impl Consumer {
    /// Has it read the lines of these placements from now on, besides the plain ones. A read that is under
    /// way goes on as it is.
    pub fn read_placements(&mut self, queue: &Queue, placements: Placements) {
        self.places = places(queue.shards(), self.only_placed, &placements, &self.places);
        self.placements = placements;
    }

    /// Jobs that were delivered and cannot be read here, to be [passed on](Queue::pass_on).
    pub fn take_unreadable(&mut self) -> Vec<Unreadable> {
        std::mem::take(&mut self.unreadable)
    }

    fn lines(&self) -> usize {
        self.places.len() / Priority::ALL.len()
    }

    /// Fills `delivered`, unless something is left there; leaves it empty at the deadline.
    pub(super) async fn read(
        &mut self,
        queue: &Queue,
        max: usize,
        deadline: Instant,
    ) -> RedisResult<()> {
        if !self.delivered.is_empty() {
            return Ok(());
        }
        if self.read.is_none() && self.places.is_empty() {
            sleep_until(deadline).await;
            return Ok(());
        }
        if self.read.is_none() {
            // What there is, by shares; only when there is nothing, wait for what comes.
            self.read = Some(if self.takes_turns() && !self.has_looked {
                self.start_pick(queue, max)
            } else {
                self.start_read(queue, max, deadline).await?
            });
        }
        let read = self.read.as_mut().expect("a read was started above");
        let overdue = read.overdue;
        // Redis answers a read at the read's own deadline. Where that comes in time, wait for it:
        // a read left open may swallow a job that nobody then picks up.
        let until = if overdue <= deadline + COMMAND_TIMEOUT { overdue } else { deadline };
        match timeout_at(until, &mut read.reply).await {
            Ok(reply) => {
                self.read = None;
                let reply = reply.inspect_err(|error| {
                    if !is_group_missing(error) {
                        self.connection = None;
                    }
                })?;
                self.deliver(reply.unwrap_or_default());
                // Nothing by shares is not the end yet.
                let is_looking = self.delivered.is_empty() && !self.has_looked;
                self.has_looked = self.delivered.is_empty();
                if is_looking && self.takes_turns() {
                    return Box::pin(self.read(queue, max, deadline)).await;
                }
                Ok(())
            }
            Err(_) if Instant::now() >= overdue => {
                self.read = None;
                self.connection = None;
                let late = "the blocking read was not answered in time";
                Err(std::io::Error::new(std::io::ErrorKind::TimedOut, late).into())
            }
            Err(_) => Ok(()),
        }
    }

    /// Whether what is there is to be read line by line, so that each gets its share and no more is read
    /// than there is room for.
    fn takes_turns(&self) -> bool {
        !self.placements.is_empty() || self.mixed_until.is_some_and(|until| Instant::now() < until)
    }

    /// Reads what is there, each priority getting its share.
    fn start_pick(&mut self, queue: &Queue, max: usize) -> Read {
        let lines = self.lines();
        self.first = (self.first + 1) % self.places.len();
        let (queue, name, read) = (queue.clone(), self.name.clone(), self.picked);
        let first = self.first % lines;
        let streams: Vec<Vec<String>> = (0..lines)
            .map(|step| (first + step) % lines)
            .map(|line| self.places.iter().filter(move |it| it.line == line))
            .map(|of_line| of_line.map(|it| it.stream.to_string()).collect())
            .collect();
        let pick = async move {
            let mut whole = StreamReadReply { keys: Vec::new() };
            let mut left = max;
            let mut failed = None;
            for streams in streams {
                let picked = queue.inner.scripts.pick(&streams, &name, left, read).await;
                let some: Option<StreamReadReply> = match picked {
                    Ok(some) => some,
                    // Of a cluster, a part may be away; that stops none of the others.
                    Err(error) if queue.inner.client.cluster().is_some() => {
                        failed = Some(error);
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                let keys = some.unwrap_or_default().keys;
                left = left.saturating_sub(keys.iter().map(|it| it.ids.len()).sum());
                whole.keys.extend(keys);
                if left == 0 {
                    break;
                }
            }
            match failed {
                Some(error) if whole.keys.is_empty() => Err(error),
                _ => Ok(Some(whole)),
            }
        };
        // A task, as it goes over the connection that all share, and may be making that anew: left open
        // and not polled, it would keep everybody from it.
        let mut task = JoinSet::new();
        task.spawn(pick);
        let reply = Box::pin(async move {
            let ended = task.join_next().await.and_then(Result::ok);
            ended.unwrap_or_else(|| Err(std::io::Error::other("a read by shares broke off").into()))
        });
        let steps = u32::try_from(lines).unwrap_or(u32::MAX);
        Read { reply, overdue: Instant::now() + COMMAND_TIMEOUT.saturating_mul(steps) }
    }

    async fn start_read(
        &mut self,
        queue: &Queue,
        max: usize,
        deadline: Instant,
    ) -> RedisResult<Read> {
        self.first = (self.first + 1) % self.places.len();
        if let Some(lanes) = &self.lanes {
            let (lanes, name) = (Arc::clone(lanes), self.name.clone());
            let mut streams: BTreeMap<u16, Vec<String>> = BTreeMap::new();
            for place in &self.places {
                streams.entry(place.shard).or_default().push(place.stream.to_string());
            }
            let reply =
                Box::pin(async move { lanes.read(&name, &streams, max, deadline).await.map(Some) });
            return Ok(Read { reply, overdue: deadline + COMMAND_TIMEOUT });
        }
        let mut connection = match &self.connection {
            Some(connection) => connection.clone(),
            None => self.connection.insert(queue.inner.client.private().await?).clone(),
        };
        let mut read = cmd("XREADGROUP");
        // COUNT is per stream; what exceeds `max` over all of them goes straight back. That other
        // priorities than one are in use is rare, and soon noticed: then they are read by shares.
        read.arg("GROUP").arg(keys::GROUP).arg(&self.name);
        read.arg("COUNT").arg(max.div_ceil(self.lines()));
        // 0 would mean for ever.
        let block = deadline.saturating_duration_since(Instant::now());
        read.arg("BLOCK").arg(block.as_millis().max(1));
        read.arg("STREAMS");
        for place in &self.places {
            read.arg(&*place.stream);
        }
        for _ in &self.places {
            read.arg(">");
        }
        let reply = Box::pin(async move { read.query_async(&mut connection).await });
        Ok(Read { reply, overdue: deadline + COMMAND_TIMEOUT })
    }

    /// Drops entries that were delivered and not started, as they were taken over after all: they
    /// would be started twice.
    pub(super) fn forget_delivered(&mut self, place: usize, taken_over: &[Entry]) {
        let stream = &self.places[place].stream;
        for it in self.delivered.iter_mut().filter(|it| it.stream == *stream) {
            it.entries.retain(|entry| taken_over.iter().all(|one| one.entry != entry.entry));
        }
        self.delivered.retain(|it| !it.entries.is_empty());
    }

    /// What a reply brings, stream by stream.
    pub(super) fn sort_out(&mut self, reply: StreamReadReply) -> Vec<Delivered> {
        let mut delivered = Vec::with_capacity(reply.keys.len());
        for stream in reply.keys {
            // A stream goes only when nothing is in it: what was delivered is still among these.
            let Some(place) = self.places.iter().find(|place| *place.stream == *stream.key) else {
                continue;
            };
            let entries: Vec<_> = stream.ids.into_iter().map(entry_of).collect();
            if entries.is_empty() {
                continue;
            }
            if place.priority != Priority::Normal {
                self.mixed_until = Some(Instant::now() + MIXED_FOR);
            }
            self.picked = self.picked.wrapping_add(entries.len() as u64) % PICK_CYCLE;
            delivered.push(place.delivers(entries));
        }
        delivered
    }

    fn deliver(&mut self, reply: StreamReadReply) {
        self.delivered = self.sort_out(reply);
        let lines = self.lines();
        let turn = |line: usize| (line + lines - self.first % lines) % lines;
        self.delivered.sort_by_key(|it| (it.priority, turn(it.line)));
    }
}

pub(super) fn entry_of(id: StreamId) -> Entry {
    // An entry that names no job gets a name without a record, and is dropped as such.
    let job = id.get(keys::ENTRY_JOB).unwrap_or_default();
    Entry { entry: id.id, job }
}
