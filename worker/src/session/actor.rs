//! The life of one session on its owner: opened by its first call, then one call after the other until
//! it is closed, expires, or is lost. The task owns the sandbox.

use std::sync::Arc;
use std::time::Duration;

use shared::audit::{Record, SecurityEvent};
use shared::execution::{Call, Ending, ExecutionResult, Job};
use shared::id::JobId;
use shared::redis::{
    Claimed, ClaimedCall, GiveBack, NextCall, OwnedSession, Publication, SessionNews,
};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::end::{End, is_closing, lost, say_farewell, unheard};
use super::files::FileCall;
use super::{Handle, Seat, opening};
use crate::attend::attend;
use crate::commit::{Told, Verdict, insist, judge, was_cut_short};
use crate::engine::{Aftermath, EngineError, Session, milliseconds};
use crate::{Attempt, Context};

/// Pauses between attempts while the queue cannot be reached.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs a session from the call that opens it to its end.
pub(crate) async fn run(
    context: Arc<Context>,
    claimed: Claimed,
    owned: OwnedSession,
    slot: Option<OwnedSemaphorePermit>,
) {
    let Some(seat) = context.sessions.seat(&owned) else {
        drop(slot);
        return opening::turn_away(&context, &claimed, &owned).await;
    };
    let actor = Actor { context: &context, seat, owned };
    // Boxed: needed once, while the task lives long.
    if let Some(mut session) = Box::pin(actor.open(claimed, slot)).await {
        context.metrics.session_opened();
        // The opening call may have had its result and the sandbox be lost with it.
        let end = if session.is_broken() { End::Lost } else { actor.serve(&mut session).await };
        actor.end(session, end).await;
        context.metrics.session_ended(end.label());
    }
}

/// What the task of one session works with.
pub(super) struct Actor<'a> {
    pub(super) context: &'a Context,
    pub(super) seat: Seat,
    pub(super) owned: OwnedSession,
}

/// What came of running a program.
pub(super) struct Executed {
    pub(super) outcome: Result<ExecutionResult, EngineError>,
    /// Events published while it ran.
    pub(super) events: u64,
    pub(super) security_events: Vec<SecurityEvent>,
}

