//! A program's standard streams: bounded buffers, credit for input, limits for output.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::{read, write};

use runner::protocol::{DATA_CHUNK_BYTES, Kind, STDIN_WINDOW_BYTES, StdinAck};

use crate::link::Link;
use crate::sys::grow_pipe;

/// Pipe size for a program that writes a lot.
const LARGE_PIPE_BYTES: i32 = 256 << 10;

/// The worker sent more standard input than it had credit for.
#[derive(Debug)]
pub(crate) struct BeyondCredit;

/// One output stream.
pub(crate) struct Output {
    pub(crate) pipe: Option<OwnedFd>,
    kind: Kind,
    total_bytes: u64,
    large: bool,
}

/// Standard input on its way to the program.
pub(crate) struct Input {
    pub(crate) pipe: Option<OwnedFd>,
    buffer: Vec<u8>,
    ended: bool,
}

impl Input {
    /// Takes the runner's end of the pipe; without one the program reads end of file.
    pub(crate) fn new(pipe: Option<OwnedFd>) -> Self {
        Self { pipe, buffer: Vec::new(), ended: false }
    }

    /// Whether input waits for the program to read.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Takes a `Stdin` frame.
    ///
    /// # Errors
    /// If the worker sends more than it has credit for.
    pub(crate) fn push(&mut self, payload: &[u8], link: &mut Link) -> Result<(), BeyondCredit> {
        if self.pipe.is_none() || self.ended {
            acknowledge(link, payload.len());
            return Ok(());
        }
        if self.buffer.len() + payload.len() > STDIN_WINDOW_BYTES {
            return Err(BeyondCredit);
        }
        self.buffer.extend_from_slice(payload);
        self.feed(link);
        Ok(())
    }

    /// Takes the `StdinEnd` frame.
    pub(crate) fn end(&mut self, link: &mut Link) {
        self.ended = true;
        self.feed(link);
    }

    /// The pipe is ready: for more input, or, when none waits, because the program closed its end.
    pub(crate) fn step(&mut self, link: &mut Link) {
        if self.is_waiting() {
            self.feed(link);
        } else {
            self.pipe = None;
        }
    }

    /// Writes what the program takes now.
    fn feed(&mut self, link: &mut Link) {
        let Some(pipe) = &self.pipe else { return };
        if self.is_waiting() {
            let taken = match write(pipe, &self.buffer) {
                Ok(count) => count,
                Err(Errno::EAGAIN | Errno::EINTR) => 0,
                Err(_) => {
                    self.pipe = None;
                    self.buffer.len()
                }
            };
            self.buffer.drain(..taken);
            acknowledge(link, taken);
        }
        if self.ended && !self.is_waiting() {
            self.pipe = None;
        }
    }
}

impl Output {
    /// Takes the runner's end of the pipe; without one there will be nothing.
    pub(crate) fn new(kind: Kind, pipe: Option<OwnedFd>) -> Self {
        Self { pipe, kind, total_bytes: 0, large: false }
    }

    /// Bytes the program wrote so far.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Passes on what the program wrote, counting but dropping what is beyond `limit`.
    pub(crate) fn pump(&mut self, limit: u64, link: &mut Link, scratch: &mut [u8]) {
        // A few reads a turn: enough for speed, few enough that control frames are not kept waiting.
        for _ in 0..8 {
            let Some(pipe) = &self.pipe else { return };
            if !link.has_room() {
                return;
            }
            match read(pipe, &mut scratch[..DATA_CHUNK_BYTES]) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    if count == DATA_CHUNK_BYTES && !self.large {
                        self.large = true;
                        grow_pipe(pipe.as_fd(), LARGE_PIPE_BYTES);
                    }
                    let room = limit.saturating_sub(self.total_bytes);
                    let passed = usize::try_from(room).unwrap_or(usize::MAX).min(count);
                    if passed > 0 {
                        link.send(self.kind, &scratch[..passed]);
                    }
                    self.total_bytes += count as u64;
                }
                Err(Errno::EAGAIN | Errno::EINTR) => return,
                Err(_) => self.pipe = None,
            }
        }
    }
}

fn acknowledge(link: &mut Link, bytes: usize) {
    if bytes > 0 {
        link.send_message(Kind::StdinAck, &StdinAck { bytes: bytes as u64 });
    }
}
