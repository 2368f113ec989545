//! The output of a job for whoever asks for it, during the job or after: every event with its number
//! and offset, gaps and totals.

use serde::Serialize;
use shared::execution::{Event, EventKind, Failure, Phase, Stream};
use shared::id::{JobId, TenantId};
use shared::redis::JobState;
use shared::{Error, ErrorCode};
use tokio::sync::mpsc;

use super::event::Summary;
use super::execute::CancelOnDrop;
use super::jobs::{follow, not_found};
use super::stream::{Followed, Narrator, start_with};
use crate::state::State;

/// How long the store may be out of reach while a job's output is read, in milliseconds.
const PATIENCE_MS: u64 = 30_000;
/// Lines that are read ahead of a reader that does not follow.
const LINES_AHEAD: usize = 64;

/// One line of output.
pub(crate) struct Line {
    /// Number of the event, by which a reader that comes back says what it has.
    pub(crate) number: Option<u64>,
    /// The event as JSON.
    pub(crate) json: String,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "camelCase", tag = "type")]
enum Told<'a> {
    Stdout {
        data: &'a str,
        phase: Phase,
        offset: u64,
    },
    Stderr {
        data: &'a str,
        phase: Phase,
        offset: u64,
    },
    SetupEnded,
    /// The job begins anew: what came before was written by an attempt that came to nothing.
    Restarted,
    /// Events that are not kept any more.
    Gap {
        from: u64,
        count: u64,
    },
    End {
        outcome: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        exit_code: Option<i32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<ErrorCode>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a str>,
        totals: Totals,
    },
    /// The stream ends, the job does not.
    Error {
        code: ErrorCode,
        data: &'a str,
    },
}

/// How much the last attempt wrote, what this reader has had before included; `events` are those of all.
#[derive(Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Totals {
    events: u64,
    stdout_bytes: u64,
    stderr_bytes: u64,
}

/// Follows the output of a job from event `from` on.
///
/// # Errors
/// `NOT_FOUND`, `QUEUE_UNAVAILABLE`.
pub(crate) async fn start(
    state: &State,
    tenant: &TenantId,
    id: JobId,
    from: u64,
) -> Result<mpsc::Receiver<Line>, Error> {
    let account = Account::until(state, tenant, id, from).await?;
    let followed = follow(state, tenant, id, true).await?.ok_or_else(|| not_found(id))?;
    let mut cancel = CancelOnDrop::new(state, tenant, id);
    // Whoever looks at a job's output may leave; the job goes on.
    cancel.disarm();
    let followed = Followed {
        state: State::clone(state),
        tenant: tenant.clone(),
        waiter: followed.waiter,
        mailbox: followed.mailbox,
        timeout_ms: PATIENCE_MS,
        started: None,
        cancel,
        from: Some(from),
    };
    Ok(start_with(followed, account, None))
}

/// What a job has written from event `from` on until now; of one that has ended all of it, and the end.
///
/// # Errors
/// `NOT_FOUND`, `QUEUE_UNAVAILABLE`.
pub(crate) async fn so_far(
    state: &State,
    tenant: &TenantId,
    id: JobId,
    from: u64,
) -> Result<mpsc::Receiver<Line>, Error> {
    let record = state.queue.job(tenant, id).await?.ok_or_else(|| not_found(id))?;
    if matches!(record.state, JobState::Finished(_)) {
        return start(state, tenant, id, from).await;
    }
    let (lines, reader) = mpsc::channel(LINES_AHEAD);
    let (state, tenant) = (State::clone(state), tenant.clone());
    let tasks = state.tasks.clone();
    tasks.spawn(async move {
        let mut account = Account::default();
        let mut next = from;
        loop {
            let events = match state.queue.events(&tenant, id, next).await {
                Ok(events) => events,
                Err(error) => {
                    // A reader that is gone needs no error.
                    let _ = lines.send(account.error(&error)).await;
                    return;
                }
            };
            if events.is_empty() {
                return;
            }
            for event in events {
                let gap = (event.number > next).then(|| account.gap(next, event.number));
                next = event.number + 1;
                for line in gap.into_iter().chain([account.event(event)]) {
                    if lines.send(line).await.is_err() {
                        return;
                    }
                }
            }
        }
    });
    Ok(reader)
}

