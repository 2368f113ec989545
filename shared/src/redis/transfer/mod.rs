//! Files on their way between gateway and worker: chunks in one list, acknowledgements in another,
//! and never more than a window of unacknowledged bytes in Redis, however large the file is.
//!
//! The sender waits for the receiver's first sign before it sends anything, so that nothing lies in
//! Redis while a call still waits in its queue. Both lists have a lifetime that is renewed on use.

mod receiver;
mod sender;

use std::time::Duration;

use bytes::Bytes;
use redis::{FromRedisValue, Pipeline, RedisResult, pipe};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

pub use receiver::TransferReceiver;
pub use sender::TransferSender;

use super::client::{COMMAND_TIMEOUT, Client};
use super::connection::Private;
use super::keys;
use super::queue::Queue;
use crate::error::{Error, ErrorCode};
use crate::id::{TenantId, TransferId};

/// Bytes that travel together.
const CHUNK_BYTES: usize = 512 << 10;
/// Bytes that may be on their way.
const WINDOW_BYTES: u64 = 4 << 20;
/// How long one side may say nothing once both are there.
const SILENCE: Duration = Duration::from_secs(30);
/// Longest single blocking read; after each, the lifetime of the keys is renewed.
const SLICE: Duration = Duration::from_secs(5);
/// Lifetime of the lists without use, in milliseconds.
const TTL_MS: u64 = 60_000;
/// What a side that is dropped half-way leaves as its reason.
const GONE: &str = "its other side went away";

/// One file on its way; each side makes its end of it.
pub struct Transfer {
    client: Client,
    last_words: TaskTracker,
    data: String,
    signs: String,
}

impl Queue {
    /// A transfer of a tenant. Nothing happens before one of its ends is opened.
    #[must_use]
    pub fn transfer(&self, tenant: &TenantId, id: TransferId) -> Transfer {
        let shard = self.shard_of(tenant);
        Transfer {
            client: self.client().clone(),
            last_words: self.background().clone(),
            data: keys::transfer_data(shard, id),
            signs: keys::transfer_signs(shard, id),
        }
    }
}

impl Transfer {
    /// Opens the sending end, with a connection of its own. `patience` is how long the receiver may
    /// take to appear.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn sender(self, patience: Duration) -> Result<TransferSender, Error> {
        TransferSender::open(self, patience).await
    }

    /// Opens the receiving end, with a connection of its own. `patience` is how long the sender may
    /// take to appear.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn receiver(self, patience: Duration) -> Result<TransferReceiver, Error> {
        TransferReceiver::open(self, patience).await
    }

    /// What tells the receiver that no more will come; what is on its way is dropped.
    fn abort_to_receiver(&self, reason: &str) -> Pipeline {
        let mut steps = pipe();
        steps.cmd("DEL").arg(&self.data).arg(&self.signs).ignore();
        steps.cmd("RPUSH").arg(&self.data).arg(Message::Abort(reason.to_owned()).encode()).ignore();
        steps.cmd("PEXPIRE").arg(&self.data).arg(TTL_MS).ignore();
        steps
    }

    /// What tells the sender that nobody takes more.
    fn abort_to_sender(&self, reason: &str) -> Pipeline {
        let mut steps = pipe();
        steps.cmd("DEL").arg(&self.data).ignore();
        steps.cmd("RPUSH").arg(&self.signs).arg(Sign::Abort(reason.to_owned()).encode()).ignore();
        steps.cmd("PEXPIRE").arg(&self.signs).arg(TTL_MS).ignore();
        steps
    }

    /// Sends a last word from `drop`, where nothing can be awaited. Not by the transfer's own
    /// connection: that may be in the middle of a blocking read.
    fn leave(&self, last_word: Pipeline) {
        // Without a runtime the process ends; the other side notices the silence.
        if let Ok(runtime) = Handle::try_current() {
            let client = self.client.clone();
            // Ends by itself within the command timeout.
            let tell = async move {
                if let Err(error) = client.run_all::<()>(&last_word).await {
                    tracing::debug!(%error, "the other side of a transfer was not told of its end");
                }
            };
            self.last_words.spawn_on(tell, &runtime);
        }
    }
}

