//! The sending end of a transfer.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use redis::pipe;
use tokio::time::Instant;

use super::{
    CHUNK_BYTES, GONE, Message, SILENCE, SLICE, Sign, TTL_MS, Transfer, WINDOW_BYTES, aborted,
    garbled, run, silent,
};
use crate::error::Error;
use crate::redis::client::failure;
use crate::redis::connection::Private;

/// A slow source's bytes wait this long for more to travel with.
const GATHERING: Duration = Duration::from_secs(1);
/// Most signs taken in one go; a window has far fewer chunks.
const SIGNS: usize = 64;

/// Sends the bytes of one file. Dropped before its end, it tells the receiver so.
pub struct TransferSender {
    transfer: Transfer,
    connection: Private,
    gathered: BytesMut,
    pushed_at: Instant,
    sent: u64,
    taken: u64,
    receiver: Receiver,
    /// How long the receiver may say nothing, and since when it has.
    patience: Duration,
    heard_at: Instant,
    /// Set when there is nothing to tell the receiver any more.
    is_over: bool,
    /// Set while a step is under way: what a dropped one left behind is not known.
    is_torn: bool,
}

#[derive(PartialEq, Eq)]
enum Receiver {
    Awaited,
    There,
    Complete,
}

impl TransferSender {
    pub(super) async fn open(transfer: Transfer, patience: Duration) -> Result<Self, Error> {
        let connection = transfer.client.private().await.map_err(failure)?;
        Ok(Self {
            transfer,
            connection,
            gathered: BytesMut::new(),
            pushed_at: Instant::now(),
            sent: 0,
            taken: 0,
            receiver: Receiver::Awaited,
            patience,
            heard_at: Instant::now(),
            is_over: false,
            is_torn: false,
        })
    }

    /// Sends bytes, in pieces of any size; waits while too many are on their way. A sender whose
    /// `send` was dropped half-way can only be aborted.
    ///
    /// # Errors
    /// [`crate::ErrorCode::FileFailed`] if the receiver aborted, went away or is silent;
    /// [`crate::ErrorCode::QueueUnavailable`] if Redis cannot be reached. The transfer is over then.
    pub async fn send(&mut self, mut bytes: Bytes) -> Result<(), Error> {
        while !bytes.is_empty() {
            let room = CHUNK_BYTES - self.gathered.len();
            self.gathered.extend_from_slice(&bytes.split_to(room.min(bytes.len())));
            if self.gathered.len() == CHUNK_BYTES {
                self.push_gathered().await?;
            }
        }
        if self.pushed_at.elapsed() >= GATHERING {
            self.push_gathered().await?;
        }
        Ok(())
    }

    /// Says that this was all, and waits until the receiver has taken everything.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn finish(mut self) -> Result<(), Error> {
        self.push_gathered().await?;
        self.push(&Message::End(self.sent), 0).await?;
        while self.receiver != Receiver::Complete {
            self.await_sign().await?;
        }
        self.is_over = true;
        let mut remove = redis::cmd("DEL");
        remove.arg(&self.transfer.data).arg(&self.transfer.signs);
        // They are empty, or go with their lifetime.
        if let Err(error) = self.transfer.client.run::<u64>(&remove).await {
            tracing::debug!(%error, "a transfer's keys were left to expire");
        }
        Ok(())
    }

    /// Tells the receiver that the rest will not come, and why.
    ///
    /// # Errors
    /// [`crate::ErrorCode::QueueUnavailable`] if Redis cannot be reached; the receiver notices the
    /// silence then.
    pub async fn abort(mut self, reason: &str) -> Result<(), Error> {
        self.is_over = true;
        let last_word = self.transfer.abort_to_receiver(reason);
        self.transfer.client.run_all(&last_word).await.map_err(failure)
    }

    async fn push_gathered(&mut self) -> Result<(), Error> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let chunk = self.gathered.split().freeze();
        let length = chunk.len() as u64;
        self.push(&Message::Data(self.sent, chunk), length).await?;
        self.sent += length;
        self.pushed_at = Instant::now();
        Ok(())
    }

    /// Pushes a message as soon as the window has room, and looks for signs on the way.
    async fn push(&mut self, message: &Message, length: u64) -> Result<(), Error> {
        if self.is_torn {
            return Err(aborted("an earlier step of it was given up"));
        }
        self.is_torn = true;
        while self.receiver == Receiver::Awaited || self.sent - self.taken + length > WINDOW_BYTES {
            self.await_sign().await?;
        }
        let Transfer { data, signs, .. } = &self.transfer;
        let mut steps = pipe();
        steps.cmd("RPUSH").arg(data).arg(message.encode()).ignore();
        steps.cmd("PEXPIRE").arg(data).arg(TTL_MS).ignore();
        steps.cmd("LPOP").arg(signs).arg(SIGNS);
        let (signs,): (Option<Vec<String>>,) =
            run(self.connection.clone(), steps).await.map_err(failure)?;
        self.note(signs.unwrap_or_default())?;
        self.is_torn = false;
        Ok(())
    }

    /// Waits for a sign of the receiver.
    async fn await_sign(&mut self) -> Result<(), Error> {
        let left = self.patience.saturating_sub(self.heard_at.elapsed());
        if left.is_zero() {
            return Err(aborted(&silent(self.patience)));
        }
        let mut steps = pipe();
        // What is on its way must not expire under a slow receiver.
        steps.cmd("PEXPIRE").arg(&self.transfer.data).arg(TTL_MS).ignore();
        steps.cmd("BLMPOP").arg(left.min(SLICE).as_secs_f64().max(0.001)).arg(1);
        steps.arg(&self.transfer.signs).arg("LEFT").arg("COUNT").arg(SIGNS);
        let (signs,): (Option<(String, Vec<String>)>,) =
            run(self.connection.clone(), steps).await.map_err(failure)?;
        self.note(signs.map(|(_, signs)| signs).unwrap_or_default())
    }

    fn note(&mut self, signs: Vec<String>) -> Result<(), Error> {
        for sign in signs {
            self.heard_at = Instant::now();
            match Sign::decode(&sign).ok_or_else(garbled)? {
                Sign::Taken(bytes) => {
                    self.taken = self.taken.max(bytes).min(self.sent);
                    if self.receiver == Receiver::Awaited {
                        self.receiver = Receiver::There;
                        self.patience = SILENCE;
                    }
                }
                Sign::Complete => self.receiver = Receiver::Complete,
                Sign::Abort(reason) => return Err(aborted(&reason)),
            }
        }
        Ok(())
    }
}

impl Drop for TransferSender {
    fn drop(&mut self) {
        if !self.is_over {
            self.transfer.leave(self.transfer.abort_to_receiver(GONE));
        }
    }
}
