//! How long a client may take over the head of a request. The time runs from its first byte, so that a
//! connection may be kept alive for long, and one that trickles a head may not; of a new connection, from the start.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

/// When the head that is waited for began.
#[derive(Debug)]
pub(crate) struct HeadClock {
    opened: Instant,
    /// Microseconds from then to the first byte, and one; 0: none came.
    begun_us: AtomicU64,
    /// Whether it has sent no request yet.
    is_new: AtomicBool,
}

impl HeadClock {
    /// The clock of a connection that was just opened.
    pub(crate) fn new() -> Self {
        let begun_us = AtomicU64::new(0);
        Self { opened: Instant::now(), begun_us, is_new: AtomicBool::new(true) }
    }

    /// Something came.
    pub(crate) fn heard(&self) {
        // Nobody else writes meanwhile: reading and waiting are done by one task.
        if self.begun_us.load(Ordering::Relaxed) == 0 {
            let us = u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(u64::MAX - 1);
            self.begun_us.store(us + 1, Ordering::Relaxed);
        }
    }

    /// A head is waited for from now on.
    fn wait(&self) {
        self.begun_us.store(0, Ordering::Relaxed);
    }

    fn begun(&self) -> Option<Instant> {
        let us = self.begun_us.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.opened + Duration::from_micros(us))
    }
}

/// Times heads: hyper asks it for a timer whenever it begins to wait for one.
#[derive(Clone, Debug)]
pub(crate) struct HeadTimer {
    clock: Arc<HeadClock>,
    limit: Duration,
}

impl HeadTimer {
    /// For a connection whose heads may take `limit`.
    pub(crate) const fn new(clock: Arc<HeadClock>, limit: Duration) -> Self {
        Self { clock, limit }
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.clock.wait();
        // Whoever opens a connection has something to ask.
        let is_new = self.clock.is_new.swap(false, Ordering::Relaxed);
        let deadline = if is_new { deadline.min(Instant::now() + self.limit) } else { deadline };
        Box::pin(HeadSleep { timer: self.clone(), deadline, sleep: None })
    }
}

/// Ends when a head is late, or a connection has been idle for too long.
struct HeadSleep {
    timer: HeadTimer,
    /// Of an idle connection.
    deadline: Instant,
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Sleep for HeadSleep {}

impl Future for HeadSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let late = self.timer.clock.begun().map(|begun| begun + self.timer.limit);
        let deadline = late.map_or(self.deadline, |late| late.min(self.deadline)).into();
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(cx)
    }
}
