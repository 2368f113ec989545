//! Sessions: who owns them, what their owner does next, and how they end.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::{FromRedisValue, cmd, from_redis_value_ref, pipe};
use tokio::time::{Instant, sleep};

use super::claim::what_is_unread;
use super::{
    ClaimedCall, Commit, NextCall, OwnedSession, Queue, SessionInfo, SessionNews, serialize,
};
use crate::error::{Error, ErrorCode};
use crate::execution::{Call, Ending, Failure};
use crate::id::{JobId, SessionId, TenantId, WorkerId};
use crate::redis::client::failure;
use crate::redis::keys;
use crate::redis::scripts::SessionKeys;
use crate::sealing::{Owner, Place, Purpose};

/// Most sessions that one script call renews.
const RENEW_BATCH: usize = 64;
/// Sessions described in one round trip.
const DESCRIBE_BATCH: usize = 256;
/// Abandoned sessions looked at in one go.
const ABANDONED_BATCH: usize = 64;
/// How long after the lease of a session its owner counts as stuck, if it does not close it: one
/// that is gone is known by then. And how often to look.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

impl OwnedSession {
    fn keys(&self) -> SessionKeys {
        SessionKeys {
            shard: self.shard,
            name: keys::session_name(&self.tenant, &self.id),
            opening: self.opening.to_string(),
        }
    }
}

