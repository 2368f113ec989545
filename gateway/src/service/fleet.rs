//! The workers there are, as this gateway last saw them: whoever requires labels that no worker has is told
//! so at once.

use std::time::{Duration, Instant};

use shared::labels::Labels;
use shared::redis::{Queue, WorkerFacts};
use shared::{Error, ErrorCode};
use tokio::sync::Mutex;

/// How long a worker that was seen is taken to be there.
const BELIEVED_FOR: Duration = Duration::from_millis(500);
/// How long after its start a gateway waits for workers: they may have been started with it.
const SETTLES_WITHIN: Duration = Duration::from_secs(2);
/// How often it looks meanwhile.
const LOOKS_EVERY: Duration = Duration::from_millis(50);
/// When to come back, where nobody can run a job.
const COME_BACK: Duration = Duration::from_secs(5);

/// The workers there are.
pub(crate) struct Fleet {
    started: Instant,
    /// Those that were seen last, and when.
    seen: Mutex<Option<(Instant, Vec<WorkerFacts>)>>,
}

impl Fleet {
    /// For a gateway that starts now.
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), seen: Mutex::new(None) }
    }

    /// Whether a worker that lives takes jobs that require these labels. Where it is a call of a session, one
    /// that takes no more jobs may still own that.
    ///
    /// # Errors
    /// `QUEUE_UNAVAILABLE`.
    pub(crate) async fn can_run(
        &self,
        queue: &Queue,
        labels: &Labels,
        is_call: bool,
    ) -> Result<bool, Error> {
        let fits = |worker: &WorkerFacts| {
            worker.takes(labels) || (is_call && worker.labels.satisfy(labels))
        };
        let mut seen = self.seen.lock().await;
        if let Some((when, workers)) = &*seen
            && when.elapsed() < BELIEVED_FOR
            && workers.iter().any(fits)
        {
            return Ok(true);
        }
        // One that has just come must not be missed.
        let workers = queue.workers().await?;
        let can_run = workers.iter().any(fits);
        *seen = Some((Instant::now(), workers));
        Ok(can_run)
    }

    /// Refuses a job whose caller waits for it, if nobody can run it.
    ///
    /// # Errors
    /// `NO_WORKER`, `QUEUE_UNAVAILABLE`.
    pub(crate) async fn require(
        &self,
        queue: &Queue,
        labels: &Labels,
        is_call: bool,
    ) -> Result<(), Error> {
        if labels.is_empty() {
            return Ok(());
        }
        while !self.can_run(queue, labels, is_call).await? {
            if self.started.elapsed() >= SETTLES_WITHIN {
                return Err(nobody_can(labels));
            }
            tokio::time::sleep(LOOKS_EVERY).await;
        }
        Ok(())
    }
}

fn nobody_can(labels: &Labels) -> Error {
    let message = format!(
        "{}. Require others, start such a worker, or submit it to /v1/jobs, where it waits for one",
        nobody_has(labels)
    );
    Error::new(ErrorCode::NoWorker, message).with_retry_after(COME_BACK)
}

/// Why nobody can run a job.
pub(crate) fn nobody_has(labels: &Labels) -> String {
    let missing = format!("No live worker has the labels {labels}");
    match labels.isolation().next() {
        Some(kind) => format!(
            "{missing}: isolation \"{}\" needs a worker whose engine has such a runtime",
            kind.name()
        ),
        None => missing,
    }
}
