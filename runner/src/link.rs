//! The runner's end of the link: frames in from one descriptor, frames out to another.
//!
//! Nothing here blocks. Frames out are gathered and leave in one write per turn of the loop.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{read, write};
use serde::Serialize;

use runner::protocol::{HEADER_BYTES, Kind, ProtocolError, first_frame, put_frame, put_message};

/// Most bytes of frames out kept before program output is no longer read.
const OUT_HIGH_WATER_BYTES: usize = 768 << 10;
/// Bytes asked for by one read.
const READ_BYTES: usize = 256 << 10;

/// One frame from the worker.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) payload: Vec<u8>,
}

/// Why the link is over.
#[derive(Debug)]
pub(crate) enum LinkError {
    /// The worker closed it between two frames: the normal end.
    Closed,
    /// The worker closed it in the middle of a frame.
    Truncated,
    /// The bytes are no frame.
    Malformed(ProtocolError),
    /// Reading or writing failed.
    Io(io::Error),
}

impl std::fmt::Display for LinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => f.write_str("the worker closed the link"),
            Self::Truncated => f.write_str("the link ended inside a frame"),
            Self::Malformed(error) => write!(f, "the worker sent no valid frame: {error}"),
            Self::Io(error) => write!(f, "the link failed: {error}"),
        }
    }
}

impl std::error::Error for LinkError {}

/// Both directions, with their buffers.
pub(crate) struct Link {
    input: OwnedFd,
    output: OwnedFd,
    inbox: Vec<u8>,
    taken: usize,
    outbox: Vec<u8>,
    sent: usize,
    scratch: Vec<u8>,
}

impl Link {
    /// Takes two non-blocking descriptors.
    pub(crate) fn new(input: OwnedFd, output: OwnedFd) -> Self {
        Self {
            input,
            output,
            inbox: Vec::new(),
            taken: 0,
            outbox: Vec::new(),
            sent: 0,
            scratch: vec![0; READ_BYTES],
        }
    }

    pub(crate) fn input(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }

    pub(crate) fn output(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }

    /// Whether frames wait to be written.
    pub(crate) fn has_output(&self) -> bool {
        self.sent < self.outbox.len()
    }

    /// Whether more program output may be read into frames.
    pub(crate) fn has_room(&self) -> bool {
        self.outbox.len() - self.sent < OUT_HIGH_WATER_BYTES
    }

    /// Reads once. Only to be called when `next_frame` has returned `None`.
    pub(crate) fn fill(&mut self) -> Result<(), LinkError> {
        match read(&self.input, &mut self.scratch) {
            Ok(0) if self.inbox.len() == self.taken => Err(LinkError::Closed),
            Ok(0) => Err(LinkError::Truncated),
            Ok(count) => {
                self.inbox.drain(..self.taken);
                self.taken = 0;
                self.inbox.extend_from_slice(&self.scratch[..count]);
                Ok(())
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
            Err(error) => Err(LinkError::Io(error.into())),
        }
    }

    /// The next whole frame, if it has arrived.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, LinkError> {
        let rest = &self.inbox[self.taken..];
        let Some((kind, payload)) = first_frame(rest).map_err(LinkError::Malformed)? else {
            return Ok(None);
        };
        let frame = Frame { kind, payload: payload.to_vec() };
        self.taken += HEADER_BYTES + frame.payload.len();
        if self.taken == self.inbox.len() {
            self.inbox.clear();
            self.inbox.shrink_to(READ_BYTES);
            self.taken = 0;
        }
        Ok(Some(frame))
    }

    /// Queues a data frame.
    pub(crate) fn send(&mut self, kind: Kind, payload: &[u8]) {
        put_frame(&mut self.outbox, kind, payload);
    }

    /// Queues a frame that is made already.
    pub(crate) fn send_frame(&mut self, frame: &[u8]) {
        self.outbox.extend_from_slice(frame);
    }

    /// Queues a control frame.
    pub(crate) fn send_message<M: Serialize>(&mut self, kind: Kind, message: &M) {
        if put_message(&mut self.outbox, kind, message).is_err() {
            // Only a message with text from outside can be too long, and all of ours are cut.
            self.send(Kind::Fatal, br#"{"message":"a message was too long to send"}"#);
        }
    }

    /// Writes what the other side takes now.
    pub(crate) fn flush(&mut self) -> Result<(), LinkError> {
        while self.has_output() {
            match write(&self.output, &self.outbox[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(LinkError::Io(error.into())),
            }
        }
        if self.has_output() {
            if self.sent > OUT_HIGH_WATER_BYTES / 2 {
                self.outbox.drain(..self.sent);
                self.sent = 0;
            }
        } else {
            self.outbox.clear();
            self.outbox.shrink_to(READ_BYTES);
            self.sent = 0;
        }
        Ok(())
    }

    /// Writes everything, waiting for the other side for a limited time. For last words.
    pub(crate) fn flush_within(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while self.flush().is_ok() && self.has_output() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(timeout) = PollTimeout::try_from(left) else {
                return;
            };
            let mut ready = [PollFd::new(self.output.as_fd(), PollFlags::POLLOUT)];
            if left.is_zero() || poll(&mut ready, timeout).is_err() {
                return;
            }
        }
    }
}
