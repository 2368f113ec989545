//! The results of a batch as lines of JSON, so far or until its end, a few at a time.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use serde::Serialize;
use shared::execution::{ItemEnding, NetworkLogEntry, Outcome};
use shared::id::{BatchId, TenantId};
use shared::redis::BatchResult;
use shared::{Error, ErrorCode};
use tokio::time::sleep;
use tracing::warn;

use super::{FIRST_PAUSE, LONGEST_PAUSE};
use crate::service::slots::Slot;
use crate::state::State;

/// A reader of results.
pub(crate) struct Reader {
    state: State,
    tenant: TenantId,
    id: BatchId,
    /// Number of the next result.
    next: u64,
    follows: bool,
    said: Instant,
    is_over: bool,
    _slot: Slot,
}

/// An item's result, as clients see it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    number: u64,
    item: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    network_logs: Vec<NetworkLogEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Trouble>,
}

/// Why an item could not be run.
#[derive(Serialize)]
struct Trouble {
    code: ErrorCode,
    message: String,
}

/// The last line: where to go on.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Last {
    next: u64,
    /// Whether there will be no more.
    end: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Trouble>,
}

/// Results that were acknowledged.
#[derive(Serialize)]
struct Gap {
    gap: u64,
}

impl Reader {
    /// Of a batch, from a result on; until its end, if it `follows`.
    ///
    /// # Errors
    /// `NOT_FOUND`, `QUEUE_FULL` if there are too many readers, `QUEUE_UNAVAILABLE`.
    pub(crate) async fn open(
        state: &State,
        tenant: &TenantId,
        id: BatchId,
        from: u64,
        follows: bool,
    ) -> Result<Self, Error> {
        let slot = state.streaming.slots.take(tenant).await?;
        // So that what is not there is an answer, not a line.
        state.queue.batch_results(tenant, id, from).await?;
        Ok(Self {
            state: State::clone(state),
            tenant: tenant.clone(),
            id,
            next: from,
            follows,
            said: Instant::now(),
            is_over: false,
            _slot: slot,
        })
    }

    /// The next lines; `None` when there are no more.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        let mut pause = FIRST_PAUSE;
        while !self.is_over {
            let found = self.state.queue.batch_results(&self.tenant, self.id, self.next);
            let page = match found.await {
                Ok(page) => page,
                Err(error) => return Some(self.last(false, Some(&error))),
            };
            if !page.results.is_empty() {
                return Some(self.lines(page.results));
            }
            if page.is_last || !self.follows || self.state.closing.is_cancelled() {
                return Some(self.last(page.is_last, None));
            }
            if self.said.elapsed() >= self.state.streaming.heartbeat {
                self.said = Instant::now();
                // An empty line means nothing, but that the connection lives.
                return Some(Bytes::from_static(b"\n"));
            }
            let closing = self.state.closing.clone();
            closing.run_until_cancelled(sleep(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        None
    }

    fn lines(&mut self, results: Vec<BatchResult>) -> Bytes {
        let mut text = Vec::new();
        for result in results {
            if result.number > self.next {
                push(&mut text, &Gap { gap: result.number - self.next });
            }
            self.next = result.number + 1;
            push(&mut text, &Line::from(result));
        }
        self.said = Instant::now();
        text.into()
    }

    fn last(&mut self, end: bool, error: Option<&Error>) -> Bytes {
        self.is_over = true;
        let error = error.map(|error| {
            warn!(%error, batch = %self.id, "cannot go on with the results of a batch");
            Trouble { code: error.code(), message: error.message().to_owned() }
        });
        let mut text = Vec::new();
        push(&mut text, &Last { next: self.next, end, error });
        text.into()
    }
}

fn push(text: &mut Vec<u8>, line: &impl Serialize) {
    serde_json::to_writer(&mut *text, line).expect("texts and numbers are always JSON");
    text.push(b'\n');
}

impl From<BatchResult> for Line {
    fn from(result: BatchResult) -> Self {
        let BatchResult { number, item, name: id, ending } = result;
        let bare = Self {
            number,
            item,
            id,
            outcome: Outcome::Exited.name(),
            exit_code: None,
            stdout: None,
            stderr: None,
            duration_ms: None,
            truncated: false,
            files: None,
            network_logs: Vec::new(),
            error: None,
        };
        match ending {
            ItemEnding::Result(result) => Self {
                outcome: result.outcome.unwrap_or(Outcome::Exited).name(),
                exit_code: Some(result.exit_code),
                stdout: Some(result.stdout),
                stderr: Some(result.stderr),
                duration_ms: Some(result.duration_ms),
                truncated: result.truncated,
                files: result.files,
                network_logs: result.network_logs,
                ..bare
            },
            ItemEnding::Error(failure) => Self {
                outcome: failure.outcome(),
                error: Some(Trouble { code: failure.code, message: failure.message }),
                ..bare
            },
        }
    }
}
