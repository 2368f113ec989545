//! Follows one job for a client that sees its output as it comes. Events arrive by message; those
//! that are missing are read from the queue's store, and what is not even there is announced. There
//! is a last event on every path: `exit` or `error`.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use shared::execution::{Event, Failure};
use shared::id::{JobId, TenantId};
use shared::{Error, ErrorCode};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::event::{StreamEvent, Summary, last_words_of_failure};
use super::execute::{CancelOnDrop, Ending, Queued, read};
use super::mailbox::{Mail, Mailbox};
use super::wait::{self, Waiter, patience, unreachable};
use crate::state::State;

/// Events on their way to one client's connection.
const EVENTS_UNDER_WAY: usize = 16;
/// Between two attempts to read the store.
const RETRY: Duration = Duration::from_millis(200);
/// How long the last words may take when the gateway closes: less than its closing time.
const FAREWELL: Duration = Duration::from_secs(1);

/// How a stream puts things to its client.
pub(crate) trait Narrator: Send + Sync + 'static {
    /// What the client is sent.
    type Line: Send;

    /// Something happened in the job.
    fn event(&mut self, event: Event) -> Self::Line;
    /// The events from `next` up to `end`, not including it, cannot be had any more.
    fn gap(&mut self, next: u64, end: u64) -> Self::Line;
    /// How the program ended.
    fn result(&mut self, summary: &Summary) -> Vec<Self::Line>;
    /// Why it could not be run.
    fn failure(&mut self, failure: &Failure) -> Vec<Self::Line>;
    /// Why the stream ends before its job.
    fn error(&mut self, error: &Error) -> Self::Line;
}

/// isol8's own events.
pub(crate) struct Contract;

impl Narrator for Contract {
    type Line = StreamEvent;

    fn event(&mut self, event: Event) -> StreamEvent {
        event.into()
    }

    fn gap(&mut self, next: u64, end: u64) -> StreamEvent {
        let count = end - next;
        StreamEvent::notice(&format!(
            "output is missing here: {count} {} no longer kept when this stream came to read {}.",
            if count == 1 { "piece was" } else { "pieces were" },
            if count == 1 { "it" } else { "them" },
        ))
    }

    fn result(&mut self, summary: &Summary) -> Vec<StreamEvent> {
        summary.last_words()
    }

    fn failure(&mut self, failure: &Failure) -> Vec<StreamEvent> {
        last_words_of_failure(failure)
    }

    fn error(&mut self, error: &Error) -> StreamEvent {
        error.into()
    }
}

/// A job that somebody follows.
pub(super) struct Followed {
    pub(super) state: State,
    pub(super) tenant: TenantId,
    pub(super) waiter: Waiter,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) timeout_ms: u64,
    /// When it was submitted, if this is what it was submitted for.
    pub(super) started: Option<std::time::Instant>,
    /// What happens when the client leaves.
    pub(super) cancel: CancelOnDrop,
    /// Number of the first event that is wanted, if it may be in the store already.
    pub(super) from: Option<u64>,
}

/// Starts following. The events end after the last one; dropping them means that the client has
/// left.
pub(crate) fn start(queued: Queued, notice: Option<StreamEvent>) -> mpsc::Receiver<StreamEvent> {
    let Queued { state, tenant, waiter, mailbox, timeout_ms, started, cancel, confirmed: _ } =
        queued;
    let started = Some(started);
    let followed =
        Followed { state, tenant, waiter, mailbox, timeout_ms, started, cancel, from: None };
    start_with(followed, Contract, notice)
}

/// The same in other words.
pub(super) fn start_with<N: Narrator>(
    followed: Followed,
    narrator: N,
    notice: Option<N::Line>,
) -> mpsc::Receiver<N::Line> {
    let (sender, receiver) = mpsc::channel(EVENTS_UNDER_WAY);
    let tasks = followed.state.tasks.clone();
    tasks.spawn(Box::pin(drive(followed, narrator, notice, sender)));
    receiver
}

