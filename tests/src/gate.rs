//! A gate in front of the Docker engine: a socket that passes everything on, until it is shut or
//! made to hold everything up. So one stack can lose its engine while all others keep theirs.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

const ENGINE: &str = "/var/run/docker.sock";

/// The gate; open at first.
pub struct Gate {
    directory: TempDir,
    passing: Arc<Mutex<Passing>>,
    holding: Arc<AtomicBool>,
}

/// `None` while the gate is shut.
type Passing = Option<Vec<UnixStream>>;

impl Gate {
    /// Opens one.
    ///
    /// # Panics
    /// If the socket cannot be made.
    #[must_use]
    pub fn open() -> Self {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let passing = Arc::new(Mutex::new(Some(Vec::new())));
        let gate = Self { directory, passing, holding: Arc::default() };
        let listener = UnixListener::bind(gate.socket()).expect("the directory is ours");
        let (passing, holding) = (Arc::clone(&gate.passing), Arc::clone(&gate.holding));
        // Ends with the test's process; connections end with either side.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Dropped at once while shut: the client sees a connection that is closed on it.
                let _ = pass(client, &passing, &holding);
            }
        });
        gate
    }

    /// Value of `DOCKER_HOST` for this gate.
    #[must_use]
    pub fn address(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Cuts every connection, and each new one at once.
    pub fn shut(&self) {
        let passing = self.lock().take();
        for stream in passing.into_iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets connections pass again.
    pub fn reopen(&self) {
        *self.lock() = Some(Vec::new());
    }

    /// Holds everything up from now on, or lets it flow again: an engine that does not answer.
    pub fn hold(&self, holding: bool) {
        self.holding.store(holding, Ordering::SeqCst);
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("docker.sock")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Passing> {
        self.passing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pass(client: UnixStream, passing: &Mutex<Passing>, holding: &Arc<AtomicBool>) -> io::Result<()> {
    let mut passing = passing.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(streams) = passing.as_mut() else { return Ok(()) };
    let engine = UnixStream::connect(ENGINE)?;
    streams.extend([client.try_clone()?, engine.try_clone()?]);
    copy(client.try_clone()?, engine.try_clone()?, Arc::clone(holding));
    copy(engine, client, Arc::clone(holding));
    Ok(())
}

fn copy(mut from: UnixStream, mut to: UnixStream, holding: Arc<AtomicBool>) {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            while holding.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(5));
            }
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}
