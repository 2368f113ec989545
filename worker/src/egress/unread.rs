//! Answers to what is no request: the HTTP library refuses it by itself, with a status and nothing else,
//! and the words of our own take that answer's place. No other byte is touched.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use hyper::StatusCode;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::proxy::Body;
use super::refusal::Refusal;

/// Nothing is being answered, and nothing waits to be written: what is written now is the library's own.
const IDLE: u8 = 0;
/// A request is being answered.
const BUSY: u8 = 1;
/// The library has all of an answer, but may not have written it yet.
const LEAVING: u8 = 2;
/// Another protocol has taken over, for good.
const OVER: u8 = 3;
/// One byte less than how HTTP/2 begins. The library breaks a connection off, without a word, if it has read
/// all of that at once; of less it says that it knows no such version.
const SHORT_OF_HTTP2: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len() - 1;

/// Whose turn it is on a connection.
#[derive(Clone, Default)]
pub(super) struct Turn(Arc<AtomicU8>);

impl Turn {
    /// A request is being answered; to be called before anything is written for it.
    pub(super) fn begin(&self) {
        self.0.store(BUSY, Ordering::Relaxed);
    }

    /// What follows an answer is no HTTP any more.
    pub(super) fn hand_over(&self) {
        self.0.store(OVER, Ordering::Relaxed);
    }

    /// The answer, which ends the turn with its last byte.
    pub(super) fn of_answer(&self, body: Body) -> Answer {
        Answer { body, turn: self.clone() }
    }

    fn step(&self, from: u8, to: u8) {
        // Otherwise it is another one's turn already.
        let _ = self.0.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn is_idle(&self) -> bool {
        self.0.load(Ordering::Relaxed) == IDLE
    }
}

/// The body of an answer. It is dropped when the library has all of it.
pub(super) struct Answer {
    body: Body,
    turn: Turn,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.turn.step(BUSY, LEAVING);
    }
}

/// A connection on which what the library answers by itself is replaced.
pub(super) struct Worded<S> {
    stream: S,
    turn: Turn,
    /// What is still to be written of our own answer; nothing follows it.
    own: Bytes,
    /// Bytes of the beginning of the connection that are still to be read by themselves.
    beginning: usize,
}

impl<S> Worded<S> {
    pub(super) fn new(stream: S, turn: Turn) -> Self {
        Self { stream, turn, own: Bytes::new(), beginning: SHORT_OF_HTTP2 }
    }
}

/// Our words for a status that the library chose.
fn worded(head: &[u8]) -> Refusal {
    let status = head.get(9..12).and_then(|status| StatusCode::from_bytes(status).ok());
    match status {
        Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE | StatusCode::URI_TOO_LONG) => {
            Refusal::HeadTooLarge
        }
        _ => Refusal::Bad("this is no HTTP/1.1 request that a proxy can read".into()),
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Worded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.beginning == 0 {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let mut first = [0; SHORT_OF_HTTP2];
        let count = self.beginning.min(buffer.remaining());
        let mut first = ReadBuf::new(&mut first[..count]);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut first))?;
        self.beginning -= first.filled().len();
        buffer.put_slice(first.filled());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Worded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.turn.is_idle() {
            return Pin::new(&mut self.stream).poll_write(context, data);
        }
        self.turn.hand_over();
        self.own = worded(data).written().into();
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.own.is_empty() {
            let this = &mut *self;
            let count = ready!(Pin::new(&mut this.stream).poll_write(context, &this.own))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            this.own.advance(count);
        }
        // The library flushes only when it has written all it had.
        self.turn.step(LEAVING, IDLE);
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
