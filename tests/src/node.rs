//! One running `isol8` process: started, listened to, signalled, and stopped for certain.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Start-up includes warming sandboxes on a machine that is busy with other tests.
pub const START_TIMEOUT: Duration = Duration::from_secs(90);
/// Far longer than every grace period that the tests configure.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// Variables that processes under test inherit; all others would make tests depend on the machine.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    let inherited = ["PATH", "DOCKER_HOST", "ISOL8_LOG"];
    std::env::vars()
        .filter(move |(name, _)| inherited.contains(&name.as_str()))
        .chain([("NO_COLOR".to_owned(), "1".to_owned())])
}

/// What a process has written so far, both streams, line by line.
#[derive(Clone, Default)]
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All lines that contain `text`.
    #[must_use]
    pub fn find(&self, text: &str) -> Vec<String> {
        self.lock().iter().filter(|line| line.contains(text)).cloned().collect()
    }

    /// Everything, as one text.
    #[must_use]
    pub fn text(&self) -> String {
        self.lock().join("\n")
    }

    fn follow(&self, stream: impl Read + Send + 'static) {
        let log = self.clone();
        // Ends with the stream, which ends with the process.
        thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                log.lock().push(String::from_utf8_lossy(&line).trim_end().to_owned());
                line.clear();
            }
        });
    }
}

/// A child process. Dropped, it is asked to stop, and killed if it does not.
pub struct Node {
    name: String,
    child: Child,
    log: Log,
    ended: Option<ExitStatus>,
    /// Asked to stop: a second request would end it at once.
    is_stopping: bool,
}

impl Node {
    /// Starts `command`; `name` is how failures call it.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(name: &str, mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let log = Log::default();
        log.follow(child.stdout.take().expect("it is piped"));
        log.follow(child.stderr.take().expect("it is piped"));
        Self { name: name.to_owned(), child, log, ended: None, is_stopping: false }
    }

    /// How failures call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it has written.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that contains `text`.
    ///
    /// # Panics
    /// If it does not come, or the process ends first; shows what was written instead.
    pub fn await_line(&mut self, text: &str, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        loop {
            let ended = self.try_wait();
            if let Some(line) = self.log.find(text).into_iter().next() {
                return line;
            }
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{} did not say \"{text}\" ({ended:?}):\n{}",
                self.name,
                self.log.text()
            );
            thread::sleep(POLL);
        }
    }

    /// The port it listens on, which it announces.
    ///
    /// # Panics
    /// If it does not.
    pub fn await_port(&mut self) -> u16 {
        let line = self.await_line("listening on http://localhost:", START_TIMEOUT);
        let port = line.rsplit(':').next().and_then(|port| port.trim().parse().ok());
        port.unwrap_or_else(|| panic!("no port in \"{line}\""))
    }

    /// The identifier of the worker in this process, if one got ready.
    #[must_use]
    pub fn worker_id(&self) -> Option<String> {
        let line = self.log.find("worker ready worker=").into_iter().next()?;
        let (_, rest) = line.split_once("worker=")?;
        Some(rest.split_whitespace().next()?.to_owned())
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If the process has ended.
    pub fn signal(&mut self, signal: Signal) {
        assert!(self.try_wait().is_none(), "{} has ended:\n{}", self.name, self.log.text());
        // Not reaped yet, so the number still means our child.
        kill(self.nix_pid(), signal).expect("a child can be signalled");
        self.is_stopping |= signal == Signal::SIGTERM;
    }

    /// Kills it the hard way.
    ///
    /// # Panics
    /// If it has ended already.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait(STOP_TIMEOUT).expect("a killed process ends");
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// If the operating system does not know our child.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("a child can be waited for");
        }
        self.ended
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it does not end within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus, String> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.try_wait() {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(format!("{} did not end within {limit:?}", self.name));
            }
            thread::sleep(POLL);
        }
    }

    /// Asks it to stop, and waits until it has.
    ///
    /// # Errors
    /// If it does not stop, or not with exit code 0.
    pub fn stop(&mut self) -> Result<(), String> {
        if self.ended.is_some_and(|status| status.code().is_none()) {
            // Killed by the test itself.
            return Ok(());
        }
        if self.try_wait().is_none() && !self.is_stopping {
            self.signal(Signal::SIGTERM);
        }
        let status = self.wait(STOP_TIMEOUT)?;
        if status.success() { Ok(()) } else { Err(format!("{} ended with {status}", self.name)) }
    }

    fn nix_pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("process numbers fit"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.try_wait().is_some() {
            return;
        }
        // A stopped process would not see the request to end.
        let _ = kill(self.nix_pid(), Signal::SIGCONT);
        if self.stop().is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
