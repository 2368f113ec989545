//! A link to Redis that loses an answer when told to: the step was done, and nobody heard of it. Or one that
//! falls silent without being closed, as that to a machine which lost its power.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use shared::config;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::harness::Redis;

pub(crate) struct Proxy {
    directory: TempDir,
    is_armed: Arc<AtomicBool>,
    /// Of how many silences this is the last; links made before it pass nothing any more.
    silence: watch::Sender<u64>,
    /// All links; they end with the proxy.
    _links: JoinSet<()>,
}

impl Proxy {
    pub(crate) fn start(redis: &Redis) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket(&directory)).unwrap();
        let is_armed = Arc::new(AtomicBool::new(false));
        let (silence, heard) = watch::channel(0);
        let (target, armed) = (redis.socket(), Arc::clone(&is_armed));
        let mut links = JoinSet::new();
        links.spawn(async move {
            let mut links = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                links.spawn(link(client, target.clone(), Arc::clone(&armed), heard.clone()));
            }
        });
        Self { directory, is_armed, silence, _links: links }
    }

    pub(crate) fn config(&self, config: config::Redis) -> config::Redis {
        let url = Some(format!("redis+unix://{}", socket(&self.directory).display()));
        config::Redis { url, ..config }
    }

    /// Has all links there are pass nothing any more, without closing them. New ones are well.
    pub(crate) fn fall_silent(&self) {
        self.silence.send_modify(|silences| *silences += 1);
    }

    /// Loses the answer to the next script call, and the connection with it.
    pub(crate) fn lose_next_answer(&self) {
        self.is_armed.store(true, Ordering::SeqCst);
    }

    /// Asserts that the loss has happened.
    pub(crate) fn assert_lost(&self) {
        assert!(!self.is_armed.load(Ordering::SeqCst), "no script was called");
    }
}

fn socket(directory: &TempDir) -> PathBuf {
    Path::new(directory.path()).join("proxy.sock")
}

async fn link(
    mut client: UnixStream,
    target: PathBuf,
    is_armed: Arc<AtomicBool>,
    mut silence: watch::Receiver<u64>,
) {
    silence.mark_unchanged();
    let mut server = UnixStream::connect(target).await.unwrap();
    let (mut asked, mut answered) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut is_script = false;
    loop {
        tokio::select! {
            biased;
            _ = silence.changed() => std::future::pending().await,
            read = client.read(&mut asked) => {
                let Ok(length @ 1..) = read else { return };
                is_script = asked[..length].windows(7).any(|word| word == b"EVALSHA");
                if server.write_all(&asked[..length]).await.is_err() { return }
            }
            read = server.read(&mut answered) => {
                let Ok(length @ 1..) = read else { return };
                if is_script && is_armed.swap(false, Ordering::SeqCst) { return }
                if client.write_all(&answered[..length]).await.is_err() { return }
            }
        }
    }
}
