//! The event log of a run: every request with its answer, every fault. One JSON object per line, written
//! as it happens, and kept in memory for the checker.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

use super::plan::Step;

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Purpose {
    /// `POST /execute`
    Execute,
    /// `POST /execute/stream`
    Stream,
    /// `POST /execute` in a session.
    Call,
    /// `POST /v1/jobs`
    Submit,
    /// `GET /v1/jobs/{id}?wait=`
    Wait,
    /// `DELETE /v1/jobs/{id}`
    Cancel,
    /// `GET /v1/jobs/{id}/output`, with all its resumptions.
    Output,
    /// `DELETE /session/{id}`
    Close,
    /// `POST /v1/batches`
    Batch,
    /// `GET /v1/batches/{id}?wait=`
    Progress,
    /// `GET /v1/batches/{id}/results`
    Results,
    /// `POST /v1/schedules`
    Schedule,
    /// `GET /v1/schedules/{id}`
    Runs,
}

/// What a program does if nothing happens to it, and what may happen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Expected {
    /// What it writes; none if its worker runs nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stdout: Option<String>,
    /// Its exit code.
    pub(super) exit_code: i64,
    /// How often its program is tried: once, or, if it fails, as often as its terms say.
    pub(super) tries: u64,
    /// It does not begin before, in ms after its submission.
    pub(super) delay_ms: u64,
    /// It does not begin later, in ms after its submission.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires_ms: Option<u64>,
    /// How safe it is to be before it counts as accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) durability: Option<&'static str>,
}

/// One request, and what came of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Exchange {
    /// When it was sent, from the start of the run.
    pub(super) at_ms: u64,
    /// Until the end of its answer.
    pub(super) took_ms: u64,
    /// Who sent it.
    pub(super) client: usize,
    /// Through which gateway.
    pub(super) gateway: usize,
    /// For whom.
    pub(super) tenant: String,
    /// What for.
    pub(super) purpose: Purpose,
    /// Status of the answer; 0: there was none, or not all of it.
    pub(super) status: u16,
    /// Its idempotency key, or its session.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) key: String,
    /// The job or batch it was about, as far as that is known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) job: String,
    /// `X-Isol8-Durability` of the answer.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) durability: String,
    /// What is expected of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expected: Option<Expected>,
    /// The answer; of a stream, its events; what went wrong, if there was none.
    pub(super) answer: Value,
}

/// A fault that was brought about.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Injected {
    /// When it began, from the start of the run.
    pub(super) at_ms: u64,
    /// When that was done: a failover takes its time.
    pub(super) done_ms: u64,
    /// What it is counted as.
    pub(super) name: String,
    /// The step of the plan.
    pub(super) step: Step,
}

#[derive(Default)]
struct Entries {
    exchanges: Vec<Exchange>,
    faults: Vec<Injected>,
}

/// The log.
pub(super) struct Journal {
    path: PathBuf,
    file: Mutex<File>,
    entries: Mutex<Entries>,
    started: Instant,
}

impl Journal {
    /// A new one in a file.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub(super) fn create(path: &Path, started: Instant) -> Self {
        let file = File::create(path).expect("the directory is the run's own");
        Self { path: path.to_owned(), file: Mutex::new(file), entries: Mutex::default(), started }
    }

    /// Where it is.
    #[must_use]
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Milliseconds since the start of the run.
    #[must_use]
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Writes an exchange down.
    pub(super) fn exchange(&self, exchange: Exchange) {
        self.write(&exchange);
        self.lock().exchanges.push(exchange);
    }

    /// Writes a fault down.
    pub(super) fn fault(&self, fault: Injected) {
        self.write(&fault);
        self.lock().faults.push(fault);
    }

    /// All there is.
    #[must_use]
    pub(super) fn read(&self) -> (Vec<Exchange>, Vec<Injected>) {
        let entries = self.lock();
        (entries.exchanges.clone(), entries.faults.clone())
    }

    fn write(&self, entry: &impl Serialize) {
        let mut line = serde_json::to_vec(entry).expect("texts and numbers are always JSON");
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&line).expect("the disk takes the event log");
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
