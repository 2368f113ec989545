//! Bytes to and from the outside: counted, limited, and held back where there is a limit per second.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How far a job may be ahead of its limit per second: what a short pause would give it.
const BURST: Duration = Duration::from_millis(100);

/// What all connections of one job have moved.
pub(super) struct Meter {
    received: AtomicU64,
    sent: AtomicU64,
    /// What of it was reported.
    reported: Mutex<(u64, u64)>,
    /// The same, both ways together: looked at with each chunk, so without a lock.
    reported_bytes: AtomicU64,
    /// 0: any number.
    max_bytes: u64,
    /// 0: any number.
    bytes_per_second: u64,
    /// When all that was moved so far would have been moved at that speed.
    paid_until: Mutex<Instant>,
}

impl Meter {
    pub(super) fn new(max_bytes: u64, bytes_per_second: u64) -> Self {
        Self {
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            reported: Mutex::default(),
            reported_bytes: AtomicU64::new(0),
            max_bytes,
            bytes_per_second,
            paid_until: Mutex::new(Instant::now()),
        }
    }

    /// Bytes received and sent since the last call.
    pub(super) fn take_since(&self) -> (u64, u64) {
        let (received, sent) = self.total();
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let (before_received, before_sent) = std::mem::replace(&mut *reported, (received, sent));
        self.reported_bytes.store(received + sent, Ordering::Relaxed);
        (received - before_received, sent - before_sent)
    }

    /// Bytes received and sent.
    fn total(&self) -> (u64, u64) {
        (self.received.load(Ordering::Relaxed), self.sent.load(Ordering::Relaxed))
    }

    /// The limit, if it has been reached since the last report: each call of a session is a job of its own.
    pub(super) fn exhausted(&self) -> Option<u64> {
        let (received, sent) = self.total();
        let moved = (received + sent).saturating_sub(self.reported_bytes.load(Ordering::Relaxed));
        (self.max_bytes > 0 && moved >= self.max_bytes).then_some(self.max_bytes)
    }

    /// Counts bytes that were moved; until when the next ones have to wait, if they do.
    fn count(&self, counter: &AtomicU64, bytes: usize) -> Option<Instant> {
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
        if self.bytes_per_second == 0 {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "a chunk over a speed")]
        let price = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let now = Instant::now();
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        *paid_until = (*paid_until).max(now) + price;
        (*paid_until > now + BURST).then(|| *paid_until - BURST)
    }
}

/// A connection to the outside whose bytes are counted.
pub(super) struct Metered<S> {
    stream: S,
    meter: Arc<Meter>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<S> Metered<S> {
    pub(super) fn new(stream: S, meter: Arc<Meter>) -> Self {
        Self { stream, meter, pause: None }
    }

    /// Ready when nothing is to be waited for.
    fn poll_leave(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(limit) = self.meter.exhausted() {
            let words = format!("the job's limit of {limit} bytes is reached");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::QuotaExceeded, words)));
        }
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        Poll::Ready(Ok(()))
    }

    fn pause_until(&mut self, until: Option<Instant>) {
        self.pause = until.map(|until| Box::pin(tokio::time::sleep_until(until)));
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_leave(context))?;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let count = buffer.filled().len() - before;
        let until = self.meter.count(&self.meter.received, count);
        self.pause_until(until);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_leave(context))?;
        let count = ready!(Pin::new(&mut self.stream).poll_write(context, data))?;
        let until = self.meter.count(&self.meter.sent, count);
        self.pause_until(until);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
