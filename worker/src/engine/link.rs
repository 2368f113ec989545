//! The worker's end of the link to a runner: frames over an attached container's streams.
//!
//! There is no task behind a link, nor behind the tunnels that it carries. Whoever holds the sandbox reads and writes; while it waits in
//! the pool nobody does, and its death shows at the next use.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use runner::protocol::{
    DATA_CHUNK_BYTES, HEADER_BYTES, Header, Kind, ProtocolError, put_frame, put_message,
};
use serde::Serialize;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::docker::Attached;
use crate::egress::Tunnels;

/// Bytes on their way to the runner at which connections have to wait: what the program itself is sent
/// must not wait long behind them.
const MAX_TUNNEL_BYTES: usize = 256 << 10;

/// Why a link is of no use any more. The sandbox behind it must be destroyed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The container is gone.
    #[error("the sandbox ended unexpectedly")]
    Closed,
    /// The runner gave up and said why.
    #[error("the sandbox's runner gave up: {0}")]
    Fatal(String),
    /// Reading or writing failed.
    #[error("the link to the sandbox broke: {0}")]
    Io(#[from] io::Error),
    /// The other end does not speak our protocol.
    #[error("the sandbox's runner broke the protocol: {0}")]
    Protocol(#[from] ProtocolError),
    /// A frame arrived that makes no sense now.
    #[error("the sandbox's runner sent {0:?} out of turn")]
    OutOfTurn(Kind),
    /// Nothing arrived in time.
    #[error("the sandbox did not answer in time while {0}")]
    Silent(&'static str),
}

/// A received frame.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) payload: Bytes,
}

/// One link.
pub(super) struct Link {
    output: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>,
    input: Pin<Box<dyn AsyncWrite + Send>>,
    received: BytesMut,
    /// Bytes on their way to the runner; written while reading, so neither side can block both.
    unsent: VecDeque<Bytes>,
    /// Bytes in there: a job with many files has many frames.
    unsent_bytes: usize,
    /// Connections of programs, if the sandbox has a way out.
    pub(super) tunnels: Option<Box<Tunnels>>,
}

impl Link {
    pub(super) fn new(attached: Attached) -> Self {
        Self {
            output: attached.output,
            input: attached.input,
            received: BytesMut::new(),
            unsent: VecDeque::new(),
            unsent_bytes: 0,
            tunnels: None,
        }
    }

    /// Queues bytes that are whole frames; `next` sends them.
    pub(super) fn queue(&mut self, frames: Vec<u8>) {
        if !frames.is_empty() {
            self.unsent_bytes += frames.len();
            self.unsent.push_back(frames.into());
        }
    }

    /// Bytes queued and not yet sent.
    pub(super) fn unsent_bytes(&self) -> usize {
        self.unsent_bytes
    }

    /// Queues one control message.
    pub(super) fn queue_message<M: Serialize>(
        &mut self,
        kind: Kind,
        message: &M,
    ) -> Result<(), LinkError> {
        let mut out = Vec::with_capacity(256);
        put_message(&mut out, kind, message)?;
        self.queue(out);
        Ok(())
    }

    /// Queues an empty control frame.
    pub(super) fn queue_empty(&mut self, kind: Kind) {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        put_frame(&mut out, kind, &[]);
        self.queue(out);
    }

    /// Whether the link is open and nothing has arrived on it: the state of a sandbox that waits.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.received.is_empty() && self.output.next().now_or_never().is_none()
    }

    /// Sends what is queued and waits for one frame, whichever way the bytes flow first. Drives the
    /// tunnels meanwhile; their frames are not returned.
    ///
    /// Cancel-safe: a dropped call loses neither received nor unsent bytes.
    pub(super) async fn next(&mut self) -> Result<Frame, LinkError> {
        loop {
            while let Some(frame) = self.parse()? {
                if !frame.kind.is_of_tunnel() {
                    return Ok(frame);
                }
                self.take_tunnel_frame(&frame)?;
            }
            self.fill_from_tunnels();
            let may_fill = self.unsent_bytes() < MAX_TUNNEL_BYTES;
            tokio::select! {
                () = news(self.tunnels.as_deref()), if may_fill => {}
                chunk = self.output.next() => match chunk {
                    Some(chunk) => self.received.extend_from_slice(&chunk?),
                    None => return Err(LinkError::Closed),
                },
                sent = send_some(&mut self.input, &self.unsent), if !self.unsent.is_empty() => {
                    self.mark_sent(sent?);
                }
            }
        }
    }

    /// Sends until at most `max_bytes` are unsent. What arrives meanwhile waits for `next`.
    ///
    /// Cancel-safe, as `next` is.
    pub(super) async fn make_room(&mut self, max_bytes: usize) -> Result<(), LinkError> {
        while self.unsent_bytes() > max_bytes {
            tokio::select! {
                chunk = self.output.next() => match chunk {
                    Some(chunk) => self.received.extend_from_slice(&chunk?),
                    None => return Err(LinkError::Closed),
                },
                sent = send_some(&mut self.input, &self.unsent) => self.mark_sent(sent?),
            }
        }
        Ok(())
    }

    fn take_tunnel_frame(&mut self, frame: &Frame) -> Result<(), LinkError> {
        match &mut self.tunnels {
            Some(tunnels) => Ok(tunnels.take(frame.kind, &frame.payload)?),
            None => Err(LinkError::OutOfTurn(frame.kind)),
        }
    }

    /// Queues what the tunnels have to send, if not much is queued yet.
    fn fill_from_tunnels(&mut self) {
        let room = MAX_TUNNEL_BYTES.saturating_sub(self.unsent_bytes());
        if let Some(tunnels) = self.tunnels.as_mut().filter(|_| room > 0) {
            let mut frames = Vec::new();
            tunnels.put_frames(&mut frames, room);
            self.queue(frames);
        }
    }

    fn mark_sent(&mut self, sent: usize) {
        if let Some(front) = self.unsent.front_mut() {
            front.advance(sent);
            self.unsent_bytes -= sent;
            if front.is_empty() {
                self.unsent.pop_front();
            }
        }
    }

    fn parse(&mut self) -> Result<Option<Frame>, LinkError> {
        let Some(header) = self.received.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let Header { kind, length } = Header::parse(*header)?;
        if self.received.len() < HEADER_BYTES + length {
            self.received.reserve(HEADER_BYTES + length - self.received.len());
            return Ok(None);
        }
        self.received.advance(HEADER_BYTES);
        let payload = self.received.split_to(length).freeze();
        if kind == Kind::Fatal {
            let words = runner::protocol::parse_message::<runner::protocol::Fatal>(&payload)?;
            return Err(LinkError::Fatal(words.message));
        }
        Ok(Some(Frame { kind, payload }))
    }
}

/// Cuts `data` into frames of `kind`.
pub(super) fn put_data(out: &mut Vec<u8>, kind: Kind, data: &[u8]) {
    for chunk in data.chunks(DATA_CHUNK_BYTES) {
        put_frame(out, kind, chunk);
    }
}

/// Returns when the tunnels may have something to send; never if there are none.
async fn news(tunnels: Option<&Tunnels>) {
    match tunnels {
        Some(tunnels) => tunnels.news().await,
        None => std::future::pending().await,
    }
}

async fn send_some(
    input: &mut Pin<Box<dyn AsyncWrite + Send>>,
    unsent: &VecDeque<Bytes>,
) -> io::Result<usize> {
    let Some(front) = unsent.front() else {
        return Ok(0);
    };
    let sent = input.write(front).await?;
    if sent == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(sent)
}
