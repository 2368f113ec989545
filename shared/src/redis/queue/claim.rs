//! How a worker gets jobs: new ones by a blocking read, dead workers' ones by taking over entries
//! whose lease ran out. Either way one script then starts all of them.

use std::time::Duration;

use futures_util::future::{BoxFuture, try_join_all};
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamAutoClaimReply, StreamId, StreamInfoConsumersReply, StreamReadReply};
use redis::{RedisResult, cmd};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Claimed, Lease, OwnedSession, Queue, serialize};
use crate::error::{Error, ErrorCode};
use crate::execution::{Call, Ending, Failure, Job};
use crate::id::{JobId, SessionId, TenantId, WorkerId};
use crate::redis::client::{COMMAND_TIMEOUT, failure, is_group_missing};
use crate::redis::keys;
use crate::redis::scripts::{Entry, Take, Taken};

/// First and longest pause between attempts to get a connection back.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Most scans of one shard's pending entries in one reclaim; each looks at ten entries or more.
const SCANS_PER_RECLAIM: usize = 64;
/// Leases without a sign of life after which an empty consumer is removed.
const SILENT_LEASES: u64 = 4;

/// One worker's place in the queue: its blocking connection and how far it has looked.
pub struct Consumer {
    worker: WorkerId,
    name: String,
    streams: Vec<String>,
    connection: Option<MultiplexedConnection>,
    /// A read that was started and not yet answered: dropping `claim` leaves it here, so that
    /// what Redis delivers meanwhile is handed out by the next call.
    read: Option<Read>,
    /// Entries delivered and not yet started, by shard; kept for the same reason.
    delivered: Vec<Delivered>,
    /// Shard that is served first; moves on, so that none is always last.
    first: usize,
    /// Per shard, where the next scan for dead workers' jobs begins.
    cursors: Vec<String>,
    swept: Instant,
}

struct Read {
    reply: BoxFuture<'static, RedisResult<Option<StreamReadReply>>>,
    /// When a connection without an answer counts as broken.
    overdue: Instant,
}

struct Delivered {
    shard: u16,
    entries: Vec<Entry>,
}

