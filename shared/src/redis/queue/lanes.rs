//! Blocking reads on a cluster: one command cannot wait for streams in different slots, so each shard
//! has a lane of its own. As soon as one brings something, the others are told to end: a read left
//! open would swallow jobs that nobody then picks up.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use redis::streams::StreamReadReply;
use redis::{Cmd, RedisResult, cmd};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::redis::client::is_group_missing;
use crate::redis::cluster::{Blocking, Cluster};
use crate::redis::connection::late;
use crate::redis::keys;

/// How long a lane may take to end beyond its time; less than its reader waits.
const GRACE: Duration = Duration::from_secs(1);
/// How often a read that has to end is told so: it may not have begun when it was told first.
const TELL_EVERY: Duration = Duration::from_millis(20);
/// First and longest pause of a lane whose node cannot be reached.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The lanes of one worker.
pub(super) struct Lanes {
    cluster: Arc<Cluster>,
    lanes: Vec<Lane>,
}

/// One shard's connection.
#[derive(Default)]
struct Lane(RwLock<Option<Blocking>>);

impl Lanes {
    /// For so many shards.
    pub(super) fn new(cluster: Arc<Cluster>, shards: u16) -> Self {
        Self { cluster, lanes: (0..shards).map(|_| Lane::default()).collect() }
    }

    /// Waits until something comes, or the deadline: about `max` entries of these streams, by shard. A
    /// lane that cannot be read stops none of the others; an error if none could.
    pub(super) async fn read(
        &self,
        worker: &str,
        streams: &BTreeMap<u16, Vec<String>>,
        max: usize,
        deadline: Instant,
    ) -> RedisResult<StreamReadReply> {
        let stop = CancellationToken::new();
        let count = max.div_ceil(streams.len().max(1));
        let mut reads: FuturesUnordered<_> = streams
            .iter()
            .filter_map(|(shard, streams)| {
                let lane = self.lanes.get(usize::from(*shard))?;
                let read = Read { worker, streams, count, deadline };
                Some(self.run(lane, read, &stop))
            })
            .collect();
        let mut whole = StreamReadReply { keys: Vec::new() };
        let (mut has_read, mut failed, mut missing) = (false, None, None);
        while let Some(outcome) = reads.next().await {
            match outcome {
                Ok(reply) => {
                    has_read = true;
                    if !reply.keys.is_empty() {
                        stop.cancel();
                    }
                    whole.keys.extend(reply.keys);
                }
                Err(error) if is_group_missing(&error) => {
                    stop.cancel();
                    missing = Some(error);
                }
                Err(error) => failed = Some(error),
            }
        }
        match (whole.keys.is_empty(), missing, failed) {
            (true, Some(error), _) => Err(error),
            (true, None, Some(error)) if !has_read => Err(error),
            _ => Ok(whole),
        }
    }

    /// Reads one lane until something comes, the deadline, or the word to stop.
    async fn run(
        &self,
        lane: &Lane,
        read: Read<'_>,
        stop: &CancellationToken,
    ) -> RedisResult<StreamReadReply> {
        let nothing = || StreamReadReply { keys: Vec::new() };
        let mut pause = FIRST_PAUSE;
        loop {
            let attempt = async {
                let blocking = tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(nothing()),
                    opened = self.open(lane, &read.streams[0]) => opened?,
                };
                let command = read.command();
                let reply = self.read_one(&blocking, &command, stop);
                let reply =
                    timeout_at(read.deadline + GRACE, reply).await.unwrap_or_else(|_| Err(late()));
                reply.inspect_err(|error| {
                    if !is_group_missing(error) {
                        self.cluster.note(&blocking, error);
                        lane.set(None);
                    }
                })
            };
            match attempt.await {
                Err(error)
                    if is_group_missing(&error) || Instant::now() + pause >= read.deadline =>
                {
                    return Err(error);
                }
                Err(_) if stop.is_cancelled() => return Ok(nothing()),
                Err(_) => {}
                Ok(reply) => return Ok(reply),
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(nothing()),
                () = sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            }
        }
    }

    async fn open(&self, lane: &Lane, stream: &str) -> RedisResult<Blocking> {
        let found = lane.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(found) = found {
            return Ok(found);
        }
        let opened = self.cluster.blocking(stream).await?;
        lane.set(Some(opened.clone()));
        Ok(opened)
    }

    /// One read. Told to stop, it is ended at its node and its answer awaited: it may hold jobs.
    async fn read_one(
        &self,
        blocking: &Blocking,
        read: &Cmd,
        stop: &CancellationToken,
    ) -> RedisResult<StreamReadReply> {
        let mut connection = blocking.connection.clone();
        let mut reply =
            std::pin::pin!(read.query_async::<Option<StreamReadReply>>(&mut connection));
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                reply = &mut reply => {
                    return Ok(reply?.unwrap_or(StreamReadReply { keys: Vec::new() }));
                }
                () = async { stop.cancelled().await; sleep(pause).await } => {
                    // If it cannot be told, it ends at its own time.
                    if let Err(error) = self.cluster.unblock(blocking).await {
                        tracing::debug!(%error, "a blocking read could not be ended early");
                    }
                    pause = TELL_EVERY;
                }
            }
        }
    }
}

impl Lane {
    fn set(&self, connection: Option<Blocking>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = connection;
    }
}

/// What is read, and until when.
#[derive(Clone, Copy)]
struct Read<'a> {
    worker: &'a str,
    streams: &'a [String],
    count: usize,
    deadline: Instant,
}

impl Read<'_> {
    fn command(&self) -> Cmd {
        let block = self.deadline.saturating_duration_since(Instant::now());
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(keys::GROUP).arg(self.worker).arg("COUNT").arg(self.count);
        // 0 would mean for ever.
        read.arg("BLOCK").arg(block.as_millis().max(1)).arg("STREAMS").arg(self.streams);
        for _ in self.streams {
            read.arg(">");
        }
        read
    }
}
