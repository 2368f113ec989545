//! The receiving end of a transfer.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use redis::{RedisResult, pipe};
use tokio::time::Instant;

use super::{GONE, Message, SILENCE, SLICE, Sign, TTL_MS, Transfer, aborted, garbled, run, silent};
use crate::error::Error;
use crate::redis::client::failure;
use crate::redis::connection::Private;

/// Receives the bytes of one file. Dropped before its end, it tells the sender so.
pub struct TransferReceiver {
    transfer: Transfer,
    connection: Private,
    /// A read that was started and not yet answered: dropping `next` leaves it here.
    read: Option<BoxFuture<'static, RedisResult<Read>>>,
    taken: u64,
    /// Bytes that the sender knows to be taken; `None` before the first sign.
    told: Option<u64>,
    stage: Stage,
    /// How long the sender may say nothing, and since when it has.
    patience: Duration,
    heard_at: Instant,
}

/// A popped message, behind the name of its list.
type Read = (Option<(String, Vec<u8>)>,);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Taking,
    /// Everything is here; the sender does not know yet.
    Complete,
    Over,
}

impl TransferReceiver {
    pub(super) async fn open(transfer: Transfer, patience: Duration) -> Result<Self, Error> {
        let connection = transfer.client.private().await.map_err(failure)?;
        Ok(Self {
            transfer,
            connection,
            read: None,
            taken: 0,
            told: None,
            stage: Stage::Taking,
            patience,
            heard_at: Instant::now(),
        })
    }

    /// The next bytes, `None` at the end. Asking for more acknowledges what came before, so a slow
    /// caller slows the sender. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`crate::ErrorCode::FileFailed`] if the sender aborted, went away or is silent;
    /// [`crate::ErrorCode::QueueUnavailable`] if Redis cannot be reached. What was received is not
    /// the whole file then.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while self.stage == Stage::Taking {
            if self.read.is_none() {
                self.read = Some(self.start_read());
            }
            let read = self.read.as_mut().expect("a read was started above").await;
            self.read = None;
            let (popped,) = read.map_err(failure)?;
            let Some((_, wire)) = popped else {
                if self.heard_at.elapsed() >= self.patience {
                    return Err(aborted(&silent(self.patience)));
                }
                continue;
            };
            self.heard_at = Instant::now();
            self.patience = SILENCE;
            match Message::decode(wire).ok_or_else(garbled)? {
                Message::Data(offset, bytes) if offset == self.taken => {
                    self.taken += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                Message::End(total) if total == self.taken => self.stage = Stage::Complete,
                Message::Data(..) | Message::End(_) => {
                    return Err(aborted("a part of it was lost on its way"));
                }
                Message::Abort(reason) => {
                    self.stage = Stage::Over;
                    return Err(aborted(&reason));
                }
            }
        }
        if self.stage == Stage::Complete {
            let mut steps = pipe();
            steps.cmd("RPUSH").arg(&self.transfer.signs).arg(Sign::Complete.encode()).ignore();
            steps.cmd("PEXPIRE").arg(&self.transfer.signs).arg(TTL_MS).ignore();
            self.transfer.client.run_all::<()>(&steps).await.map_err(failure)?;
            self.stage = Stage::Over;
        }
        Ok(None)
    }

    /// Tells the sender that nobody takes the rest, and why.
    ///
    /// # Errors
    /// [`crate::ErrorCode::QueueUnavailable`] if Redis cannot be reached; the sender notices the
    /// silence then.
    pub async fn abort(mut self, reason: &str) -> Result<(), Error> {
        self.stage = Stage::Over;
        let last_word = self.transfer.abort_to_sender(reason);
        self.transfer.client.run_all(&last_word).await.map_err(failure)
    }

    /// Acknowledges what came before and waits for the next message, in one round trip.
    fn start_read(&mut self) -> BoxFuture<'static, RedisResult<Read>> {
        let Transfer { data, signs, .. } = &self.transfer;
        let mut steps = pipe();
        if self.told != Some(self.taken) {
            steps.cmd("RPUSH").arg(signs).arg(Sign::Taken(self.taken).encode()).ignore();
            self.told = Some(self.taken);
        }
        // The first sign must not expire before the sender comes.
        steps.cmd("PEXPIRE").arg(signs).arg(TTL_MS).ignore();
        let left = self.patience.saturating_sub(self.heard_at.elapsed());
        // 0 would mean for ever.
        steps.cmd("BLPOP").arg(data).arg(left.min(SLICE).as_secs_f64().max(0.001));
        Box::pin(run(self.connection.clone(), steps))
    }
}

impl Drop for TransferReceiver {
    fn drop(&mut self) {
        if self.stage == Stage::Taking {
            self.transfer.leave(self.transfer.abort_to_sender(GONE));
        }
    }
}