/// One job's whole life as a stream. On cancel: ends when its client is gone, which includes the
/// gateway's own end. On error: tells the client.
async fn drive<N: Narrator>(
    followed: Followed,
    narrator: N,
    notice: Option<N::Line>,
    client: mpsc::Sender<N::Line>,
) {
    let Followed { state, tenant, waiter, mailbox, timeout_ms, started, mut cancel, from } =
        followed;
    let job = waiter.job();
    let mut reader = Reader {
        state: &state,
        tenant: &tenant,
        job,
        mailbox,
        client: &client,
        narrator,
        next: from.unwrap_or(0),
        timeout_ms,
    };
    let follow = async {
        if let Some(notice) = notice {
            reader.tell(notice).await;
        }
        if from.is_some() {
            reader.catch_up(None).await?;
        }
        let ending = {
            let mut ending = pin!(wait::wait(&state, &tenant, waiter, timeout_ms));
            let mut subscriptions = state.registry.subscriptions();
            loop {
                tokio::select! {
                    // What was sent before the ending is here before it.
                    biased;
                    mail = reader.mailbox.take(reader.next) => reader.receive(mail).await?,
                    Ok(()) = subscriptions.changed() => reader.resubscribed().await?,
                    ending = &mut ending => break ending?,
                }
            }
        };
        if let Some(started) = started {
            state.metrics.execute_took(started.elapsed());
        }
        reader.end(ending.get()).await
    };
    let outcome = tokio::select! {
        biased;
        // Dropping `cancel` does the rest.
        () = client.closed() => return,
        () = state.closing.cancelled() => None,
        outcome = follow => Some(outcome),
    };
    let error = match outcome {
        Some(Ok(())) => return cancel.disarm(),
        Some(Err(error)) if !state.closing.is_cancelled() => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            warn!(%job, code = %error.code(), cause, "a stream ends early: {error}");
            error
        }
        _ => closing(job, cancel.is_armed()),
    };
    // A client that has left, or does not read, learns nothing any more.
    let last_words = reader.narrator.error(&error);
    let _ = timeout(FAREWELL, client.send(last_words)).await;
}

/// How far a client has come.
struct Reader<'a, N: Narrator> {
    state: &'a State,
    tenant: &'a TenantId,
    job: JobId,
    mailbox: Arc<Mailbox>,
    client: &'a mpsc::Sender<N::Line>,
    narrator: N,
    /// Number of the event that is due.
    next: u64,
    timeout_ms: u64,
}

impl<N: Narrator> Reader<'_, N> {
    async fn receive(&mut self, mail: Mail) -> Result<(), Error> {
        match mail {
            Mail::NotKept(end) => self.catch_up(Some(end)).await,
            Mail::Event(event) => {
                if event.number > self.next {
                    self.catch_up(Some(event.number)).await?;
                }
                self.pass(event).await;
                Ok(())
            }
        }
    }

    /// Messages may have been lost, and nothing may follow them for a long time.
    async fn resubscribed(&mut self) -> Result<(), Error> {
        let turn = u32::try_from(self.next).unwrap_or_default();
        sleep(self.state.registry.resubscribed_pause(self.job, turn)).await;
        self.catch_up(None).await
    }

    /// Tells what is missing up to the end, and how it ended.
    async fn end(&mut self, ending: &str) -> Result<(), Error> {
        let last_words = match read::<Summary>(ending, self.job)? {
            Ending::Result(result) => {
                self.catch_up(Some(result.events)).await?;
                self.narrator.result(&result)
            }
            Ending::Error(failure) => {
                // Whoever ended it in the worker's stead could not know how many there were.
                self.catch_up((failure.events > 0).then_some(failure.events)).await?;
                self.narrator.failure(&failure)
            }
        };
        for event in last_words {
            self.tell(event).await;
        }
        Ok(())
    }

    /// Reads the store up to event `end`, or to where it ends now, and tells what is not there.
    async fn catch_up(&mut self, end: Option<u64>) -> Result<(), Error> {
        let mut last_reached = Instant::now();
        while end.is_none_or(|end| self.next < end) {
            self.state.metrics.stream_caught_up();
            match self.state.queue.events(self.tenant, self.job, self.next).await {
                Ok(events) if events.is_empty() => break,
                Ok(events) => {
                    last_reached = Instant::now();
                    for event in events {
                        self.miss_until(event.number).await;
                        self.pass(event).await;
                    }
                }
                Err(error) if error.code() != ErrorCode::QueueUnavailable => return Err(error),
                Err(error) if last_reached.elapsed() >= patience(self.timeout_ms) => {
                    return Err(unreachable(self.job, error));
                }
                Err(_) => sleep(RETRY).await,
            }
        }
        if let Some(end) = end {
            self.miss_until(end).await;
        }
        Ok(())
    }

    /// Tells that the events up to `end` cannot be had any more, if that is so.
    async fn miss_until(&mut self, end: u64) {
        if self.next >= end {
            return;
        }
        self.state.metrics.stream_gap();
        let words = self.narrator.gap(self.next, end);
        self.tell(words).await;
        self.next = end;
    }

    /// Tells an event, unless the client has it already.
    async fn pass(&mut self, event: Event) {
        if event.number >= self.next {
            self.next = event.number + 1;
            let words = self.narrator.event(event);
            self.tell(words).await;
        }
    }

    async fn tell(&self, event: N::Line) {
        self.state.metrics.stream_event();
        // Fails if the client has left, which ends the whole stream at the same time.
        let _ = self.client.send(event).await;
    }
}

fn closing(job: JobId, is_cancelled: bool) -> Error {
    let fate = if is_cancelled { "the job is cancelled" } else { "the job itself goes on" };
    Error::new(
        ErrorCode::QueueUnavailable,
        format!("This gateway is shutting down before job {job} ended; {fate}"),
    )
}
