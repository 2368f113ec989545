//! A session's calls that run no program, most of them about files: between the queue and the sandbox,
//! piece by piece. However a transfer ends, the sandbox is left ready for the next call.

use std::time::Duration;

use bytes::Bytes;
use runner::protocol::DATA_CHUNK_BYTES;
use shared::config::NetworkFilter;
use shared::execution::{
    Call, Content, Ending, Failure, FileContent, FileReply, Network, NetworkChange,
};
use shared::id::TransferId;
use shared::redis::{OwnedSession, TransferReceiver, TransferSender};
use shared::{Error, ErrorCode};
use tokio_util::sync::CancellationToken;

use crate::Context;
use crate::engine::Session;

/// How long the other side of a transfer, which waits for it, may take to appear.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long one call may take, however fast its other side is: others wait for the session.
const LONGEST_CALL: Duration = Duration::from_secs(600);

/// One call about a file.
pub(super) struct FileCall<'a> {
    pub(super) context: &'a Context,
    pub(super) owned: &'a OwnedSession,
    pub(super) session: &'a mut Session,
    pub(super) cancel: &'a CancellationToken,
}

impl FileCall<'_> {
    /// Does what the call asks for, or breaks it off when it takes too long.
    pub(super) async fn serve(self, call: Call) -> Ending {
        let cancel = self.cancel.clone();
        let limit = async {
            tokio::time::sleep(LONGEST_CALL).await;
            tracing::warn!("a transfer takes too long; breaking it off");
            cancel.cancel();
            std::future::pending().await
        };
        tokio::select! {
            biased;
            ending = self.answer(call) => ending,
            never = limit => never,
        }
    }

    async fn answer(mut self, call: Call) -> Ending {
        let reply = match call {
            Call::Write { path, mode, content } => self.write(&path, mode, content).await,
            Call::Read { path, max_bytes, transfer: None } => self.read(&path, max_bytes).await,
            Call::Read { path, max_bytes, transfer: Some(transfer) } => {
                self.send(&path, max_bytes, transfer).await
            }
            Call::List { path } => self.list(&path).await,
            Call::Remove { path } => self.remove(&path).await,
            Call::SetNetwork { change } => self.set_network(change),
            Call::Execute { .. } => {
                Err(Error::new(ErrorCode::Internal, "A program was taken for a file."))
            }
        };
        match reply {
            Ok(reply) => Ending::File(reply),
            Err(error) => Ending::Error(Failure::from(&error)),
        }
    }

    fn set_network(&mut self, change: NetworkChange) -> Result<FileReply, Error> {
        let (way_out, filter) = self.session.change_network(change)?;
        let NetworkFilter { whitelist, blacklist } = filter;
        let mode = if way_out.run { Network::Filtered } else { Network::None };
        Ok(FileReply::Network { mode, whitelist, blacklist })
    }

    async fn list(&mut self, path: &str) -> Result<FileReply, Error> {
        let (entries, truncated) = self.session.list(path).await?;
        Ok(FileReply::Directory { entries, truncated })
    }

    async fn remove(&mut self, path: &str) -> Result<FileReply, Error> {
        self.session.remove(path).await?;
        Ok(FileReply::Removed)
    }

    async fn write(&mut self, path: &str, mode: u32, from: Content) -> Result<FileReply, Error> {
        let received = match from {
            Content::Inline(FileContent(bytes)) => {
                self.session.begin_write(path, mode)?;
                for piece in bytes.chunks(DATA_CHUNK_BYTES) {
                    self.session.write_piece(piece).await?;
                }
                Ok(bytes.len() as u64)
            }
            Content::Transfer(id) => {
                let transfer = self.context.queue.transfer(&self.owned.tenant, id);
                let receiver = transfer.receiver(PATIENCE).await?;
                self.session.begin_write(path, mode)?;
                self.receive(receiver).await
            }
        };
        let written = self.session.end_write().await;
        match received {
            Ok(size_bytes) => {
                written?;
                Ok(FileReply::Written { size_bytes })
            }
            Err(error) => {
                // Half a file must not pass for a whole one. One that could not even be opened is
                // not there to be removed.
                if written.is_ok() {
                    self.session.remove(path).await?;
                }
                Err(error)
            }
        }
    }

    /// Writes what comes by a transfer; returns how much it was.
    async fn receive(&mut self, mut receiver: TransferReceiver) -> Result<u64, Error> {
        let mut size_bytes = 0;
        loop {
            let next = self.cancel.run_until_cancelled(receiver.next()).await;
            let Some(piece) = next.unwrap_or_else(|| Err(cancelled()))? else {
                return Ok(size_bytes);
            };
            size_bytes += piece.len() as u64;
            self.session.write_piece(&piece).await?;
        }
    }

    async fn read(&mut self, path: &str, max_bytes: u64) -> Result<FileReply, Error> {
        let size_bytes = self.session.begin_read(path, max_bytes).await?;
        let mut content = Vec::new();
        while let Some(piece) = self.session.read_piece().await? {
            content.extend_from_slice(&piece);
        }
        Ok(FileReply::Read { size_bytes, content: Some(FileContent(Bytes::from(content))) })
    }

    /// Reads a file into a transfer.
    async fn send(
        &mut self,
        path: &str,
        max_bytes: u64,
        id: TransferId,
    ) -> Result<FileReply, Error> {
        let sender = self.context.queue.transfer(&self.owned.tenant, id).sender(PATIENCE).await?;
        let size_bytes = match self.session.begin_read(path, max_bytes).await {
            Ok(size_bytes) => size_bytes,
            Err(error) => {
                let error = Error::from(error);
                sender.abort(error.message()).await?;
                return Err(error);
            }
        };
        // The rest of a file that nobody wants any more has to be read all the same.
        let sent = self.send_pieces(sender).await;
        if sent.is_err() {
            while let Ok(Some(_)) = self.session.read_piece().await {}
        }
        sent?;
        Ok(FileReply::Read { size_bytes, content: None })
    }

    /// Sends a file's pieces, to the end unless that fails.
    async fn send_pieces(&mut self, mut sender: TransferSender) -> Result<(), Error> {
        loop {
            match self.session.read_piece().await {
                Ok(Some(piece)) => {
                    let sent = self.cancel.run_until_cancelled(sender.send(piece)).await;
                    sent.unwrap_or_else(|| Err(cancelled()))?;
                }
                Ok(None) => return sender.finish().await,
                Err(error) => {
                    let error = Error::from(error);
                    sender.abort(error.message()).await?;
                    return Err(error);
                }
            }
        }
    }
}

fn cancelled() -> Error {
    Error::new(ErrorCode::Cancelled, "The call was cancelled, or took longer than 10 minutes")
}
