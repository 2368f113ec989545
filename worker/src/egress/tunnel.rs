//! The worker's end of the connections that a runner carries: each becomes a stream of bytes, whose
//! frames go over the sandbox's link. Nothing here has a task; whoever drives the link drives these.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use runner::protocol::{
    DATA_CHUNK_BYTES, Kind, MAX_TUNNELS, ProtocolError, TUNNEL_WINDOW_BYTES, parse_credit,
    put_tunnel_frame, split_tunnel_payload,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::Gate;

/// Bytes taken before the runner is told: one frame for many small pieces.
const CREDIT_STEP_BYTES: usize = TUNNEL_WINDOW_BYTES / 4;
/// Bytes for the program that wait for their turn on the link.
const MAX_UNSENT_BYTES: usize = 64 << 10;
/// What a program may still send on a connection that we have ended, before that is broken off: a
/// request that was answered before its end must not cost the program the answer.
const LINGER_BYTES: usize = 1 << 20;

/// All connections of one sandbox.
#[derive(Default)]
pub(crate) struct Tunnels {
    gate: Option<Gate>,
    /// Whether the gate lets anything through now.
    is_open: bool,
    open: HashMap<u32, Arc<Tunnel>>,
    news: Arc<News>,
    /// Frames that no connection stands behind any more.
    aborted: Vec<u32>,
}

/// Which connections have something for the link.
#[derive(Default)]
struct News {
    dirty: Mutex<Vec<u32>>,
    arrived: Notify,
}

/// One connection, shared by its stream and the link.
struct Tunnel {
    id: u32,
    state: Mutex<State>,
    news: Arc<News>,
}

struct State {
    /// Bytes of the program, at most a window of them.
    received: BytesMut,
    /// The program has no more to send.
    has_ended: bool,
    /// Bytes taken that the runner does not know of.
    taken: usize,
    reader: Option<Waker>,
    /// Bytes for the program.
    unsent: BytesMut,
    /// Bytes that the runner takes now.
    window: usize,
    output: Output,
    writer: Option<Waker>,
    /// Broken off, by the runner or by us.
    is_aborted: bool,
    /// The stream is gone: nobody reads or writes any more.
    is_dropped: bool,
    /// Bytes that came after the stream was gone.
    lingered: usize,
    is_dirty: bool,
    /// Bytes the stream has moved, both ways.
    moved: u64,
}

/// The way to the program.
#[derive(PartialEq, Eq)]
enum Output {
    Open,
    /// What is unsent is all there is.
    Ending,
    Ended,
}

/// A connection of a program, as bytes.
pub(crate) struct TunnelStream(Arc<Tunnel>);

impl Tunnels {
    /// Puts up the gate of a job.
    pub(crate) fn put_up(&mut self, gate: Gate) {
        self.abort_all();
        self.gate = Some(gate);
        self.is_open = true;
    }

    /// Opens or shuts the gate; a gate that was open breaks off what went through.
    pub(crate) fn set_open(&mut self, is_open: bool) {
        if self.is_open && !is_open {
            self.abort_all();
        }
        self.is_open = is_open;
    }

    /// The gate, if there is one.
    pub(crate) fn gate(&self) -> Option<&Gate> {
        self.gate.as_ref()
    }

    /// Takes the gate down: breaks off all connections and lets no more through.
    pub(crate) fn take_down(&mut self) -> Option<Gate> {
        self.abort_all();
        self.gate.take()
    }

    /// Breaks off all connections; new ones are let through as before.
    pub(crate) fn abort_all(&mut self) {
        for (id, tunnel) in self.open.drain() {
            tunnel.lock().abort();
            self.aborted.push(id);
        }
        self.news.arrived.notify_one();
    }

    /// Takes a frame about a connection. One that is over here may be news to the runner.
    pub(crate) fn take(&mut self, kind: Kind, payload: &[u8]) -> Result<(), ProtocolError> {
        let (id, rest) = split_tunnel_payload(payload)?;
        if kind == Kind::TunnelOpen {
            // The runner counts too; one that does not is not the runner we started.
            if self.open.len() >= MAX_TUNNELS || self.open.contains_key(&id) {
                let reason = format!("connection {id} is open already, or one too many");
                return Err(ProtocolError::BadPayload(reason));
            }
            self.admit(id);
            return Ok(());
        }
        let Some(tunnel) = self.open.get(&id).cloned() else {
            return Ok(());
        };
        let mut state = tunnel.lock();
        match kind {
            Kind::TunnelData => state.receive(rest)?,
            Kind::TunnelEnd => state.receive_end(),
            Kind::TunnelCredit => {
                state.window = (state.window + parse_credit(rest)?).min(TUNNEL_WINDOW_BYTES);
            }
            _ => {
                state.abort();
                self.open.remove(&id);
                return Ok(());
            }
        }
        if state.is_over() {
            // The runner has given the place up, and may be about to fill it again.
            self.open.remove(&id);
        } else if state.has_news() {
            tunnel.tell(&mut state);
        }
        Ok(())
    }