#[derive(Default)]
struct Account {
    totals: Totals,
}

impl Account {
    /// That of a reader who has come to event `from` before: there may be nothing but the end left to tell.
    async fn until(state: &State, tenant: &TenantId, id: JobId, from: u64) -> Result<Self, Error> {
        let (mut account, mut next) = (Self::default(), 0);
        while next < from {
            let events = state.queue.events(tenant, id, next).await?;
            let Some(last) = events.last() else { break };
            next = last.number + 1;
            for event in events.into_iter().filter(|it| it.number < from) {
                account.event(event);
            }
        }
        Ok(account)
    }

    fn end(&self, outcome: &str, exit_code: Option<i32>, failure: Option<&Failure>) -> Vec<Line> {
        let (code, error) = failure.map(|it| (it.code, it.message.as_str())).unzip();
        let totals = self.totals;
        vec![line(None, &Told::End { outcome, exit_code, code, error, totals })]
    }
}

impl Narrator for Account {
    type Line = Line;

    fn event(&mut self, event: Event) -> Line {
        let Event { number, phase, kind } = event;
        self.totals.events = number + 1;
        let (stream, offset, data) = match kind {
            EventKind::Output { stream, offset, data } => (stream, offset, data),
            EventKind::SetupEnded => return line(Some(number), &Told::SetupEnded),
            EventKind::Restarted => {
                (self.totals.stdout_bytes, self.totals.stderr_bytes) = (0, 0);
                return line(Some(number), &Told::Restarted);
            }
        };
        let end = offset + data.len() as u64;
        let data = &*String::from_utf8_lossy(&data);
        match stream {
            Stream::Stdout => {
                self.totals.stdout_bytes = end;
                line(Some(number), &Told::Stdout { data, phase, offset })
            }
            Stream::Stderr => {
                self.totals.stderr_bytes = end;
                line(Some(number), &Told::Stderr { data, phase, offset })
            }
        }
    }

    fn gap(&mut self, next: u64, end: u64) -> Line {
        self.totals.events = end;
        line(Some(end - 1), &Told::Gap { from: next, count: end - next })
    }

    fn result(&mut self, summary: &Summary) -> Vec<Line> {
        self.end(summary.outcome.name(), Some(summary.exit_code), None)
    }

    fn failure(&mut self, failure: &Failure) -> Vec<Line> {
        let outcome = failure.outcome();
        self.end(outcome, failure.setup_exit_code, Some(failure))
    }

    fn error(&mut self, error: &Error) -> Line {
        line(None, &Told::Error { code: error.code(), data: error.message() })
    }
}

fn line(number: Option<u64>, told: &Told<'_>) -> Line {
    let json = serde_json::to_string(told).expect("strings, words and numbers are always JSON");
    Line { number, json }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn every_event_has_a_number_and_the_end_has_totals() {
        let mut account = Account::default();
        let data = Bytes::from_static("é\n".as_bytes());
        let kind = EventKind::Output { stream: Stream::Stdout, offset: 7, data };
        let told = account.event(Event { number: 4, phase: Phase::Code, kind });
        assert_eq!(told.number, Some(4));
        assert_eq!(told.json, r#"{"type":"stdout","data":"é\n","phase":"code","offset":7}"#);
        let gap = account.gap(5, 9);
        assert_eq!((gap.number, &*gap.json), (Some(8), r#"{"type":"gap","from":5,"count":4}"#));
        let failure = Failure::new(ErrorCode::WorkerLost, "gone");
        let end = account.failure(&failure).remove(0);
        let expected = concat!(
            r#"{"type":"end","outcome":"failed","code":"WORKER_LOST","error":"gone","#,
            r#""totals":{"events":9,"stdoutBytes":10,"stderrBytes":0}}"#
        );
        assert_eq!(end.json, expected);
    }
}
