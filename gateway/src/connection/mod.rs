//! A connection and what its client may do with it: how long it may take over a head, how slowly it may take an
//! answer, how many connections it may have. Costs a look at what is there per read and write, and a timer
//! only while the client keeps us waiting.

mod head;
mod pace;
mod peer;
mod places;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

pub(crate) use head::{HeadClock, HeadTimer};
pub(crate) use pace::{Account, Pace};
pub(crate) use peer::{Peer, Proxies, WithPeer, group};
pub(crate) use places::Places;

/// A connection whose client is timed.
pub(crate) struct Watched {
    stream: TcpStream,
    /// What it has taken of what was written.
    taken: Account,
    /// Since when it takes nothing.
    blocked: Option<Instant>,
    /// Left as it is when the client goes on; it finds out by itself when it runs out.
    timer: Option<Pin<Box<Sleep>>>,
    heads: Arc<HeadClock>,
}

impl Watched {
    /// A connection of which nothing is known yet.
    pub(crate) fn new(stream: TcpStream, pace: Pace, heads: Arc<HeadClock>) -> Self {
        Self { stream, taken: pace.begin(), blocked: None, timer: None, heads }
    }

    /// How a write came out, if the client is not too slow.
    fn judge(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(outcome) = written {
            if let Some(since) = self.blocked.take() {
                self.taken.waited(since.elapsed());
            }
            self.taken.moved(outcome.as_ref().map_or(0, |bytes| *bytes));
            return Poll::Ready(outcome);
        }
        let deadline = *self.blocked.get_or_insert_with(Instant::now) + self.taken.left();
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= deadline {
                let error = "the client does not take what it asked for";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, error)));
            }
            timer.as_mut().reset(deadline);
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.heads.heard();
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