impl Queue {
    /// Opens a worker's place in the queue.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn consumer(&self, worker: WorkerId) -> Result<Consumer, Error> {
        let connection = self.inner.client.blocking().await.map_err(failure)?;
        Ok(Consumer {
            worker,
            name: worker.to_string(),
            streams: self.shards().map(keys::jobs).collect(),
            connection: Some(connection),
            read: None,
            delivered: Vec::new(),
            first: 0,
            cursors: vec!["0-0".to_owned(); usize::from(self.inner.config.shards)],
            swept: Instant::now(),
        })
    }

    /// Waits up to `block` for new jobs and starts at most `max` of them; the caller has that many
    /// free places. Returns as soon as there is one. None if `max` is 0.
    ///
    /// Dropping the future loses nothing: what was delivered is handed out by the next call, or,
    /// if there is none within the lease time, to another worker.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis could not be reached for all of `block`.
    pub async fn claim(
        &self,
        consumer: &mut Consumer,
        max: usize,
        block: Duration,
    ) -> Result<Vec<Claimed>, Error> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let deadline = Instant::now() + block;
        let mut pause = RECONNECT_PAUSE;
        loop {
            match consumer.read(self, max, deadline).await {
                Ok(()) if consumer.delivered.is_empty() => return Ok(Vec::new()),
                Ok(()) => {
                    let claimed = self.start_delivered(consumer, max).await?;
                    if !claimed.is_empty() || Instant::now() >= deadline {
                        return Ok(claimed);
                    }
                }
                Err(error) if is_group_missing(&error) => {
                    tracing::warn!("the queue's streams have gone from Redis; creating them anew");
                    self.prepare().await?;
                    if Instant::now() >= deadline {
                        return Ok(Vec::new());
                    }
                }
                Err(error) => {
                    if Instant::now() + pause >= deadline {
                        sleep(deadline.saturating_duration_since(Instant::now())).await;
                        return Err(failure(error));
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(RECONNECT_PAUSE_MAX);
                }
            }
        }
    }

    /// Takes over jobs whose lease ran out, at most `max`, from wherever the last call stopped.
    /// Those delivered too often are ended as [`ErrorCode::WorkerLost`] instead.
    ///
    /// A worker that lost touch with Redis for a lease time may get its own job back; its former
    /// lease of it is fenced then.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn reclaim(
        &self,
        consumer: &mut Consumer,
        max: usize,
    ) -> Result<Vec<Claimed>, Error> {
        let mut claimed = Vec::new();
        let shards = consumer.streams.len();
        for step in 0..shards {
            let place = (consumer.first + step) % shards;
            for _ in 0..SCANS_PER_RECLAIM {
                if claimed.len() >= max {
                    return Ok(claimed);
                }
                let entries = self.take_over(consumer, place, max - claimed.len()).await?;
                if !entries.is_empty() {
                    let room = max - claimed.len();
                    let shard = shard_at(place);
                    claimed.extend(self.start(consumer.worker, shard, &entries, room, true).await?);
                }
                if consumer.cursors[place] == "0-0" {
                    break;
                }
            }
        }
        self.sweep(consumer).await?;
        Ok(claimed)
    }

    /// One scan of a shard's pending entries.
    async fn take_over(
        &self,
        consumer: &mut Consumer,
        place: usize,
        count: usize,
    ) -> Result<Vec<Entry>, Error> {
        let mut scan = cmd("XAUTOCLAIM");
        scan.arg(&consumer.streams[place])
            .arg(keys::GROUP)
            .arg(&consumer.name)
            .arg(self.inner.config.lease_ms)
            .arg(&consumer.cursors[place])
            .arg("COUNT")
            .arg(count);
        let reply: StreamAutoClaimReply = match self.inner.client.run(&scan).await {
            Err(error) if is_group_missing(&error) => {
                self.prepare().await?;
                return Ok(Vec::new());
            }
            outcome => outcome.map_err(failure)?,
        };
        consumer.cursors[place] = reply.next_stream_id;
        Ok(reply.claimed.into_iter().map(entry_of).collect())
    }

    /// Starts what was read, at most `max` jobs over all shards.
    async fn start_delivered(
        &self,
        consumer: &mut Consumer,
        max: usize,
    ) -> Result<Vec<Claimed>, Error> {
        let mut room = max;
        let mut steps = Vec::with_capacity(consumer.delivered.len());
        for delivered in &consumer.delivered {
            let share = room.min(delivered.entries.len());
            room -= share;
            steps.push(self.start(
                consumer.worker,
                delivered.shard,
                &delivered.entries,
                share,
                false,
            ));
        }
        let started = try_join_all(steps).await?;
        consumer.delivered.clear();
        Ok(started.into_iter().flatten().collect())
    }

    /// Runs the script for one shard and sorts its answers.
    async fn start(
        &self,
        worker: WorkerId,
        shard: u16,
        entries: &[Entry],
        room: usize,
        stolen: bool,
    ) -> Result<Vec<Claimed>, Error> {
        let name = worker.to_string();
        let take = Take {
            shard,
            worker: &name,
            entries,
            room,
            theft: stolen.then(|| JobId::generate().to_string()),
        };
        let answers = self.inner.scripts.take(&take).await.map_err(failure)?;
        let mut claimed = Vec::with_capacity(answers.len());
        for (entry, answer) in entries.iter().zip(answers) {
            let job = entry.job.as_str();
            match answer.0.as_str() {
                "taken" => claimed.extend(self.unpack(worker, shard, entry, answer).await?),
                "missing" => tracing::warn!(job, "a queued job had no record; dropped its entry"),
                "ended" => tracing::warn!(job, "a job was given up: its worker was lost"),
                outcome => tracing::debug!(job, outcome, "a delivered job was not started"),
            }
        }
        Ok(claimed)
    }

    /// Reads a started job. One that cannot be read would fail on every worker: it ends here.
    async fn unpack(
        &self,
        worker: WorkerId,
        shard: u16,
        entry: &Entry,
        (_, attempt, waited_us, age_us, tenant, payload, session): Taken,
    ) -> Result<Option<Claimed>, Error> {
        let Ok(job) = entry.job.parse() else {
            tracing::warn!(job = entry.job, "a queued job has an identifier that is none");
            return Ok(None);
        };
        let lease = Lease { job, shard, entry: entry.entry.clone(), attempt };
        let tenant = TenantId::new(tenant);
        match parse(&payload, &lease, &tenant, &session) {
            Ok((job, opens)) => Ok(Some(Claimed {
                lease,
                tenant,
                job,
                attempt,
                queued_ms: Duration::from_micros(waited_us).as_secs_f64() * 1000.0,
                age: Duration::from_micros(age_us),
                opens,
            })),
            Err(error) => {
                tracing::warn!(%job, %error, "a queued job is not readable by this version");
                let ending = Ending::Error(Failure::new(
                    ErrorCode::Internal,
                    "The job cannot be read by the worker's version of isol8.",
                ));
                let worker = worker.to_string();
                let held = lease.held(&worker);
                let (text, summary) = (serialize(&ending)?, serialize(&ending.summary())?);
                self.inner.scripts.finish(&held, &text, &summary).await.map_err(failure)?;
                Ok(None)
            }
        }
    }

    /// Now and then removes consumers of dead workers, once they hold nothing any more.
    async fn sweep(&self, consumer: &mut Consumer) -> Result<(), Error> {
        let silent_ms = self.inner.config.lease_ms.saturating_mul(SILENT_LEASES);
        if consumer.swept.elapsed() < Duration::from_millis(silent_ms) {
            return Ok(());
        }
        consumer.swept = Instant::now();
        for place in 0..consumer.streams.len() {
            let mut list = cmd("XINFO");
            list.arg("CONSUMERS").arg(&consumer.streams[place]).arg(keys::GROUP);
            let found: StreamInfoConsumersReply =
                self.inner.client.run(&list).await.map_err(failure)?;
            for other in found.consumers {
                let silent = u64::try_from(other.idle).unwrap_or(u64::MAX) > silent_ms;
                if silent && other.pending == 0 && other.name != consumer.name {
                    let shard = shard_at(place);
                    self.inner.scripts.leave(shard, &other.name).await.map_err(failure)?;
                }
            }
        }
        Ok(())
    }
}