/// What the sender puts into the data list.
#[derive(Debug, PartialEq, Eq)]
enum Message {
    /// Bytes, and how many came before.
    Data(u64, Bytes),
    /// That was all: so many bytes.
    End(u64),
    /// There will be no end.
    Abort(String),
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Data(offset, data) => {
                let mut wire = Vec::with_capacity(9 + data.len());
                wire.push(b'd');
                wire.extend_from_slice(&offset.to_be_bytes());
                wire.extend_from_slice(data);
                wire
            }
            Self::End(total) => [b"e", total.to_be_bytes().as_slice()].concat(),
            Self::Abort(reason) => format!("a{reason}").into_bytes(),
        }
    }

    fn decode(wire: Vec<u8>) -> Option<Self> {
        let mut rest = Bytes::from(wire);
        let letter = (!rest.is_empty()).then(|| rest.split_to(1))?;
        match letter[0] {
            b'a' => Some(Self::Abort(String::from_utf8_lossy(&rest).into_owned())),
            b'd' | b'e' if rest.len() >= 8 => {
                let number = u64::from_be_bytes(rest.split_to(8).as_ref().try_into().ok()?);
                Some(if letter[0] == b'd' { Self::Data(number, rest) } else { Self::End(number) })
            }
            _ => None,
        }
    }
}

/// What the receiver puts into the list of signs.
#[derive(Debug, PartialEq, Eq)]
enum Sign {
    /// It is there and has taken so many bytes.
    Taken(u64),
    /// It has everything.
    Complete,
    /// It takes no more.
    Abort(String),
}

impl Sign {
    fn encode(&self) -> String {
        match self {
            Self::Taken(bytes) => format!("t{bytes}"),
            Self::Complete => "c".to_owned(),
            Self::Abort(reason) => format!("a{reason}"),
        }
    }

    fn decode(wire: &str) -> Option<Self> {
        match wire.split_at_checked(1)? {
            ("t", bytes) => bytes.parse().ok().map(Self::Taken),
            ("c", _) => Some(Self::Complete),
            ("a", reason) => Some(Self::Abort(reason.to_owned())),
            _ => None,
        }
    }
}

/// Runs steps that may block for a [`SLICE`], on a transfer's own connection. Not repeated: a chunk
/// could come twice, or be lost unnoticed.
async fn run<T: FromRedisValue>(mut connection: Private, steps: Pipeline) -> RedisResult<T> {
    let step = steps.query_async(&mut connection);
    timeout(SLICE + COMMAND_TIMEOUT, step).await.unwrap_or_else(|_| {
        let late = "a transfer's step was not answered in time";
        Err(std::io::Error::new(std::io::ErrorKind::TimedOut, late).into())
    })
}

fn aborted(reason: &str) -> Error {
    Error::new(ErrorCode::FileFailed, format!("The file was not transferred: {reason}."))
}

fn silent(patience: Duration) -> String {
    format!("its other side was silent for {} s", patience.as_secs())
}

fn garbled() -> Error {
    Error::new(ErrorCode::Internal, "A transfer's message is not of a kind this version knows.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_signs_survive_the_wire() {
        let data = Bytes::from_static(b"\0\xff\n");
        for message in [
            Message::Data(u64::MAX, data),
            Message::Data(0, Bytes::new()),
            Message::End(7),
            Message::Abort("no space left".into()),
        ] {
            assert_eq!(Message::decode(message.encode()), Some(message));
        }
        for wire in ["", "d1234567", "z"] {
            assert_eq!(Message::decode(wire.into()), None, "{wire}");
        }
        for sign in [Sign::Taken(9), Sign::Complete, Sign::Abort(String::new())] {
            assert_eq!(Sign::decode(&sign.encode()), Some(sign));
        }
        for wire in ["", "t", "t-1", "z", "é"] {
            assert_eq!(Sign::decode(wire), None, "{wire}");
        }
    }
}
