//! The scripts about sessions.

use redis::RedisResult;

use super::{NewJob, NewListing, Refusal, Scripts};
use crate::execution::Priority;
use crate::id::SessionId;
use crate::redis::keys;

/// A session, as the scripts name it.
#[derive(Clone, Debug)]
pub(in crate::redis) struct SessionKeys {
    pub(in crate::redis) shard: u16,
    /// `<tenant>:<id>`.
    pub(in crate::redis) name: String,
    /// The call that opened it: another session of the same name is another session.
    pub(in crate::redis) opening: String,
}

impl SessionKeys {
    fn keys(&self) -> [String; 2] {
        [keys::session(self.shard, &self.name), keys::calls(self.shard, &self.name)]
    }
}

/// A call to put into its session's queue.
pub(in crate::redis) struct NewCall<'a> {
    pub(in crate::redis) job: NewJob<'a>,
    /// If it outlives its request.
    pub(in crate::redis) listing: Option<NewListing>,
    pub(in crate::redis) session: &'a SessionId,
    /// '' if it does not matter.
    pub(in crate::redis) runtime: &'a str,
    pub(in crate::redis) may_open: bool,
    pub(in crate::redis) max_sessions: u32,
    pub(in crate::redis) max_waiting: u32,
    /// Jobs that may wait in the stream.
    pub(in crate::redis) max_queued: u64,
}

impl Scripts {
    /// Queues a call, or says why not.
    pub(in crate::redis) async fn enqueue_call(&self, new: &NewCall<'_>) -> RedisResult<Refusal> {
        let job = &new.job;
        let name = keys::session_name(job.tenant, new.session);
        let mut call = self.enqueue_call.call(&[
            job.line(Priority::Normal),
            keys::record(job.shard, &job.id),
            keys::session(job.shard, &name),
            keys::calls(job.shard, &name),
            keys::sessions(job.shard, job.tenant),
        ]);
        job.add_to(&mut call);
        call.arg(new.max_waiting)
            .arg(&name)
            .arg(new.session.as_str())
            .arg(new.runtime)
            .arg(u8::from(new.may_open))
            .arg(new.max_sessions)
            .arg(new.max_queued);
        if let Some(listing) = &new.listing {
            call.arg(listing.keep_ms)
                .arg(&listing.terms)
                .arg(&listing.once)
                .arg(&listing.request)
                .arg(job.quota.max_kept)
                .arg(job.quota.max_kept_bytes)
                .arg(&listing.webhook);
        }
        self.enqueue_call.run(&self.client, &call).await
    }

    /// Starts a session's next call.
    pub(in crate::redis) async fn take_call(
        &self,
        session: &SessionKeys,
        worker: &str,
    ) -> RedisResult<Vec<redis::Value>> {
        let mut call = self.take_call.call(&session.keys());
        call.arg(worker).arg(&session.opening);
        self.take_call.run(&self.client, &call).await
    }

    /// Commits a call's ending; false if fenced.
    pub(in crate::redis) async fn finish_call(
        &self,
        session: &SessionKeys,
        worker: &str,
        job: &str,
        ending: &str,
        summary: &str,
    ) -> RedisResult<bool> {
        let [session_key, _] = session.keys();
        let mut call = self.finish_call.call(&[session_key, keys::record(session.shard, job)]);
        call.arg(worker).arg(&session.opening).arg(job).arg(ending).arg(summary);
        self.finish_call.run(&self.client, &call).await
    }

    /// Renews sessions of one shard; one word for each.
    pub(in crate::redis) async fn renew_sessions(
        &self,
        worker: &str,
        sessions: &[SessionKeys],
    ) -> RedisResult<Vec<String>> {
        let all: Vec<_> = sessions.iter().flat_map(SessionKeys::keys).collect();
        let mut call = self.renew_sessions.call(&all);
        call.arg(worker);
        for session in sessions {
            call.arg(&session.name).arg(&session.opening);
        }
        self.renew_sessions.run(&self.client, &call).await
    }

    /// Asks for the end of a session; true if its owner is at it.
    pub(in crate::redis) async fn close_session(&self, session: &SessionKeys) -> RedisResult<bool> {
        let mut call = self.close_session.call(&session.keys());
        call.arg(&session.name).arg(&session.opening);
        self.close_session.run(&self.client, &call).await
    }

    /// Marks an idle session for closing: 'closing', 'busy' or 'lost'.
    pub(in crate::redis) async fn retire_session(
        &self,
        session: &SessionKeys,
        worker: &str,
    ) -> RedisResult<String> {
        let mut call = self.retire_session.call(&session.keys());
        call.arg(worker).arg(&session.opening);
        self.retire_session.run(&self.client, &call).await
    }

    /// Ends a session that `worker` owns, or, without one, whose owner is silent; false if it is
    /// not so.
    pub(in crate::redis) async fn end_session(
        &self,
        session: &SessionKeys,
        worker: Option<&str>,
        is_loss: bool,
    ) -> RedisResult<bool> {
        let mut call = self.end_session.call(&session.keys());
        call.arg(&session.name).arg(worker.unwrap_or_default());
        call.arg(&session.opening).arg(u8::from(is_loss));
        self.end_session.run(&self.client, &call).await
    }
}