impl Queue {
    /// What the owner of a session is to do next. Only to be called while it does nothing for it.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn next_call(
        &self,
        worker: WorkerId,
        session: &OwnedSession,
    ) -> Result<NextCall, Error> {
        let name = worker.to_string();
        let keys = session.keys();
        loop {
            let answer = self.inner.scripts.take_call(&keys, &name).await.map_err(failure)?;
            let word: String = answer.first().map_or_else(|| Ok(String::new()), read)?;
            let (id, waited_us, payload) = match (word.as_str(), answer.as_slice()) {
                ("taken", [_, id, waited_us, payload]) => (id, waited_us, payload),
                ("idle", _) => return Ok(NextCall::Idle),
                ("closing", _) => return Ok(NextCall::Close),
                _ => return Ok(NextCall::Lost),
            };
            let id: JobId = read::<String>(id)?.parse().map_err(|error| {
                Error::new(ErrorCode::Internal, "a call has an identifier that is none")
                    .with_source(error)
            })?;
            let queued_ms = Duration::from_micros(read(waited_us)?).as_secs_f64() * 1000.0;
            match self.read_call(&session.tenant, id, read(payload)?) {
                Ok(call) => return Ok(NextCall::Run(ClaimedCall { id, call, queued_ms })),
                Err(failure) => {
                    let ending = Ending::Error(failure);
                    if self.finish_call(worker, session, id, &ending).await? == Commit::Fenced {
                        return Ok(NextCall::Lost);
                    }
                }
            }
        }
    }

    /// A call as it was stored, or how it ends if it cannot be read.
    fn read_call(
        &self,
        tenant: &TenantId,
        id: JobId,
        mut payload: Vec<u8>,
    ) -> Result<Call, Failure> {
        let place = Place { tenant, owner: Owner::Job(id), purpose: Purpose::Payload };
        let payload = self.unseal(place, &mut payload).map_err(|error| {
            tracing::warn!(%id, %error, "a call cannot be decrypted");
            Failure::new(error.code(), error.message())
        })?;
        serde_json::from_slice(payload).map_err(|error| {
            let unreadable = Error::new(ErrorCode::Internal, "unreadable call").with_source(error);
            let reason = what_is_unread(&unreadable);
            tracing::warn!(%id, reason, "a call is not readable by this version");
            Failure::new(
                ErrorCode::NoWorker,
                "The call cannot be read by the session's worker: it was written by another version of \
                 isol8. Upgrade workers before gateways, and open the session anew.",
            )
        })
    }

    /// Commits the ending of a session's call, if the session is still this worker's. The call that
    /// opened the session is finished by its lease instead.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached; repeat it then.
    pub async fn finish_call(
        &self,
        worker: WorkerId,
        session: &OwnedSession,
        id: JobId,
        ending: &Ending,
    ) -> Result<Commit, Error> {
        let (text, summary) = (serialize(ending)?, serialize(&ending.summary())?);
        let (worker, id) = (worker.to_string(), id.to_string());
        let keys = session.keys();
        let done = self.inner.scripts.finish_call(&keys, &worker, &id, &text, &summary).await;
        Ok(if done.map_err(failure)? { Commit::Done } else { Commit::Fenced })
    }

    /// Renews sessions and tells what is to be known of each, in order.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn renew_sessions(
        &self,
        worker: WorkerId,
        sessions: &[OwnedSession],
    ) -> Result<Vec<(OwnedSession, SessionNews)>, Error> {
        let name = worker.to_string();
        let mut shards: BTreeMap<u16, Vec<&OwnedSession>> = BTreeMap::new();
        for session in sessions {
            shards.entry(session.shard).or_default().push(session);
        }
        let mut news = Vec::with_capacity(sessions.len());
        for sessions in shards.into_values() {
            for batch in sessions.chunks(RENEW_BATCH) {
                let keys: Vec<_> = batch.iter().map(|session| session.keys()).collect();
                let renewed = self.inner.scripts.renew_sessions(&name, &keys);
                let words = renewed.await.map_err(failure)?;
                news.extend(batch.iter().zip(words).map(|(session, word)| {
                    let news = match word.as_str() {
                        "kept" => SessionNews::Kept,
                        "waiting" => SessionNews::CallsWait,
                        "cancel" => SessionNews::CancelRunning,
                        "closing" => SessionNews::Close,
                        _ => SessionNews::Lost,
                    };
                    ((*session).clone(), news)
                }));
            }
        }
        Ok(news)
    }

    /// Marks a session for closing because it was idle for too long, unless a call came meanwhile.
    /// [`SessionNews::Close`]: remove the sandbox, then [`end_session`](Self::end_session); whoever
    /// wants to open the session anew waits for that. [`SessionNews::CallsWait`]: go on.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn retire_session(
        &self,
        worker: WorkerId,
        session: &OwnedSession,
    ) -> Result<SessionNews, Error> {
        let name = worker.to_string();
        let word = self.inner.scripts.retire_session(&session.keys(), &name).await;
        Ok(match word.map_err(failure)?.as_str() {
            "closing" => SessionNews::Close,
            "busy" => SessionNews::CallsWait,
            _ => SessionNews::Lost,
        })
    }

    /// Forgets a session whose sandbox its owner has removed, or could not make. `is_loss`: its
    /// callers, or else the next one, are told that it is lost. Otherwise, if it was not to be
    /// closed, the next call that can opens it anew, on whichever worker takes it.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached; others find out when its lease
    /// has run out.
    pub async fn end_session(
        &self,
        worker: WorkerId,
        session: &OwnedSession,
        is_loss: bool,
    ) -> Result<(), Error> {
        let name = worker.to_string();
        let ended = self.inner.scripts.end_session(&session.keys(), Some(&name), is_loss).await;
        ended.map(drop).map_err(failure)
    }

    /// Gives up sessions whose owners have not renewed them: waiting calls are answered now.
    /// Returns how many there were.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn reap_sessions(&self) -> Result<usize, Error> {
        let step = |shard| async move {
            let leases = keys::session_leases(shard);
            let mut find = cmd("ZRANGEBYSCORE");
            find.arg(leases).arg("-inf");
            let (seconds, micros): (u64, u64) =
                self.inner.client.run_where(&cmd("TIME"), &find).await.map_err(failure)?;
            find.arg(seconds * 1000 + micros / 1000).arg("LIMIT").arg(0).arg(ABANDONED_BATCH);
            let names: Vec<String> = self.inner.client.run(&find).await.map_err(failure)?;
            let mut reaped = 0;
            for name in names {
                let keys = SessionKeys { shard, name, opening: String::new() };
                let ended = self.inner.scripts.end_session(&keys, None, true).await;
                reaped += usize::from(ended.map_err(failure)?);
            }
            Ok(reaped)
        };
        Ok(self.each_shard(step).await?.into_iter().sum())
    }

    /// Closes a session of this tenant: ends its calls, waits until its sandbox is gone. True if
    /// there was one.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached, [`ErrorCode::SandboxFailed`] if
    /// its worker does not close it in time.
    pub async fn close_session(&self, tenant: &TenantId, id: &SessionId) -> Result<bool, Error> {
        let shard = self.shard_of(tenant);
        let name = keys::session_name(tenant, id);
        let mut look = cmd("HGET");
        look.arg(keys::session(shard, &name)).arg("opening");
        let opening: Option<String> = self.inner.client.run(&look).await.map_err(failure)?;
        let existed = opening.is_some();
        let keys = SessionKeys { shard, name, opening: opening.unwrap_or_default() };
        let lease = Duration::from_millis(self.inner.config.lease_ms);
        let give_up_at = Instant::now() + lease + CLOSE_PATIENCE;
        let mut pause = FIRST_LOOK;
        // Asking again is safe, and reaches a worker that missed the message.
        while self.inner.scripts.close_session(&keys).await.map_err(failure)? {
            if Instant::now() >= give_up_at {
                return Err(Error::new(
                    ErrorCode::SandboxFailed,
                    format!(
                        "Session \"{id}\" is marked for closing, but its worker is slow to do it."
                    ),
                ));
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Ok(existed)
    }

    /// The sessions of a tenant, oldest first.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn sessions(&self, tenant: &TenantId) -> Result<Vec<SessionInfo>, Error> {
        let shard = self.shard_of(tenant);
        let mut list = cmd("ZRANGE");
        list.arg(keys::sessions(shard, tenant)).arg(0).arg(-1);
        let ids: Vec<String> = self.inner.client.run(&list).await.map_err(failure)?;
        let ids = ids.into_iter().filter_map(|id| SessionId::new(id).ok());
        self.describe(shard, ids.map(|id| (tenant.clone(), id)).collect()).await
    }

    /// The sessions of all tenants, those too that wait for a worker to open them.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn all_sessions(&self) -> Result<Vec<SessionInfo>, Error> {
        let mut all = Vec::new();
        for shard in self.shards() {
            let mut list = cmd("ZRANGE");
            list.arg(keys::session_leases(shard)).arg(0).arg(-1);
            let names: Vec<String> = self.inner.client.run(&list).await.map_err(failure)?;
            let sessions = names.iter().filter_map(|name| {
                let (tenant, id) = name.split_once(':')?;
                Some((TenantId::new(tenant), SessionId::new(id).ok()?))
            });
            all.extend(self.describe(shard, sessions.collect()).await?);
        }
        Ok(all)
    }

    async fn describe(
        &self,
        shard: u16,
        sessions: Vec<(TenantId, SessionId)>,
    ) -> Result<Vec<SessionInfo>, Error> {
        type Fields = (Option<String>, Option<String>, Option<u64>, Option<u64>);
        let mut described = Vec::with_capacity(sessions.len());
        for batch in sessions.chunks(DESCRIBE_BATCH) {
            let mut look = pipe();
            for (tenant, id) in batch {
                let name = keys::session_name(tenant, id);
                look.cmd("HMGET").arg(keys::session(shard, &name));
                look.arg("runtime").arg("running").arg("created_us").arg("used_us");
                look.cmd("LLEN").arg(keys::calls(shard, &name));
            }
            let answers: Vec<redis::Value> =
                self.inner.client.run_all(&look).await.map_err(failure)?;
            for ((tenant, id), answer) in batch.iter().zip(answers.chunks_exact(2)) {
                let (runtime, running, created_us, used_us): Fields = read(&answer[0])?;
                let waiting: u64 = read(&answer[1])?;
                // Closed between the two looks.
                let (Some(runtime), Some(created_us)) = (runtime, created_us) else { continue };
                described.push(SessionInfo {
                    id: id.clone(),
                    tenant: tenant.clone(),
                    runtime,
                    is_active: waiting > 0 || running.is_some_and(|id| !id.is_empty()),
                    created_ms: created_us / 1000,
                    used_ms: used_us.unwrap_or(created_us) / 1000,
                });
            }
        }
        Ok(described)
    }
}

fn read<T: FromRedisValue>(value: &redis::Value) -> Result<T, Error> {
    from_redis_value_ref(value).map_err(|error| failure(error.into()))
}
