//! A Redis server of the test's own, on a private port, stopped with the value.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

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
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut redis =
            Self { directory: tempfile::tempdir().unwrap(), port, arguments, child: None };
        redis.start_again();
        redis
    }

    pub(crate) fn start_again(&mut self) {
        let log: PathBuf = self.directory.path().join("log");
        let child = Command::new("redis-server")
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
        self.child = Some(child);
        let started = Instant::now();
        while !self.answers() {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            assert!(started.elapsed() < Duration::from_secs(10), "no answer from redis: {log}");
            sleep(Duration::from_millis(10));
        }
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
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
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

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}
