//! The workers as people see them: each tells what it is and how busy, and can be told to take no more
//! jobs.

use redis::{cmd, pipe};
use serde::{Deserialize, Serialize};

use super::{Queue, serialize};
use crate::error::{Error, ErrorCode};
use crate::id::WorkerId;
use crate::labels::Labels;
use crate::redis::client::failure;
use crate::redis::keys;

/// How long a worker is remembered to be draining once it gives no sign any more, in milliseconds: far
/// longer than it may be cut off and come back.
const DRAIN_TTL_MS: u64 = 86_400_000;

/// What a worker tells of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerFacts {
    /// This life of it.
    pub id: WorkerId,
    /// Its name on its machine, which outlives it.
    pub name: String,
    /// Its version of isol8.
    pub version: String,
    /// What it speaks; see [`crate::PROTOCOL`].
    #[serde(default = "first_protocol")]
    pub protocol: u32,
    /// Jobs that it could not read, and passed on to others.
    #[serde(default)]
    pub unread: u64,
    /// When it began, in milliseconds since the epoch by its own clock.
    pub started_ms: u64,
    /// Programs that it can run at once.
    pub slots: usize,
    /// Programs that it runs.
    pub running: usize,
    /// Sessions that it owns.
    pub sessions: usize,
    /// Containers that it has, busy or waiting.
    #[serde(default)]
    pub sandboxes: usize,
    /// Programs that it was done with since it began.
    #[serde(default)]
    pub ended: u64,
    /// Those of them that could not be run.
    #[serde(default)]
    pub failed: u64,
    /// Whether it takes no more jobs.
    pub is_draining: bool,
    /// What it says of itself.
    #[serde(default)]
    pub labels: Labels,
    /// Whether it takes only jobs that require labels.
    #[serde(default)]
    pub only_labelled: bool,
    /// The names of the keys of secrets that it has.
    #[serde(default)]
    pub secrets_keys: Vec<String>,
}

/// That of workers that did not tell.
const fn first_protocol() -> u32 {
    1
}

impl WorkerFacts {
    /// A worker of this version that has done nothing yet.
    #[must_use]
    pub fn new(id: WorkerId, name: String, slots: usize) -> Self {
        Self {
            id,
            name,
            version: crate::VERSION.to_owned(),
            protocol: crate::PROTOCOL,
            unread: 0,
            started_ms: 0,
            slots,
            running: 0,
            sessions: 0,
            sandboxes: 0,
            ended: 0,
            failed: 0,
            is_draining: false,
            labels: Labels::default(),
            only_labelled: false,
            secrets_keys: Vec::new(),
        }
    }

    /// Whether it takes jobs that require these labels.
    #[must_use]
    pub fn takes(&self, required: &Labels) -> bool {
        let is_meant = !self.only_labelled || !required.is_empty();
        !self.is_draining && is_meant && self.labels.satisfy(required)
    }

    /// Whether it can be stopped without anybody noticing.
    #[must_use]
    pub const fn is_drained(&self) -> bool {
        self.is_draining && self.running == 0 && self.sessions == 0
    }
}

impl Queue {
    /// Tells what a worker is; believed for a lease time. True if somebody wants it to drain.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn announce(&self, facts: &WorkerFacts) -> Result<bool, Error> {
        let text = serialize(facts)?;
        let mut steps = pipe();
        let lease_ms = self.inner.config.lease_ms;
        steps.cmd("SET").arg(keys::worker_facts(facts.id)).arg(text).arg("PX").arg(lease_ms);
        // Renews it, and tells whether there is one.
        steps.ignore().cmd("PEXPIRE").arg(keys::drain(facts.id)).arg(DRAIN_TTL_MS);
        let (is_wanted,): (bool,) = self.inner.client.run_all(&steps).await.map_err(failure)?;
        Ok(is_wanted)
    }

    /// The workers that live, the oldest first.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn workers(&self) -> Result<Vec<WorkerFacts>, Error> {
        let mut list = cmd("ZRANGE");
        list.arg(keys::workers(0)).arg(0).arg(-1);
        let ids: Vec<String> = self.inner.client.run(&list).await.map_err(failure)?;
        let ids: Vec<WorkerId> = ids.iter().filter_map(|id| id.parse().ok()).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut read = cmd("MGET");
        for id in ids {
            read.arg(keys::worker_facts(id));
        }
        let found: Vec<Option<String>> = self.inner.client.run(&read).await.map_err(failure)?;
        let read = |text: String| match serde_json::from_str(&text) {
            Ok(facts) => Some(facts),
            Err(error) => {
                tracing::warn!(%error, "what a worker of another version tells is not understood");
                None
            }
        };
        let mut workers: Vec<WorkerFacts> = found.into_iter().flatten().filter_map(read).collect();
        workers.sort_by_key(|worker| worker.started_ms);
        Ok(workers)
    }

    /// Tells a worker to take no more jobs. What it runs, and its sessions, go on; it hears of it within
    /// a second.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] if there is no such worker, [`ErrorCode::QueueUnavailable`].
    pub async fn drain(&self, worker: WorkerId) -> Result<(), Error> {
        self.check_worker(worker).await?;
        let mut keep = cmd("SET");
        keep.arg(keys::drain(worker)).arg("").arg("PX").arg(DRAIN_TTL_MS);
        self.inner.client.run::<()>(&keep).await.map_err(failure)?;
        self.order(worker, "drain now").await
    }

    /// Takes that back: the worker takes jobs again; it hears of it within a second. Nothing happens to one
    /// that is not draining.
    ///
    /// # Errors
    /// As [`drain`](Self::drain).
    pub async fn undrain(&self, worker: WorkerId) -> Result<(), Error> {
        self.check_worker(worker).await?;
        let mut forget = cmd("DEL");
        forget.arg(keys::drain(worker));
        self.inner.client.run::<u64>(&forget).await.map_err(failure)?;
        self.order(worker, "undrain now").await
    }

    /// Refuses a worker that does not live.
    async fn check_worker(&self, worker: WorkerId) -> Result<(), Error> {
        let mut look = cmd("EXISTS");
        look.arg(keys::worker_facts(worker));
        if !self.inner.client.run::<bool>(&look).await.map_err(failure)? {
            let message = format!("There is no worker {worker}. GET /v1/workers lists them");
            return Err(Error::new(ErrorCode::NotFound, message));
        }
        Ok(())
    }

    async fn order(&self, worker: WorkerId, words: &str) -> Result<(), Error> {
        let mut tell = cmd("PUBLISH");
        tell.arg(keys::worker(worker)).arg(words);
        self.inner.client.run::<u64>(&tell).await.map(drop).map_err(failure)
    }

    /// Takes a worker that ends off the list. Its slots count no more once another worker keeps house.
    pub(super) async fn depart(&self, worker: WorkerId) -> Result<(), Error> {
        let mut steps = pipe();
        steps.cmd("DEL").arg(keys::worker_facts(worker)).arg(keys::drain(worker)).ignore();
        for shard in self.shards() {
            let name = worker.to_string();
            steps.cmd("ZADD").arg(keys::workers(shard)).arg("XX").arg(0).arg(name).ignore();
        }
        self.inner.client.run_all(&steps).await.map_err(failure)
    }
}