impl Actor<'_> {
    pub(super) fn handle(&self) -> &Handle {
        &self.seat.handle
    }

    /// Serves calls until the session ends.
    async fn serve(&self, session: &mut Session) -> End {
        let mut idle_since = Instant::now();
        let mut is_sure = true;
        loop {
            match Box::pin(self.serve_waiting(session, is_sure)).await {
                Err(end) => return end,
                Ok(0) => {}
                Ok(_) => idle_since = Instant::now(),
            }
            is_sure = true;
            let expiry = async {
                match self.context.session_idle {
                    Some(idle) => tokio::time::sleep_until(idle_since + idle).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.handle().wake.notified() => {}
                () = expiry => match self.retire().await {
                    Some(end) => return end,
                    None => is_sure = false,
                },
                () = self.handle().lost.cancelled() => return End::Gone,
                () = self.context.stopping.cancelled() => return End::Lost,
                error = session.died() => {
                    tracing::warn!(%error, session = %self.owned.id, "a session's sandbox died");
                    return End::Lost;
                }
            }
        }
    }

    /// Closes a session that has expired, unless a call came in this moment.
    async fn retire(&self) -> Option<End> {
        match self.context.queue.retire_session(self.context.worker, &self.owned).await {
            Ok(SessionNews::Close) => Some(End::Closed),
            Ok(SessionNews::Lost) => Some(End::Gone),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(%error, "cannot close an idle session; trying again");
                tokio::time::sleep(PAUSE).await;
                None
            }
        }
    }

    /// Runs the calls that wait; returns how many there were. Each takes a slot of its own, so that a
    /// busy session cannot keep one from the jobs that wait for it; one about a file, which may take as
    /// long as its caller likes, gives it back.
    ///
    /// `is_sure`: that no call is marked as running. After a failure one may be ours already, and the
    /// queue says that only when asked for the next.
    async fn serve_waiting(&self, session: &mut Session, is_sure: bool) -> Result<usize, End> {
        let (context, handle) = (self.context, self.handle());
        let mut served = 0;
        let mut is_sure = is_sure;
        loop {
            if context.stopping.is_cancelled() {
                return Err(End::Lost);
            }
            if handle.lost.is_cancelled() {
                return Err(End::Gone);
            }
            let slot = match Arc::clone(&context.slots).try_acquire_owned() {
                Ok(slot) => slot,
                Err(_) => match self.await_slot(is_sure).await? {
                    Some(slot) => slot,
                    None => return Ok(served),
                },
            };
            match context.queue.next_call(context.worker, &self.owned).await {
                Ok(NextCall::Idle) => return Ok(served),
                Ok(NextCall::Close) => return Err(End::Closed),
                Ok(NextCall::Lost) => return Err(End::Gone),
                Ok(NextCall::Run(call)) => {
                    let slot = matches!(call.call, Call::Execute { .. }).then_some(slot);
                    // Boxed, so that a session that waits is no larger than it needs to be.
                    Box::pin(self.run_call(session, call)).await?;
                    drop(slot);
                    is_sure = true;
                    served += 1;
                }
                Err(error) => {
                    drop(slot);
                    is_sure = false;
                    tracing::warn!(%error, "cannot fetch a session's calls; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Waits for a slot, but not if the session is to end, or, where `is_sure`, if no call waits.
    async fn await_slot(&self, is_sure: bool) -> Result<Option<OwnedSemaphorePermit>, End> {
        let (context, handle) = (self.context, self.handle());
        let mut next = std::pin::pin!(context.slot(None));
        loop {
            let owned = std::slice::from_ref(&self.owned);
            match context.queue.renew_sessions(context.worker, owned).await.as_deref() {
                Ok([(_, SessionNews::Close)]) => return Err(End::Closed),
                Ok([(_, SessionNews::Lost)]) => return Err(End::Gone),
                Ok([(_, SessionNews::Kept)]) if is_sure => return Ok(None),
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "cannot look after a session"),
            }
            tokio::select! {
                biased;
                () = context.stopping.cancelled() => return Err(End::Lost),
                () = handle.lost.cancelled() => return Err(End::Gone),
                slot = &mut next => return Ok(Some(slot)),
                () = handle.wake.notified() => {}
            }
        }
    }

    /// Runs one call to its commit; the end of the session if it brought that about. Its callers are
    /// told by the end then.
    async fn run_call(&self, session: &mut Session, claimed: ClaimedCall) -> Result<(), End> {
        let (context, started, mut attempt) = (self.context, Instant::now(), Attempt::now());
        let ClaimedCall { id, call, queued_ms } = claimed;
        let cancel = context.abort.child_token();
        let _running = self.handle().begin(id, &cancel);
        let (ending, job) = match call {
            Call::Execute { mut job } => {
                let fetching = context.fetcher.fetch(&self.owned.tenant, &mut job, &cancel);
                let fetched = self.watched(fetching).await;
                let publication = |timeout_ms| {
                    context.queue.call_publication(context.worker, &self.owned, id, timeout_ms)
                };
                let (outcome, events) = match fetched {
                    Ok(took) => {
                        let ran = self.execute(session, id, &job, took, publication, &cancel).await;
                        attempt.security_events = ran.security_events;
                        (ran.outcome, ran.events)
                    }
                    Err(error) => (Err(EngineError::Job(error)), 0),
                };
                let was_aborted = context.abort.is_cancelled() && was_cut_short(&outcome);
                if was_aborted || session.is_broken() {
                    self.record(id, &job, attempt, &lost());
                    return Err(End::Lost);
                }
                let ending = match judge(outcome, queued_ms, events) {
                    Verdict::Finish(ending) => ending,
                    // There is no other place to run it.
                    Verdict::GiveBack(GiveBack::Failed(failure)) => Ending::Error(failure),
                    Verdict::GiveBack(GiveBack::Shutdown | GiveBack::NoRoom)
                    | Verdict::Retry(..)
                    | Verdict::Drop => {
                        return Err(End::Lost);
                    }
                };
                (ending, Some(job))
            }
            call => {
                let file = FileCall { context, owned: &self.owned, session, cancel: &cancel };
                // Boxed, so that a session that only runs programs is no larger than it needs to be.
                (Box::pin(self.watched(file.serve(call))).await, None)
            }
        };
        if session.is_broken() {
            return Err(End::Lost);
        }
        let told = insist(context, id, || {
            context.queue.finish_call(context.worker, &self.owned, id, &ending)
        })
        .await;
        if let Some(job) = &job {
            match told {
                Told::Done => self.record(id, job, attempt, &ending),
                Told::Fenced | Told::Never => {
                    let unheard = unheard(is_closing(context, &self.owned).await);
                    self.record(id, job, attempt, &unheard);
                }
            }
        }
        self.note(&Verdict::Finish(ending), told, started);
        Ok(())
    }

    pub(super) fn record(&self, id: JobId, job: &Job, attempt: Attempt, ending: &Ending) {
        let (tenant, session) = (&self.owned.tenant, Some(&self.owned.id));
        self.context.record(id, job, tenant, session, attempt, ending);
    }

    pub(super) fn note(&self, verdict: &Verdict, told: Told, started: Instant) {
        self.context.metrics.call_ended(verdict.label(told), started.elapsed());
    }

    /// Runs a program, with all that goes on beside it.
    pub(super) async fn execute(
        &self,
        session: &mut Session,
        id: JobId,
        job: &Job,
        fetch_time: Duration,
        publication: impl FnOnce(u64) -> Publication,
        cancel: &CancellationToken,
    ) -> Executed {
        let (mut wires, attendants) = attend(self.context, id, job, publication);
        // The largest part of a session's task, needed only while a program runs.
        let running = Box::pin(async {
            let mut console = wires.console();
            let outcome = session.execute(id, job, &mut console, cancel).await;
            let security_events = console.security_events;
            drop(wires);
            let outcome = outcome.map(|mut result| {
                result.timings.fetch_ms = milliseconds(fetch_time);
                result
            });
            (outcome, security_events)
        });
        let serving = attendants.serve(self.context, &self.owned.tenant, cancel);
        let ran = self.watched(async { tokio::join!(running, serving) }).await;
        let ((outcome, security_events), events) = ran;
        Executed { outcome, events, security_events }
    }

    /// Does something for a call while watching whether that is to be stopped.
    async fn watched<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            done = work => done,
            never = self.watch() => never,
        }
    }

    /// Looks, whenever somebody calls at the session while a call runs, whether that is to be stopped.
    async fn watch<T>(&self) -> T {
        loop {
            self.handle().wake.notified().await;
            let owned = std::slice::from_ref(&self.owned);
            match self.context.queue.renew_sessions(self.context.worker, owned).await {
                Ok(news) => news.into_iter().for_each(|(_, news)| self.handle().tell_running(news)),
                // The next renewal tells.
                Err(error) => tracing::debug!(%error, "cannot look after a session"),
            }
        }
    }

    /// Ends the session: here, and in the queue.
    async fn end(&self, session: Session, end: End) {
        match end {
            End::Gone => self.close(session).await,
            // Its callers wait for the news, and nobody for the sandbox.
            End::Lost => {
                tokio::join!(say_farewell(self.context, &self.owned, true), self.close(session));
            }
            // Who closes a session may rely on it that nothing of it runs any more.
            End::Closed => {
                self.close(session).await;
                say_farewell(self.context, &self.owned, false).await;
            }
        }
    }

    /// Removes the sandbox; what was blocked since the last call goes into the audit log.
    async fn close(&self, session: Session) {
        let Some(aftermath) = session.close().await else { return };
        let Aftermath { id, runtime, metadata, events } = aftermath;
        let (tenant, name) = (&self.owned.tenant, &self.owned.id);
        let record = Record::of_aftermath(id, tenant, name, runtime, &metadata, events);
        self.context.audit.record(&record);
    }
}
