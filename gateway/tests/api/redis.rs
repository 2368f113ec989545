//! A Redis server of the test's own, on a private port, stopped with the value.

use std::io::{Error, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::SOON;

pub(crate) struct Redis {
    directory: TempDir,
    port: u16,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Redis {
    /// A running server. It keeps its data over [`Self::stop`] and [`Self::start_again`].
    pub(crate) fn start() -> Self {
        Self::start_with(Vec::new())
    }

    /// A copy of this one, which follows it.
    pub(crate) fn start_replica(&self) -> Self {
        let primary = format!("127.0.0.1 {}", self.port);
        Self::start_with(vec!["--replicaof".into(), primary])
    }

    fn start_with(arguments: Vec<String>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut redis = Self { directory, port: 0, arguments, child: None };
        // Somebody else may take a free port first.
        while redis.child.is_none() {
            redis.port = free_port();
            redis.child = redis.launch().ok();
        }
        redis
    }

    pub(crate) fn start_again(&mut self) {
        self.child = Some(self.launch().unwrap());
    }

    fn launch(&self) -> Result<Child, Error> {
        let log: PathBuf = self.directory.path().join("log");
        let mut child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "yes", "--appendfsync", "always"])
            .args(["--repl-diskless-sync-delay", "0"])
            .args(&self.arguments)
            .arg("--dir")
            .arg(self.directory.path())
            .arg("--logfile")
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let started = Instant::now();
        loop {
            let ended = child.try_wait()?;
            if ended.is_none() && self.answers() {
                return Ok(child);
            }
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            if let Some(status) = ended {
                return Err(Error::other(format!("redis-server ended with {status}: {log}")));
            }
            assert!(started.elapsed() < SOON, "no answer from redis: {log}");
            sleep(Duration::from_millis(10));
        }
    }

    /// The keys that match a pattern.
    pub(crate) fn keys(&self, pattern: &str) -> Vec<String> {
        let port = self.port.to_string();
        let found =
            Command::new("redis-cli").args(["-p", &port, "--raw", "KEYS", pattern]).output();
        let found = String::from_utf8(found.expect("redis-cli is installed").stdout).unwrap();
        found.lines().filter(|key| !key.is_empty()).map(str::to_owned).collect()
    }

    /// Ends the process at once, as a crash would.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Lets the process stand still, as an overloaded or partitioned one would: connections stay
    /// open, answers do not come.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Sends an inline command and returns the start of the raw answer.
    pub(crate) fn command(&self, line: &str) -> String {
        self.try_command(line).unwrap()
    }

    /// Everything that was ever written to it, as it is on disk.
    pub(crate) fn dump(&self) -> String {
        let folder = self.directory.path().join("appendonlydir");
        let read = |entry: std::io::Result<std::fs::DirEntry>| {
            String::from_utf8_lossy(&std::fs::read(entry.unwrap().path()).unwrap()).into_owned()
        };
        std::fs::read_dir(folder).unwrap().map(read).collect()
    }

    /// Memory that its data takes, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let answer = self.command("INFO memory");
        let bytes = answer.lines().find_map(|line| line.strip_prefix("used_memory:"));
        bytes.expect("redis knows its memory").trim().parse().unwrap()
    }

    /// How many commands it has carried out; this one counts too.
    pub(crate) fn commands_processed(&self) -> u64 {
        let answer = self.command("INFO stats");
        let count = answer.lines().find_map(|line| line.strip_prefix("total_commands_processed:"));
        count.expect("redis counts its commands").trim().parse().unwrap()
    }

    fn try_command(&self, line: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(format!("{line}\r\n").as_bytes())?;
        let mut answer = [0; 512];
        let length = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    }

    fn answers(&self) -> bool {
        self.try_command("PING").is_ok_and(|answer| answer.starts_with("+PONG"))
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

/// A port that nobody listens on, below those that the kernel gives to connections going out: a server that
/// is stopped finds it free when it comes back.
fn free_port() -> u16 {
    const PORTS: std::ops::Range<u16> = 20_000..32_000;
    // Tests that run side by side begin at different places.
    let first = usize::try_from(std::process::id()).unwrap() * 97 % PORTS.len();
    let mut ports = PORTS.cycle().skip(first);
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}
