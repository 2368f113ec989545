//! The way of one process to Redis, which can be cut, held up, closed, or made to lose answers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How the way is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Condition {
    /// Links made under an earlier number are cut.
    generation: u64,
    is_stalled: bool,
    is_closed: bool,
}

/// A socket that leads to another one. All links end with it.
#[derive(Debug)]
pub(super) struct Proxy {
    socket: PathBuf,
    condition: watch::Sender<Condition>,
    answers_to_lose: Arc<AtomicU32>,
    _links: JoinSet<()>,
}

impl Proxy {
    /// Listens on `socket` for whoever wants to reach `target`. Must be called inside a Tokio runtime.
    ///
    /// # Panics
    /// If the socket cannot be made.
    #[must_use]
    pub(super) fn start(socket: &Path, target: &Path) -> Self {
        let listener = UnixListener::bind(socket).expect("the directory is the run's own");
        let (condition, seen) = watch::channel(Condition::default());
        let answers_to_lose = Arc::<AtomicU32>::default();
        let (target, to_lose) = (target.to_owned(), Arc::clone(&answers_to_lose));
        let mut links = JoinSet::new();
        links.spawn(async move {
            let mut links = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while links.try_join_next().is_some() {}
                links.spawn(link(client, target.clone(), seen.clone(), Arc::clone(&to_lose)));
            }
        });
        Self { socket: socket.to_owned(), condition, answers_to_lose, _links: links }
    }

    /// Where it listens.
    #[must_use]
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Breaks all links; new ones can be made at once.
    pub(super) fn cut(&self) {
        self.condition.send_modify(|it| it.generation += 1);
    }

    /// Lets nothing pass, or all of it again. No link breaks.
    pub(super) fn stall(&self, is_stalled: bool) {
        self.condition.send_modify(|it| it.is_stalled = is_stalled);
    }

    /// Breaks all links, and new ones at once, until it is opened again.
    pub(super) fn close(&self, is_closed: bool) {
        self.condition.send_modify(|it| {
            it.is_closed = is_closed;
            it.generation += 1;
        });
    }

    /// Loses the answers to the next script calls, and the links with them.
    pub(super) fn lose_answers(&self, count: u32) {
        self.answers_to_lose.store(count, Ordering::SeqCst);
    }
}

async fn link(
    client: UnixStream,
    target: PathBuf,
    mut condition: watch::Receiver<Condition>,
    to_lose: Arc<AtomicU32>,
) {
    let mine = *condition.borrow_and_update();
    if mine.is_closed {
        return;
    }
    // A Redis that is away refuses; so does the link.
    let Ok(server) = UnixStream::connect(target).await else { return };
    let gate = condition.clone();
    tokio::select! {
        () = forward(client, server, gate, to_lose) => {}
        // An error means that the proxy is gone.
        _ = condition.wait_for(|it| it.generation != mine.generation) => {}
    }
}

async fn forward(
    mut client: UnixStream,
    mut server: UnixStream,
    mut gate: watch::Receiver<Condition>,
    to_lose: Arc<AtomicU32>,
) {
    let (mut asked, mut answered) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut is_script = false;
    loop {
        if gate.wait_for(|it| !it.is_stalled).await.is_err() {
            return;
        }
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(length @ 1..) = read else { return };
                is_script = asked[..length].windows(7).any(|word| word == b"EVALSHA");
                if gate.wait_for(|it| !it.is_stalled).await.is_err() { return }
                if server.write_all(&asked[..length]).await.is_err() { return }
            }
            read = server.read(&mut answered) => {
                let Ok(length @ 1..) = read else { return };
                let take_one = |left: u32| left.checked_sub(1);
                let (set, get) = (Ordering::SeqCst, Ordering::SeqCst);
                if is_script && to_lose.fetch_update(set, get, take_one).is_ok() { return }
                if gate.wait_for(|it| !it.is_stalled).await.is_err() { return }
                if client.write_all(&answered[..length]).await.is_err() { return }
            }
        }
    }
}
