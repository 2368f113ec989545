//! How a worker gets jobs: new ones by a blocking read, dead workers' ones by taking over entries
//! whose lease ran out. Either way one script then starts all of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use redis::cmd;
use redis::streams::{StreamAutoClaimReply, StreamInfoConsumersReply, StreamReadReply};
use tokio::time::{Instant, sleep};

use super::consumer::{Consumer, Delivered, entry_of};
use super::{Claimed, Lease, OwnedSession, Placements, Queue, RunningBatch, Unreadable, now_ms};
use crate::error::{Error, ErrorCode};
use crate::execution::{Call, Failure, Job, Priority, Terms};
use crate::id::{JobId, SessionId, TenantId, WorkerId};
use crate::redis::client::{failure, is_group_missing, is_key_missing};
use crate::redis::keys;
use crate::redis::scripts::{Entry, Take, Taken};
use crate::sealing::{Owner, Place, Purpose};

/// First and longest pause between attempts to get a connection back.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Most scans of one shard's pending entries in one reclaim; each looks at ten entries or more.
const SCANS_PER_RECLAIM: usize = 64;
/// Leases without a sign of life after which an empty consumer is removed.
const SILENT_LEASES: u64 = 4;

impl Queue {
    /// Waits up to `block` for new jobs and starts at most `max` of them; the caller has that many
    /// free places. Returns as soon as there is one, or one that [cannot be read
    /// here](Consumer::take_unreadable). None if `max` is 0.
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
                    let is_idle = claimed.is_empty() && consumer.unreadable.is_empty();
                    if !is_idle || Instant::now() >= deadline {
                        return Ok(claimed);
                    }
                }
                Err(error) if is_group_missing(&error) => {
                    self.restore(consumer).await?;
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
        let shards: BTreeSet<u16> = consumer.places.iter().map(|it| it.shard).collect();
        match failed {
            Some(error) if away.len() == shards.len() => return Err(error),
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
                let delivered = consumer.places[place].delivers(entries);
                let started = self.start(consumer.worker, &delivered, room, true).await?;
                claimed.extend(consumer.keep(started));
            }
            if consumer.places[place].cursor == "0-0" {
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
        scan.arg(&*consumer.places[place].stream)
            .arg(keys::GROUP)
            .arg(&consumer.name)
            .arg(self.inner.config.lease_ms)
            .arg(&consumer.places[place].cursor)
            .arg("COUNT")
            .arg(count);
        let reply: StreamAutoClaimReply = match self.inner.client.run(&scan).await {
            Err(error) if is_group_missing(&error) => {
                // Not `restore`, which would change the places under this look at them.
                self.restore_all(&consumer.placements).await?;
                return Ok(Vec::new());
            }
            outcome => outcome.map_err(failure)?,
        };
        consumer.places[place].cursor = reply.next_stream_id;
        Ok(reply.claimed.into_iter().map(entry_of).collect())
    }

    /// Creates streams and groups that have gone, but for those of placements that are not to be any more.
    async fn restore(&self, consumer: &mut Consumer) -> Result<(), Error> {
        let found = self.placements_among(&consumer.placements).await?;
        if found == consumer.placements {
            tracing::warn!("the queue's streams have gone from Redis; creating them anew");
        }
        consumer.read_placements(self, found);
        self.restore_all(&consumer.placements).await
    }

    /// Creates the plain streams and groups that have gone, and those of these placements.
    async fn restore_all(&self, placements: &Placements) -> Result<(), Error> {
        // A part of a cluster may be away; that stops none of the others.
        let prepared = self.prepare().await;
        self.restore_lines(placements).await.and(prepared)
    }

    /// Starts at most `max` jobs of placements that the consumer was just told of, without waiting for any:
    /// a read that is under way does not see them yet. None if there are none.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn claim_placed(
        &self,
        consumer: &mut Consumer,
        placements: Placements,
        max: usize,
    ) -> Result<Vec<Claimed>, Error> {
        let fresh = placements.without(&consumer.placements);
        consumer.read_placements(self, placements);
        let mut left = max;
        for (shard, placement) in fresh.iter() {
            if left == 0 {
                break;
            }
            let streams = Priority::ALL.map(|it| keys::line(shard, it, Some(placement)));
            let picked = self.inner.scripts.pick(&streams, &consumer.name, left, 0).await;
            let picked: Option<StreamReadReply> = match picked {
                Ok(picked) => picked,
                // It came and went.
                Err(error) if is_group_missing(&error) => continue,
                // Of a cluster, a part may be away; that stops none of the others.
                Err(error) if self.client().cluster().is_some() => {
                    tracing::warn!(%error, placement, "cannot look at jobs that require labels");
                    continue;
                }
                Err(error) if consumer.delivered.is_empty() => return Err(failure(error)),
                Err(_) => break,
            };
            for delivered in consumer.sort_out(picked.unwrap_or_default()) {
                left = left.saturating_sub(delivered.entries.len());
                consumer.delivered.push(delivered);
            }
        }
        self.start_delivered(consumer, max).await
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
            return Ok(started.into_iter().flat_map(|started| consumer.keep(started)).collect());
        }
        // A part of a cluster may be away. Its jobs come again when their leases have run out; waiting
        // for it would hold up all others.
        let (mut started, mut failed) = (Vec::new(), None);
        for outcome in join_all(steps).await {
            match outcome {
                Ok(some) => started.push(some),
                Err(error) => failed = Some(error),
            }
        }
        consumer.delivered.clear();
        let claimed: Vec<_> = started.into_iter().flat_map(|some| consumer.keep(some)).collect();
        match failed {
            Some(error) if claimed.is_empty() && consumer.unreadable.is_empty() => Err(error),
            Some(error) => {
                tracing::warn!(%error, "jobs were delivered and could not be started");
                Ok(claimed)
            }
            None => Ok(claimed),
        }
    }

    /// Runs the script for one stream and sorts its answers.
    async fn start(
        &self,
        worker: WorkerId,
        delivered: &Delivered,
        room: usize,
        stolen: bool,
    ) -> Result<Vec<Started>, Error> {
        let name = worker.to_string();
        let Delivered { shard, stream, entries, .. } = delivered;
        let take = Take {
            shard: *shard,
            stream,
            worker: &name,
            entries,
            room,
            theft: stolen.then(|| JobId::generate().to_string()),
        };
        let answers = self.inner.scripts.take(&take).await.map_err(failure)?;
        let mut started = Vec::with_capacity(answers.len());
        for (entry, answer) in entries.iter().zip(answers) {
            let job = entry.job.as_str();
            match answer.0.as_str() {
                "taken" => {
                    let (shard, entry) = (*shard, entry.entry.clone());
                    let stream = Arc::clone(stream);
                    let Ok(job) = job.parse() else {
                        tracing::warn!(job, "a queued job has an identifier that is none");
                        continue;
                    };
                    let taken_ms = now_ms();
                    let (attempt, batch) = (answer.1, None);
                    let lease = Lease { job, shard, stream, entry, attempt, taken_ms, batch };
                    started.push(self.unpack(lease, answer));
                }
                "missing" => tracing::warn!(job, "a queued job had no record; dropped its entry"),
                "ended" => {
                    tracing::warn!(job, "a job was given up: it was not to be begun (again)")
                }
                outcome => tracing::debug!(job, outcome, "a delivered job was not started"),
            }
        }
        Ok(started)
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
            list.arg("CONSUMERS").arg(&*place.stream).arg(keys::GROUP);
            let found: StreamInfoConsumersReply = match self.inner.client.run(&list).await {
                // A placement that nothing stood in has gone.
                Err(error) if is_group_missing(&error) || is_key_missing(&error) => continue,
                outcome => outcome.map_err(failure)?,
            };
            for other in found.consumers {
                let silent = u64::try_from(other.idle).unwrap_or(u64::MAX) > silent_ms;
                if silent && other.pending == 0 && other.name != consumer.name {
                    let stream = place.stream.to_string();
                    self.inner.scripts.leave(stream, &other.name).await.map_err(failure)?;
                }
            }
        }
        Ok(())
    }
}