    fn admit(&mut self, id: u32) {
        let Some(gate) = self.gate.as_ref().filter(|_| self.is_open) else {
            self.aborted.push(id);
            return;
        };
        let state = Mutex::new(State::new());
        let tunnel = Arc::new(Tunnel { id, state, news: Arc::clone(&self.news) });
        self.open.insert(id, Arc::clone(&tunnel));
        gate.serve(TunnelStream(tunnel));
    }

    /// Returns when a connection may have something for the link.
    pub(crate) async fn news(&self) {
        self.news.arrived.notified().await;
    }

    /// Appends frames to `out`, each connection in its turn, until it has about `max_bytes`.
    pub(crate) fn put_frames(&mut self, out: &mut Vec<u8>, max_bytes: usize) {
        for id in self.aborted.drain(..) {
            put_tunnel_frame(out, Kind::TunnelAbort, id, &[]);
        }
        let mut turn = self.news.take();
        while !turn.is_empty() {
            let mut again = Vec::new();
            let mut ids = turn.into_iter();
            for id in ids.by_ref() {
                if out.len() >= max_bytes {
                    again.push(id);
                    break;
                }
                if self.put_frames_of(id, out) {
                    again.push(id);
                }
            }
            if ids.len() > 0 || out.len() >= max_bytes {
                self.news.put_back(ids.chain(again).collect());
                return;
            }
            turn = again;
        }
    }

    /// Appends what one connection has to say now; whether it has more.
    fn put_frames_of(&mut self, id: u32, out: &mut Vec<u8>) -> bool {
        let Some(tunnel) = self.open.get(&id).cloned() else {
            return false;
        };
        let mut state = tunnel.lock();
        let has_more = state.put_frames(id, out);
        state.is_dirty = has_more;
        if state.is_over() {
            self.open.remove(&id);
        }
        has_more
    }
}

impl News {
    fn lock(&self) -> MutexGuard<'_, Vec<u32>> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<u32> {
        std::mem::take(&mut *self.lock())
    }

    /// Those whose turn has not come go first.
    fn put_back(&self, mut ids: Vec<u32>) {
        let mut dirty = self.lock();
        ids.append(&mut dirty);
        *dirty = ids;
    }
}

impl Tunnel {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the link look at this connection.
    fn tell(&self, state: &mut State) {
        if !state.is_dirty {
            state.is_dirty = true;
            self.news.lock().push(self.id);
            self.news.arrived.notify_one();
        }
    }
}

impl State {
    fn new() -> Self {
        Self {
            received: BytesMut::new(),
            has_ended: false,
            taken: 0,
            reader: None,
            unsent: BytesMut::new(),
            window: TUNNEL_WINDOW_BYTES,
            output: Output::Open,
            writer: None,
            is_aborted: false,
            is_dropped: false,
            lingered: 0,
            is_dirty: false,
            moved: 0,
        }
    }

    fn receive(&mut self, data: &[u8]) -> Result<(), ProtocolError> {
        if self.received.len() + self.taken + data.len() > TUNNEL_WINDOW_BYTES {
            return Err(ProtocolError::BadPayload("a connection beyond its window".to_owned()));
        }
        if self.is_dropped {
            self.taken += data.len();
            self.lingered += data.len();
        } else {
            self.received.extend_from_slice(data);
            wake(&mut self.reader);
        }
        Ok(())
    }

    fn receive_end(&mut self) {
        self.has_ended = true;
        wake(&mut self.reader);
    }

    fn abort(&mut self) {
        self.is_aborted = true;
        wake(&mut self.reader);
        wake(&mut self.writer);
    }

    /// Whether the stream was dropped without having ended, or the program goes on and on after that.
    fn must_abort(&self) -> bool {
        self.is_dropped && (self.output == Output::Open || self.lingered > LINGER_BYTES)
    }

