//! Files of a session. Each operation is a call in the session's own queue: it waits its turn behind
//! whatever runs there.

use bytes::Bytes;
use shared::execution::{Call, Content, Ending, FileContent, FileEntry, FileReply, NetworkChange};
use shared::id::{JobId, SessionId, TenantId};
use shared::labels::Labels;
use shared::redis::{Submission, ToSession};
use shared::{Error, ErrorCode};

use super::execute::{CancelOnDrop, not_queued};
use super::wait::{self, Waiter};
use crate::body::Room;
use crate::state::State;

/// Files up to this size are written inside the call: the queue forgets it when the file is written.
pub(crate) const INLINE_WRITE_BYTES: usize = 1 << 20;
/// Files up to this size are read inside the answer, which the queue keeps for a while. In base64
/// it still fits into a message.
const INLINE_READ_BYTES: u64 = 40 << 10;
/// How long a queue out of reach is put up with while an answer is waited for, in milliseconds.
const PATIENCE_MS: u64 = 30_000;

/// A session, and whose it is.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) state: State,
    pub(crate) tenant: TenantId,
    pub(crate) session: SessionId,
}

impl Place {
    /// A session by name.
    ///
    /// # Errors
    /// `SESSION_NOT_FOUND` if no session can have this name.
    pub(crate) fn new(state: &State, tenant: &TenantId, session: &str) -> Result<Self, Error> {
        let session = SessionId::new(session).map_err(|_| session_not_found())?;
        Ok(Self { state: State::clone(state), tenant: tenant.clone(), session })
    }

    /// Largest file that may be moved in or out, in bytes.
    pub(crate) fn max_bytes(&self) -> u64 {
        self.state.admission.policy(&self.tenant).max_file_bytes
    }

    /// Refuses files that are too large.
    ///
    /// # Errors
    /// `PAYLOAD_TOO_LARGE`.
    pub(crate) fn check_size(&self, bytes: u64) -> Result<(), Error> {
        if bytes <= self.max_bytes() {
            return Ok(());
        }
        Err(too_large(self.max_bytes()))
    }

    /// Writes a small file, which takes up `room` until the queue has it.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(crate) async fn write(
        &self,
        path: String,
        mode: u32,
        bytes: Bytes,
        room: Room,
    ) -> Result<u64, Error> {
        self.check_size(bytes.len() as u64)?;
        let content = Content::Inline(FileContent(bytes));
        let asked = self.ask(Call::Write { path, mode, content }).await?;
        // The session may be busy for long.
        drop(room);
        match asked.reply().await? {
            FileReply::Written { size_bytes } => Ok(size_bytes),
            other => Err(unexpected(&other)),
        }
    }

    /// Reads a small file.
    ///
    /// # Errors
    /// As [`ask`](Self::ask); `PAYLOAD_TOO_LARGE` if it is not small.
    pub(crate) async fn read(&self, path: String) -> Result<Bytes, Error> {
        let max_bytes = self.max_bytes().min(INLINE_READ_BYTES);
        match self.ask(Call::Read { path, max_bytes, transfer: None }).await?.reply().await? {
            FileReply::Read { content: Some(content), .. } => Ok(content.0),
            other => Err(unexpected(&other)),
        }
    }

    /// Lists a directory; also whether there is more than is listed.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(crate) async fn list(&self, path: String) -> Result<(Vec<FileEntry>, bool), Error> {
        match self.ask(Call::List { path }).await?.reply().await? {
            FileReply::Directory { entries, truncated } => Ok((entries, truncated)),
            other => Err(unexpected(&other)),
        }
    }

    /// Removes a file, or a directory with all that is in it.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(crate) async fn remove(&self, path: String) -> Result<(), Error> {
        match self.ask(Call::Remove { path }).await?.reply().await? {
            FileReply::Removed => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Changes what the session may reach; returns what it may reach then.
    ///
    /// # Errors
    /// As [`ask`](Self::ask); `INVALID_REQUEST` if it has no way out.
    pub(crate) async fn set_network(&self, change: NetworkChange) -> Result<NetworkChange, Error> {
        self.state.admission.admit_network(&self.tenant, &change)?;
        match self.ask(Call::SetNetwork { change }).await?.reply().await? {
            FileReply::Network { mode, whitelist, blacklist } => Ok(NetworkChange {
                mode: Some(mode),
                whitelist: Some(whitelist),
                blacklist: Some(blacklist),
            }),
            other => Err(unexpected(&other)),
        }
    }

    /// Puts a call into the session's queue.
    ///
    /// # Errors
    /// `SESSION_NOT_FOUND`, `SESSION_LOST`, and those of the queue.
    pub(super) async fn ask(&self, call: Call) -> Result<Asked, Error> {
        let id = JobId::generate();
        let state = State::clone(&self.state);
        // Registered before the call is in the queue: its answer may come before this returns.
        let waiter = state.registry.register(id, None);
        let quota = state.quota(&self.tenant);
        let submission = Submission { tenant: &self.tenant, id, reply_to: Some(state.id), quota };
        let labels = Labels::none();
        let to = ToSession { id: &self.session, may_open: false, max_sessions: 0, labels };
        let mut cancel = CancelOnDrop::new(&state, &self.tenant, id);
        if let Err(error) = state.queue.enqueue_call(submission, to, &call).await {
            return Err(not_queued(error, &mut cancel));
        }
        Ok(Asked { state, tenant: self.tenant.clone(), waiter, cancel })
    }
}

/// A call in the queue of its session; cancelled if nobody waits for its answer any more.
pub(super) struct Asked {
    state: State,
    tenant: TenantId,
    waiter: Waiter,
    cancel: CancelOnDrop,
}

impl Asked {
    /// Its name in the queue.
    pub(super) fn call(&self) -> JobId {
        self.waiter.job()
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// `FILE_FAILED` and the like if the file is at fault, `SESSION_LOST`, or that the answer
    /// cannot be learnt.
    pub(super) async fn reply(mut self) -> Result<FileReply, Error> {
        let id = self.waiter.job();
        let ending = wait::wait(&self.state, &self.tenant, self.waiter, PATIENCE_MS).await;
        self.cancel.disarm();
        let ending = ending?;
        let ending = serde_json::from_str(ending.get()).map_err(|error| {
            Error::new(ErrorCode::Internal, format!("The answer to call {id} cannot be read"))
                .with_source(error)
        })?;
        match ending {
            Ending::File(reply) => Ok(reply),
            Ending::Error(failure) => Err(Error::new(failure.code, failure.message)),
            Ending::Result(_) => {
                let message = format!("Call {id} about a file was answered as if it ran a program");
                Err(Error::new(ErrorCode::Internal, message))
            }
        }
    }
}

/// What callers know as the answer to a session that is not there.
pub(crate) fn session_not_found() -> Error {
    Error::new(ErrorCode::SessionNotFound, "Session not found")
}

pub(super) fn too_large(max_bytes: u64) -> Error {
    Error::new(
        ErrorCode::PayloadTooLarge,
        format!("The file is over the limit of {max_bytes} bytes (policy.maxFileBytes)"),
    )
}

pub(super) fn unexpected(reply: &FileReply) -> Error {
    // The reply may hold a file: only its kind is told.
    let kind = match reply {
        FileReply::Written { .. } => "written",
        FileReply::Read { .. } => "read",
        FileReply::Directory { .. } => "a directory",
        FileReply::Removed => "removed",
        FileReply::Network { .. } => "a network",
    };
    Error::new(ErrorCode::Internal, format!("A call about a file was answered with \"{kind}\""))
}