/// A job that was started, if it can be read.
pub(super) type Started = Result<Claimed, Unreadable>;

impl Consumer {
    /// Puts what cannot be read aside.
    fn keep(&mut self, started: Vec<Started>) -> Vec<Claimed> {
        let mut claimed = Vec::with_capacity(started.len());
        for job in started {
            match job {
                Ok(job) => claimed.push(job),
                Err(unreadable) => self.unreadable.push(unreadable),
            }
        }
        claimed
    }
}

impl Queue {
    /// Reads a started job.
    #[expect(clippy::result_large_err, reason = "one per job, moved once")]
    fn unpack(&self, mut lease: Lease, taken: Taken) -> Started {
        let (
            _,
            attempt,
            waited_us,
            age_us,
            tenant,
            mut payload,
            session,
            terms,
            tries,
            first_event,
        ) = taken;
        let tenant = TenantId::new(tenant);
        let terms: Option<Terms> = serde_json::from_str(&terms).ok();
        let batch = terms.as_ref().and_then(|terms| terms.batch);
        lease.batch = batch.map(|id| RunningBatch { shard: lease.shard, id });
        let owner = Owner::Job(lease.job);
        let place = Place { tenant: &tenant, owner, purpose: Purpose::Payload };
        let payload = match self.unseal(place, &mut payload) {
            Ok(payload) => payload,
            Err(error) => {
                let failure = Box::new(Failure::new(error.code(), error.message()));
                return Err(Unreadable { lease, reason: error.to_string(), failure });
            }
        };
        match parse(payload, &lease, &tenant, &session) {
            Ok((job, opens)) => Ok(Claimed {
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
            }),
            Err(error) => {
                let failure = Box::new(Failure::new(
                    ErrorCode::NoWorker,
                    "No live worker can read the job: it was written by another version of isol8. Upgrade \
                     workers before gateways, and have it run after all, or submit it again.",
                ));
                Err(Unreadable { lease, reason: what_is_unread(&error), failure })
            }
        }
    }
}

/// What of a payload could not be read, without anything of its values: they may be secret.
pub(super) fn what_is_unread(error: &Error) -> String {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    let field = cause.split(", expected").next().unwrap_or_default();
    match field.starts_with("unknown field") || field.starts_with("missing field") {
        true => field.to_owned(),
        false => error.to_string(),
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
