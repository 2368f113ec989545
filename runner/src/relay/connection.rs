//! One connection of a program: bytes both ways, each within its window.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::PollFlags;
use nix::sys::socket::{setsockopt, sockopt};

use runner::protocol::{
    Kind, ProtocolError, TUNNEL_ID_BYTES, TUNNEL_WINDOW_BYTES, put_tunnel_frame,
};

use crate::link::Link;

/// Bytes the program has taken before the worker is told: one frame for many small ones.
const CREDIT_STEP_BYTES: usize = TUNNEL_WINDOW_BYTES / 4;

pub(super) struct Connection {
    stream: TcpStream,
    /// Bytes that may still go to the worker.
    window: usize,
    /// The program has no more to send.
    has_ended: bool,
    /// Bytes for the program that its socket does not take yet.
    unsent: Vec<u8>,
    /// Bytes the program has taken and the worker does not know of.
    taken: usize,
    output: Output,
}

/// The way from the worker to the program.
#[derive(PartialEq, Eq)]
enum Output {
    Open,
    /// What is unsent is all there is.
    Ending,
    Ended,
}

impl Connection {
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            window: TUNNEL_WINDOW_BYTES,
            has_ended: false,
            unsent: Vec::new(),
            taken: 0,
            output: Output::Open,
        })
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// What to wait for; nothing if neither side could go on.
    pub(super) fn interests(&self, link_has_room: bool) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, self.may_read() && link_has_room);
        flags.set(PollFlags::POLLOUT, !self.unsent.is_empty());
        flags
    }

    fn may_read(&self) -> bool {
        !self.has_ended && self.window > 0
    }

    /// Whether both sides have ended.
    pub(super) fn is_over(&self) -> bool {
        self.has_ended && self.output == Output::Ended
    }

    /// Moves what can be moved now.
    pub(super) fn step(&mut self, id: u32, link: &mut Link, scratch: &mut [u8]) -> io::Result<()> {
        self.flush(id, link)?;
        if self.may_read() && link.has_room() {
            self.read(id, link, scratch)?;
        }
        Ok(())
    }

    fn read(&mut self, id: u32, link: &mut Link, scratch: &mut [u8]) -> io::Result<()> {
        let (number, chunk) = scratch.split_at_mut(TUNNEL_ID_BYTES);
        let most = chunk.len().min(self.window);
        match self.stream.read(&mut chunk[..most]) {
            Ok(0) => {
                self.has_ended = true;
                link.send(Kind::TunnelEnd, &id.to_le_bytes());
            }
            Ok(count) => {
                number.copy_from_slice(&id.to_le_bytes());
                self.window -= count;
                link.send(Kind::TunnelData, &scratch[..TUNNEL_ID_BYTES + count]);
            }
            Err(error) => return unless_patient(error),
        }
        Ok(())
    }

    /// Takes bytes for the program.
    ///
    /// # Errors
    /// Outside, if the worker sends more than the window lets it; inside, if the program is gone.
    pub(super) fn push(
        &mut self,
        id: u32,
        data: &[u8],
        link: &mut Link,
    ) -> Result<io::Result<()>, ProtocolError> {
        if self.unsent.len() + self.taken + data.len() > TUNNEL_WINDOW_BYTES {
            return Err(ProtocolError::BadPayload("a connection beyond its window".to_owned()));
        }
        self.unsent.extend_from_slice(data);
        Ok(self.flush(id, link))
    }

    /// Takes the end of the bytes for the program.
    pub(super) fn end(&mut self, id: u32, link: &mut Link) -> io::Result<()> {
        if self.output == Output::Open {
            self.output = Output::Ending;
        }
        self.flush(id, link)
    }

    pub(super) fn credit(&mut self, bytes: usize) {
        self.window = (self.window + bytes).min(TUNNEL_WINDOW_BYTES);
    }

    fn flush(&mut self, id: u32, link: &mut Link) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.unsent.len() {
            match self.stream.write(&self.unsent[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.unsent.drain(..sent);
        self.taken += sent;
        if self.taken >= CREDIT_STEP_BYTES {
            self.tell_taken(id, link);
        }
        if self.unsent.is_empty() {
            // Most connections wait most of the time.
            self.unsent = Vec::new();
            if self.output == Output::Ending {
                self.output = Output::Ended;
                self.stream.shutdown(Shutdown::Write)?;
            }
        }
        Ok(())
    }

    fn tell_taken(&mut self, id: u32, link: &mut Link) {
        let taken = u32::try_from(std::mem::take(&mut self.taken)).unwrap_or(u32::MAX);
        let mut frame = Vec::new();
        put_tunnel_frame(&mut frame, Kind::TunnelCredit, id, &taken.to_le_bytes());
        link.send_frame(&frame);
    }

    /// Makes the program see a broken connection rather than an orderly end.
    pub(super) fn reset(&self) {
        let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
        // If it fails the program sees an end: the connection is closed all the same.
        let _ = setsockopt(&self.stream, sockopt::Linger, &at_once);
    }
}

/// Nothing, if a later attempt may succeed.
fn unless_patient(error: io::Error) -> io::Result<()> {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(()),
        _ => Err(error),
    }
}
