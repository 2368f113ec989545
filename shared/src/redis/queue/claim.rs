//! How a worker gets jobs: new ones by a blocking read, dead workers' ones by taking over entries
//! whose lease ran out. Either way one script then starts all of them.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use redis::cmd;
use redis::streams::{StreamAutoClaimReply, StreamInfoConsumersReply};
use tokio::time::{Instant, sleep};

use super::consumer::{Consumer, Delivered, Place, entry_of};
use super::{Claimed, Lease, OwnedSession, Queue, RunningBatch, now_ms};
use crate::error::{Error, ErrorCode};
use crate::execution::{Call, Failure, Job, Terms};
use crate::id::{JobId, SessionId, TenantId, WorkerId};
use crate::redis::client::{failure, is_group_missing};
use crate::redis::keys;
use crate::redis::scripts::{Entry, Take, Taken};

/// First and longest pause between attempts to get a connection back.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Most scans of one shard's pending entries in one reclaim; each looks at ten entries or more.
const SCANS_PER_RECLAIM: usize = 64;
/// Leases without a sign of life after which an empty consumer is removed.
const SILENT_LEASES: u64 = 4;

impl Queue {
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
        let places = consumer.places.len();
        // Shards of a cluster that cannot be reached; the others have no less to be taken over.
        let (mut away, mut failed) = (BTreeSet::new(), None);
        for step in 0..places {
            let place = (consumer.first + step) % places;
            let shard = consumer.places[place].shard;
            if away.contains(&shard) {
                continue;
            }
            match self.reclaim_from(consumer, place, max, &mut claimed).await {
                Ok(()) if claimed.len() >= max => return Ok(claimed),
                Ok(()) => {}
                Err(error) if self.client().cluster().is_some() => {
                    away.insert(shard);
                    failed = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        match failed {
            Some(error) if away.len() == self.shards().len() => return Err(error),
            Some(error) => {
                tracing::warn!(%error, shards = away.len(), "a part of the queue is away")
            }
            None => self.sweep(consumer).await?,
        }
        Ok(claimed)
    }

    /// Takes over what is left in one stream, at most `max` with what was claimed before.
    async fn reclaim_from(
        &self,
        consumer: &mut Consumer,
        place: usize,
        max: usize,
        claimed: &mut Vec<Claimed>,
    ) -> Result<(), Error> {
        for _ in 0..SCANS_PER_RECLAIM {
            if claimed.len() >= max {
                break;
            }
            let room = max - claimed.len();
            let entries = self.take_over(consumer, place, room).await?;
            consumer.forget_delivered(place, &entries);
            if !entries.is_empty() {
                let Place { shard, priority, .. } = consumer.places[place];
                let delivered = Delivered { shard, priority, entries };
                claimed.extend(self.start(consumer.worker, &delivered, room, true).await?);
            }
            if consumer.cursors[place] == "0-0" {
                break;
            }
        }
        Ok(())
    }

    /// One scan of a shard's pending entries.
    async fn take_over(
        &self,
        consumer: &mut Consumer,
        place: usize,
        count: usize,
    ) -> Result<Vec<Entry>, Error> {
        let mut scan = cmd("XAUTOCLAIM");
        scan.arg(&consumer.places[place].stream)
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
            steps.push(self.start(consumer.worker, delivered, share, false));
        }
        if self.client().cluster().is_none() {
            let started = try_join_all(steps).await?;
            consumer.delivered.clear();
            return Ok(started.into_iter().flatten().collect());
        }
        // A part of a cluster may be away. Its jobs come again when their leases have run out; waiting
        // for it would hold up all others.
        let (mut claimed, mut failed) = (Vec::new(), None);
        for outcome in join_all(steps).await {
            match outcome {
                Ok(some) => claimed.extend(some),
                Err(error) => failed = Some(error),
            }
        }
        consumer.delivered.clear();
        match failed {
            Some(error) if claimed.is_empty() => Err(error),
            Some(error) => {
                tracing::warn!(%error, "jobs were delivered and could not be started");
                Ok(claimed)
            }
            None => Ok(claimed),
        }
    }

    /// Runs the script for one shard and sorts its answers.
    async fn start(
        &self,
        worker: WorkerId,
        delivered: &Delivered,
        room: usize,
        stolen: bool,
    ) -> Result<Vec<Claimed>, Error> {
        let name = worker.to_string();
        let Delivered { shard, priority, entries } = delivered;
        let take = Take {
            shard: *shard,
            priority: *priority,
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
                "taken" => {
                    let (shard, priority, entry) = (*shard, *priority, entry.entry.clone());
                    let Ok(job) = job.parse() else {
                        tracing::warn!(job, "a queued job has an identifier that is none");
                        continue;
                    };
                    let taken_ms = now_ms();
                    let (attempt, batch) = (answer.1, None);
                    let lease = Lease { job, shard, priority, entry, attempt, taken_ms, batch };
                    claimed.extend(self.unpack(worker, lease, answer).await?);
                }
                "missing" => tracing::warn!(job, "a queued job had no record; dropped its entry"),
                "ended" => {
                    tracing::warn!(job, "a job was given up: it was not to be begun (again)")
                }
                outcome => tracing::debug!(job, outcome, "a delivered job was not started"),
            }
        }
        Ok(claimed)
    }

    /// Reads a started job. One that cannot be read would fail on every worker: it is given up here.
    async fn unpack(
        &self,
        worker: WorkerId,
        mut lease: Lease,
        taken: Taken,
    ) -> Result<Option<Claimed>, Error> {
        let (_, attempt, waited_us, age_us, tenant, payload, session, terms, tries, first_event) =
            taken;
        let tenant = TenantId::new(tenant);
        let terms: Option<Terms> = serde_json::from_str(&terms).ok();
        let batch = terms.as_ref().and_then(|terms| terms.batch);
        lease.batch = batch.map(|id| RunningBatch { shard: lease.shard, id });
        match parse(&payload, &lease, &tenant, &session) {
            Ok((job, opens)) => Ok(Some(Claimed {
                lease,
                tenant,
                job,
                attempt,
                queued_ms: Duration::from_micros(waited_us).as_secs_f64() * 1000.0,
                age: Duration::from_micros(age_us),
                terms,
                tries,
                first_event,
                opens,
            })),
            Err(error) => {
                tracing::warn!(job = %lease.job, %error, "a queued job is not readable here");
                let cause = Failure::new(
                    ErrorCode::Internal,
                    "The job cannot be read by the worker's version of isol8. Upgrade workers \
                     before gateways, and have it run after all, or submit it again.",
                );
                self.give_up(worker, &lease, cause).await?;
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
        for place in &consumer.places {
            let mut list = cmd("XINFO");
            list.arg("CONSUMERS").arg(&place.stream).arg(keys::GROUP);
            let found: StreamInfoConsumersReply =
                self.inner.client.run(&list).await.map_err(failure)?;
            for other in found.consumers {
                let silent = u64::try_from(other.idle).unwrap_or(u64::MAX) > silent_ms;
                if silent && other.pending == 0 && other.name != consumer.name {
                    let stream = place.stream.clone();
                    self.inner.scripts.leave(stream, &other.name).await.map_err(failure)?;
                }
            }
        }
        Ok(())
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
