//! What passes between a running job and its callers besides the ending: output one way, input the
//! other.

use bytes::Bytes;
use redis::streams::{StreamId, StreamRangeReply};
use redis::{cmd, pipe};

use super::{Claimed, Lease, OwnedSession, Queue};
use crate::error::Error;
use crate::execution::{Attempt, Event, EventKind, Input, MAX_TAIL_BYTES, Phase, Stream, tail};
use crate::id::{JobId, TenantId, WorkerId};
use crate::redis::client::failure;
use crate::redis::keys;
use crate::redis::scripts::{NewInput, Output};

/// Inputs of one job that may wait for its worker.
const MAX_WAITING_INPUTS: usize = 64;
/// Places beside these, for signals alone.
const MAX_WAITING_SIGNALS: usize = 16;
/// How long input waits at most, in milliseconds.
const INPUT_TTL_MS: u64 = 3_600_000;
/// About how many events of one job are kept for readers that missed them.
const MAX_KEPT_EVENTS: usize = 16_384;
/// Most stored events read in one go: a gateway may do this for many slow readers at once.
const READ_BATCH: usize = 16;
/// How much of an attempt is looked through for the ends of what it wrote.
const MAX_SEARCHED_EVENTS: usize = 256;
const MAX_SEARCHED_BYTES: usize = 128 << 10;

/// The right to publish the output of one run of a job.
#[derive(Clone, Debug)]
pub struct Publication {
    shard: u16,
    worker: String,
    attempt: u32,
    job: JobId,
    ttl_ms: u64,
    /// Number of the first event.
    first: u64,
}

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taking {
    /// The job will get it.
    Taken,
    /// Too much waits already: try again in a moment.
    Full,
    /// The job has ended, or there is none of this tenant.
    Over,
}

impl Publication {
    /// Number of the first event.
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.first
    }
}

impl Queue {
    /// Publishing for a claimed job. `timeout_ms` bounds how long it may run.
    #[must_use]
    pub fn publication(&self, worker: WorkerId, lease: &Lease, timeout_ms: u64) -> Publication {
        self.publication_of(worker, lease.shard, lease.job, lease.attempt, timeout_ms)
    }

    /// The same for a job of which an earlier attempt has published already.
    #[must_use]
    pub fn publication_from(
        &self,
        worker: WorkerId,
        claimed: &Claimed,
        timeout_ms: u64,
    ) -> Publication {
        let publication = self.publication(worker, &claimed.lease, timeout_ms);
        Publication { first: claimed.first_event, ..publication }
    }

    /// Publishing for a call of an owned session.
    #[must_use]
    pub fn call_publication(
        &self,
        worker: WorkerId,
        session: &OwnedSession,
        job: JobId,
        timeout_ms: u64,
    ) -> Publication {
        self.publication_of(worker, session.shard, job, 1, timeout_ms)
    }

    fn publication_of(
        &self,
        worker: WorkerId,
        shard: u16,
        job: JobId,
        attempt: u32,
        timeout_ms: u64,
    ) -> Publication {
        let ttl_ms = self.inner.config.result_ttl_ms.saturating_add(timeout_ms);
        Publication { shard, worker: worker.to_string(), attempt, job, ttl_ms, first: 0 }
    }