    fn is_over(&self) -> bool {
        self.is_aborted || (self.has_ended && self.output == Output::Ended)
    }

    fn has_news(&self) -> bool {
        self.must_abort()
            || self.taken >= CREDIT_STEP_BYTES
            || (!self.unsent.is_empty() && self.window > 0)
            || (self.unsent.is_empty() && self.output == Output::Ending)
            || self.is_over()
    }

    /// Appends what is to be said now, and at most a chunk of data; whether there is more.
    fn put_frames(&mut self, id: u32, out: &mut Vec<u8>) -> bool {
        if self.is_aborted {
            return false;
        }
        if self.must_abort() {
            self.abort();
            put_tunnel_frame(out, Kind::TunnelAbort, id, &[]);
            return false;
        }
        if self.taken >= CREDIT_STEP_BYTES {
            let taken = u32::try_from(std::mem::take(&mut self.taken)).unwrap_or(u32::MAX);
            put_tunnel_frame(out, Kind::TunnelCredit, id, &taken.to_le_bytes());
        }
        let count = self.unsent.len().min(self.window).min(DATA_CHUNK_BYTES);
        if count > 0 {
            put_tunnel_frame(out, Kind::TunnelData, id, &self.unsent[..count]);
            self.unsent.advance(count);
            self.window -= count;
            wake(&mut self.writer);
        }
        if self.unsent.is_empty() && self.output == Output::Ending {
            self.output = Output::Ended;
            put_tunnel_frame(out, Kind::TunnelEnd, id, &[]);
        }
        self.has_news() && !self.is_over()
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

fn broken() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl TunnelStream {
    /// Returns when nothing has moved for `limit`, or up to twice as long.
    pub(super) fn idle(&self, limit: Duration) -> impl Future<Output = ()> + use<> {
        let tunnel = Arc::clone(&self.0);
        async move {
            let mut before = None;
            loop {
                let moved = tunnel.lock().moved;
                if before.replace(moved) == Some(moved) {
                    return;
                }
                tokio::time::sleep(limit).await;
            }
        }
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        if state.is_aborted {
            return Poll::Ready(Err(broken()));
        }
        if state.received.is_empty() {
            if state.has_ended {
                return Poll::Ready(Ok(()));
            }
            state.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let count = state.received.len().min(buffer.remaining());
        buffer.put_slice(&state.received[..count]);
        state.received.advance(count);
        if state.received.is_empty() {
            // Most connections wait most of the time.
            state.received = BytesMut::new();
        }
        state.taken += count;
        state.moved += count as u64;
        if state.taken >= CREDIT_STEP_BYTES {
            self.0.tell(&mut state);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        if state.is_aborted || state.output != Output::Open {
            return Poll::Ready(Err(broken()));
        }
        let count = MAX_UNSENT_BYTES.saturating_sub(state.unsent.len()).min(data.len());
        if count == 0 && !data.is_empty() {
            state.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        state.unsent.extend_from_slice(&data[..count]);
        state.moved += count as u64;
        if state.window > 0 {
            self.0.tell(&mut state);
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        if state.output == Output::Open {
            state.output = Output::Ending;
            self.0.tell(&mut state);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_dropped = true;
        // Whoever sent this is not to wait for credit: what comes now is counted, and forgotten.
        let unread = std::mem::take(&mut state.received).len();
        state.taken += unread;
        state.lingered += unread;
        self.0.tell(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection whose far end has said its last.
    fn add(tunnels: &mut Tunnels, id: u32) {
        let state = Mutex::new(State { output: Output::Ended, ..State::new() });
        tunnels.open.insert(id, Arc::new(Tunnel { id, state, news: Arc::clone(&tunnels.news) }));
    }

    #[test]
    fn a_place_is_free_as_soon_as_the_runner_has_given_it_up() {
        let most = u32::try_from(MAX_TUNNELS).unwrap();
        let mut tunnels = Tunnels::default();
        (0..most).for_each(|id| add(&mut tunnels, id));
        let mut take = |kind, id: u32| tunnels.take(kind, &id.to_le_bytes());
        assert!(take(Kind::TunnelOpen, most).is_err());
        // The program closes one, and has the next one open before we have looked at the first.
        take(Kind::TunnelEnd, 0).unwrap();
        take(Kind::TunnelOpen, most).unwrap();
        assert!(take(Kind::TunnelOpen, 1).is_err(), "that one is open");
    }
}