impl Consumer {
    /// Fills `delivered`, unless something is left there; leaves it empty at the deadline.
    async fn read(&mut self, queue: &Queue, max: usize, deadline: Instant) -> RedisResult<()> {
        if !self.delivered.is_empty() {
            return Ok(());
        }
        if self.read.is_none() {
            self.read = Some(self.start_read(queue, max, deadline).await?);
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

    async fn start_read(
        &mut self,
        queue: &Queue,
        max: usize,
        deadline: Instant,
    ) -> RedisResult<Read> {
        let mut connection = match &self.connection {
            Some(connection) => connection.clone(),
            None => self.connection.insert(queue.inner.client.blocking().await?).clone(),
        };
        self.first = (self.first + 1) % self.streams.len();
        let mut read = cmd("XREADGROUP");
        // COUNT is per stream; what exceeds `max` over all of them goes straight back.
        read.arg("GROUP").arg(keys::GROUP).arg(&self.name);
        read.arg("COUNT").arg(max.div_ceil(self.streams.len()));
        // 0 would mean for ever.
        let block = deadline.saturating_duration_since(Instant::now());
        read.arg("BLOCK").arg(block.as_millis().max(1));
        read.arg("STREAMS").arg(&self.streams);
        for _ in &self.streams {
            read.arg(">");
        }
        let reply = Box::pin(async move { read.query_async(&mut connection).await });
        Ok(Read { reply, overdue: deadline + COMMAND_TIMEOUT })
    }

    fn deliver(&mut self, reply: StreamReadReply) {
        for stream in reply.keys {
            let Some(place) = self.streams.iter().position(|name| *name == stream.key) else {
                continue;
            };
            let entries: Vec<_> = stream.ids.into_iter().map(entry_of).collect();
            if !entries.is_empty() {
                self.delivered.push(Delivered { shard: shard_at(place), entries });
            }
        }
        let (first, shards) = (self.first, self.streams.len());
        self.delivered.sort_by_key(|it| (usize::from(it.shard) + shards - first) % shards);
    }
}

/// Reads a payload: that of a job, or, with a session's name, that of the call that opens it.
fn parse(
    payload: &[u8],
    lease: &Lease,
    tenant: &TenantId,
    session: &str,
) -> Result<(Job, Option<OwnedSession>), Error> {
    let unreadable =
        |error| Error::new(ErrorCode::Internal, "unreadable payload").with_source(error);
    if session.is_empty() {
        return Ok((serde_json::from_slice(payload).map_err(unreadable)?, None));
    }
    let (_, id) = session.split_once(':').unwrap_or_default();
    let opens = OwnedSession {
        tenant: tenant.clone(),
        id: SessionId::new(id)?,
        shard: lease.shard,
        opening: lease.job,
    };
    match serde_json::from_slice(payload).map_err(unreadable)? {
        Call::Execute { job } => Ok((job, Some(opens))),
        _ => Err(Error::new(ErrorCode::Internal, "a session cannot be opened by a file")),
    }
}

fn entry_of(id: StreamId) -> Entry {
    // An entry that names no job gets a name without a record, and is dropped as such.
    let job = id.get(keys::ENTRY_JOB).unwrap_or_default();
    Entry { entry: id.id, job }
}

fn shard_at(place: usize) -> u16 {
    u16::try_from(place).expect("there is one place per shard, and shards are counted in u16")
}