    /// Publishes events numbered from `first` on and keeps them for readers that miss the message.
    /// Repeating a call is safe. False if the job is not this worker's any more.
    ///
    /// # Errors
    /// [`crate::ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn publish(
        &self,
        publication: &Publication,
        first: u64,
        events: &[(Phase, EventKind)],
    ) -> Result<bool, Error> {
        let output = Output {
            shard: publication.shard,
            worker: &publication.worker,
            attempt: publication.attempt,
            job: publication.job.to_string(),
            first,
            events: events.iter().map(|(phase, kind)| kind.encode(*phase)).collect(),
            ttl_ms: publication.ttl_ms,
            max_kept: MAX_KEPT_EVENTS,
        };
        self.inner.scripts.publish(&output).await.map_err(failure)
    }

    /// Stored events of a job of this tenant, from number `from` on, some at a time; none if there are
    /// no more yet.
    ///
    /// # Errors
    /// [`crate::ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn events(
        &self,
        tenant: &TenantId,
        job: JobId,
        from: u64,
    ) -> Result<Vec<Event>, Error> {
        let shard = self.shard_of(tenant);
        let mut look = pipe();
        look.cmd("HGET").arg(keys::record(shard, job)).arg("tenant");
        look.cmd("XRANGE").arg(keys::output(shard, job));
        look.arg(format!("{}-0", from.saturating_add(1))).arg("+").arg("COUNT").arg(READ_BATCH);
        let (owner, stored): (Option<String>, StreamRangeReply) =
            self.inner.client.run_all(&look).await.map_err(failure)?;
        if owner.as_deref() != Some(tenant.as_str()) {
            return Ok(Vec::new());
        }
        Ok(stored.ids.iter().filter_map(stored_event).collect())
    }

    /// Puts down what an attempt wrote last, if its worker died with it: what has come by then is all there is.
    ///
    /// # Errors
    /// [`crate::ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub(super) async fn add_output(
        &self,
        shard: u16,
        job: JobId,
        attempt: &mut Attempt,
    ) -> Result<(), Error> {
        let (mut stdout, mut stderr) = (Tail::default(), Tail::default());
        let mut end = attempt.end_event;
        let (mut searched_events, mut searched_bytes) = (0, 0);
        while end > attempt.first_event
            && searched_events < MAX_SEARCHED_EVENTS
            && searched_bytes < MAX_SEARCHED_BYTES
            && !(stdout.is_whole() && stderr.is_whole())
        {
            // Event n is entry n + 1.
            let mut look = cmd("XREVRANGE");
            look.arg(keys::output(shard, job)).arg(format!("{end}-0"));
            look.arg(format!("{}-0", attempt.first_event.saturating_add(1)));
            look.arg("COUNT").arg(READ_BATCH);
            let stored: StreamRangeReply = self.inner.client.run(&look).await.map_err(failure)?;
            let events: Vec<Event> = stored.ids.iter().filter_map(stored_event).collect();
            let Some(first) = events.last() else { break };
            end = first.number;
            searched_events += events.len();
            for event in events {
                let EventKind::Output { stream, data, .. } = event.kind else { continue };
                searched_bytes += data.len();
                match stream {
                    Stream::Stdout => stdout.put(data),
                    Stream::Stderr => stderr.put(data),
                }
            }
        }
        (attempt.stdout, attempt.stderr) = (stdout.into_text(), stderr.into_text());
        Ok(())
    }

    /// Hands input to an interactive job of this tenant, whether it runs yet or not.
    ///
    /// # Errors
    /// [`crate::ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn send_input(
        &self,
        tenant: &TenantId,
        job: JobId,
        input: &Input,
    ) -> Result<Taking, Error> {
        let new = NewInput {
            shard: self.shard_of(tenant),
            tenant,
            job: job.to_string(),
            input: input.encode(),
            name: JobId::generate().to_string(),
            // A signal must not wait behind standard input that nobody reads.
            max_waiting: match input {
                Input::Signal(_) => MAX_WAITING_INPUTS + MAX_WAITING_SIGNALS,
                Input::Stdin(_) | Input::StdinEnd => MAX_WAITING_INPUTS,
            },
            ttl_ms: INPUT_TTL_MS,
        };
        let taking = self.inner.scripts.input(&new).await;
        Ok(match taking.map_err(failure)?.as_str() {
            "taken" => Taking::Taken,
            "full" => Taking::Full,
            _ => Taking::Over,
        })
    }

    /// Takes the input that waits for a running job of this tenant, in order. What was taken makes
    /// room for more; a job that was given input is not started a second time. For the job's worker
    /// alone, one call at a time.
    ///
    /// # Errors
    /// [`crate::ErrorCode::QueueUnavailable`] if Redis cannot be reached; nothing was taken then.
    pub async fn take_input(&self, tenant: &TenantId, job: JobId) -> Result<Vec<Input>, Error> {
        let shard = self.shard_of(tenant);
        let taken = self.inner.scripts.take_input(shard, tenant, &job.to_string()).await;
        let taken: StreamRangeReply = taken.map_err(failure)?;
        if taken.ids.is_empty() {
            return Ok(Vec::new());
        }
        // Removed in a second step, so that an answer that is lost on its way loses no input.
        let mut remove = cmd("XDEL");
        remove.arg(keys::input(shard, job));
        for entry in &taken.ids {
            remove.arg(&entry.id);
        }
        self.inner.client.run::<u64>(&remove).await.map_err(failure)?;
        let inputs =
            taken.ids.into_iter().filter_map(|entry| Input::decode(&entry.get::<Vec<u8>>("i")?));
        Ok(inputs.collect())
    }
}

fn stored_event(entry: &StreamId) -> Option<Event> {
    let number: u64 = entry.id.split('-').next()?.parse().ok()?;
    Event::decode(number.checked_sub(1)?, &entry.get::<Vec<u8>>("e")?)
}

/// The end of a stream, put together from behind.
#[derive(Default)]
struct Tail {
    /// The last one comes first.
    pieces: Vec<Bytes>,
    bytes: usize,
}

impl Tail {
    fn is_whole(&self) -> bool {
        self.bytes >= MAX_TAIL_BYTES
    }

    /// Puts a piece in front.
    fn put(&mut self, piece: Bytes) {
        if !self.is_whole() {
            self.bytes += piece.len();
            self.pieces.push(piece);
        }
    }

    fn into_text(mut self) -> String {
        self.pieces.reverse();
        tail(&String::from_utf8_lossy(&self.pieces.concat()))
    }
}
