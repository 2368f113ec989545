//! The audit log: one JSON line for each execution, whether it ran, failed or was refused.
//! Writing it never holds up and never fails an execution: what does not
//! fit into the queue is counted, and the count is logged.
//!
//! ```no_run
//! # use shared::audit::{Audit, Record};
//! # async fn example(config: &shared::config::Config, job: &shared::execution::Job,
//! #     tenant: &shared::id::TenantId, result: &shared::execution::ExecutionResult)
//! #     -> shared::Result<()> {
//! let audit = Audit::start(&config.audit)?; // once per process
//! audit.record(&Record::of_result(job, tenant, None, result));
//! audit.shutdown().await; // what was recorded is written
//! # Ok(())
//! # }
//! ```

mod file;
mod record;
mod script;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use record::{Outcome, Record, SecurityEvent};

use crate::config;
use crate::error::Error;
use script::Scripts;
use writer::{Message, Sink};

/// Records that may wait to be written.
const QUEUED_RECORDS: usize = 1024;
/// Bytes of records that may wait: with code and output in them, records are large.
const QUEUED_BYTES: usize = 32 << 20;
/// How long shutdown waits for a disk, or a script, that does not come to an end.
const SHUTDOWN_TIME: Duration = Duration::from_secs(30);

/// Takes records and writes them in the background; cheap to clone.
#[derive(Clone, Debug)]
pub struct Audit(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    config: config::Audit,
    queue: mpsc::Sender<Message>,
    counts: Arc<Counts>,
    /// The writer and the scripts.
    tasks: TaskTracker,
    /// Ends scripts that outlive the shutdown.
    abort: CancellationToken,
}

/// What became of the records.
#[derive(Debug, Default)]
struct Counts {
    queued_bytes: AtomicUsize,
    lost: AtomicU64,
}

impl Counts {
    /// Counts records that are not in the log, and says so at 1, 2, 4, 8, … of them.
    fn lose(&self, records: u64, reason: &str) {
        let before = self.lost.fetch_add(records, Ordering::Relaxed);
        let lost = before + records;
        if before.checked_ilog2() != lost.checked_ilog2() {
            tracing::warn!(lost, reason, "audit records are missing from the log");
        }
    }
}

impl Audit {
    /// Starts writing where `config` says. Creates the directory; if auditing is not enabled,
    /// nothing happens at all. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// If the log cannot be opened: better no server than one that silently lacks its audit log.
    pub fn start(config: &config::Audit) -> Result<Self, Error> {
        if !config.enabled {
            return Ok(Self::disabled());
        }
        let sink = Sink::open(config)?;
        let (tasks, abort) = (TaskTracker::new(), CancellationToken::new());
        let scripts = match (&config.post_log_script, sink.path()) {
            (Some(program), Some(log)) => Some(Scripts::start(program, log, &tasks, &abort)),
            _ => None,
        };
        let (queue, received) = mpsc::channel(QUEUED_RECORDS);
        let counts = Arc::<Counts>::default();
        let of_writer = Arc::clone(&counts);
        tasks.spawn_blocking(move || writer::write(received, sink, scripts.as_ref(), &of_writer));
        Ok(Self(Some(Arc::new(Inner { config: config.clone(), queue, counts, tasks, abort }))))
    }

    /// Takes records and forgets them.
    #[must_use]
    pub const fn disabled() -> Self {
        Self(None)
    }

    /// Whether anything is recorded at all.
    #[must_use]
    pub const fn is_enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Puts a record into the log. Never waits.
    pub fn record(&self, record: &Record<'_>) {
        let Some(inner) = &self.0 else { return };
        if inner.counts.queued_bytes.load(Ordering::Relaxed) >= QUEUED_BYTES {
            inner.counts.lose(1, "the writer cannot keep up");
            return;
        }
        let line = match record.line(&inner.config) {
            Ok(line) => line,
            Err(error) => return inner.counts.lose(1, &error.to_string()),
        };
        let bytes = line.len();
        inner.counts.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if inner.queue.try_send(Message::Line(line)).is_err() {
            inner.counts.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            inner.counts.lose(1, "the writer cannot keep up");
        }
    }

    /// Records that are not in the log: too many at once, or the disk refused them.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.counts.lost.load(Ordering::Relaxed))
    }

    /// Writes what was recorded, lets the scripts finish, and stops. Bounded by half a minute.
    pub async fn shutdown(&self) {
        let Some(inner) = &self.0 else { return };
        inner.tasks.close();
        let flushed = tokio::time::timeout(SHUTDOWN_TIME, async {
            // An error means that the writer has stopped already.
            let _ = inner.queue.send(Message::Stop).await;
            inner.tasks.wait().await;
        });
        if flushed.await.is_err() {
            let bytes = inner.counts.queued_bytes.load(Ordering::Relaxed);
            tracing::warn!(bytes, "the audit log or its script did not come to an end in time");
        }
        inner.abort.cancel();
    }
}
