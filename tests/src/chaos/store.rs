//! The Redis of a fleet under test: one server that writes every change to its disk before it answers,
//! or a primary with a replica and a sentinel, which fail over.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::node::Node;
use crate::queue::{Queue, RedisServer, make_users};

/// How long a failover may take, and the old primary's way back.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);
/// What sentinels call the primary.
const NAME: &str = "queue";

/// The servers; dropped, they stop.
pub(super) struct Store {
    servers: Vec<RedisServer>,
    /// Of each server; none where there is one alone.
    ports: Vec<u16>,
    primary: usize,
    /// With its port.
    sentinel: Option<(Node, u16)>,
    users: PathBuf,
    directory: PathBuf,
}

/// The log of a server's changes is kept whole: it is what the checker reads.
const KEEP_THE_LOG: [&str; 2] = ["--auto-aof-rewrite-percentage", "0"];

impl Store {
    /// One server, reached through a socket.
    #[must_use]
    pub(super) fn single(directory: &Path) -> Self {
        let home = server_directory(directory, 0);
        let users = make_users(directory);
        let arguments = [&["--port", "0"][..], &KEEP_THE_LOG].concat();
        Self {
            servers: vec![RedisServer::start_with(&home, &users, &arguments)],
            ports: Vec::new(),
            primary: 0,
            sentinel: None,
            users,
            directory: directory.to_owned(),
        }
    }

    /// A primary, its replica and a sentinel, on ports of this machine.
    ///
    /// # Panics
    /// If they do not start.
    #[must_use]
    pub(super) fn replicated(directory: &Path) -> Self {
        let users = make_users(directory);
        let mut store = Self {
            servers: Vec::new(),
            ports: vec![free_port(), free_port()],
            primary: 0,
            sentinel: None,
            users,
            directory: directory.to_owned(),
        };
        for index in 0..store.ports.len() {
            let home = server_directory(directory, index);
            let arguments = store.arguments(index);
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let server = RedisServer::start_with(&home, &store.users, &arguments);
            store.servers.push(server);
        }
        store.await_replica();
        store.start_sentinel();
        store
    }

    /// Settings of a server: a replica of the primary, unless it is the primary itself.
    fn arguments(&self, index: usize) -> Vec<String> {
        let password = std::fs::read_to_string(self.users.join("replica.password"))
            .expect("the users are made");
        let mut arguments = vec!["--bind".to_owned(), "127.0.0.1".to_owned()];
        arguments.extend(["--port".to_owned(), self.ports[index].to_string()]);
        arguments.extend(["--masteruser".to_owned(), "replica".to_owned()]);
        arguments.extend(["--masterauth".to_owned(), password]);
        arguments.extend(["--repl-diskless-sync-delay".to_owned(), "0".to_owned()]);
        arguments.extend(KEEP_THE_LOG.map(str::to_owned));
        if index != self.primary {
            let primary = format!("127.0.0.1 {}", self.ports[self.primary]);
            arguments.extend(["--replicaof".to_owned(), primary]);
        }
        arguments
    }

    fn start_sentinel(&mut self) {
        let (port, primary) = (free_port(), self.ports[self.primary]);
        let password = std::fs::read_to_string(self.users.join("sentinel.password"))
            .expect("the users are made");
        let file = self.directory.join("sentinel.conf");
        let lines = format!(
            "bind 127.0.0.1\nport {port}\ndir {}\nloglevel warning\n\
             sentinel monitor {NAME} 127.0.0.1 {primary} 1\n\
             sentinel auth-user {NAME} sentinel\nsentinel auth-pass {NAME} {password}\n\
             sentinel down-after-milliseconds {NAME} 3000\nsentinel failover-timeout {NAME} 4000\n",
            self.directory.display()
        );
        std::fs::write(&file, lines).expect("the directory is the run's own");
        let mut command = Command::new("redis-server");
        command.arg(&file).arg("--sentinel");
        self.sentinel = Some((Node::start("sentinel", command), port));
    }

    /// A view of the primary.
    #[must_use]
    pub(super) fn queue(&self) -> Queue {
        self.servers[self.primary].queue()
    }

    /// The address of the queue for a role: through a socket of this path, if given, or by way of the
    /// sentinel.
    #[must_use]
    pub(super) fn url(&self, role: &str, socket: &Path) -> String {
        match &self.sentinel {
            Some((_, port)) => format!("redis+sentinel://{role}@127.0.0.1:{port}/{NAME}"),
            None => format!("redis+unix://{}?user={role}", socket.display()),
        }
    }

    /// Where each server keeps its log of changes.
    #[must_use]
    pub(super) fn logs(&self) -> Vec<PathBuf> {
        let of = |index| server_directory(&self.directory, index).join("appendonlydir");
        (0..self.servers.len()).map(of).collect()
    }

    /// Kills the server.
    pub(super) fn kill(&mut self) {
        self.servers[self.primary].kill();
    }

    /// Asks the server to stop.
    pub(super) fn stop(&mut self) {
        self.servers[self.primary].stop();
    }

    /// Starts it again on its data.
    pub(super) fn start_again(&mut self) {
        self.servers[self.primary].start_again();
    }

    /// Kills the primary, waits until the replica has taken its place, and has the old one follow it.
    ///
    /// # Panics
    /// If that does not come about.
    pub(super) fn fail_over(&mut self) {
        let old = self.primary;
        self.servers[old].kill();
        self.primary = 1 - old;
        self.await_that("the replica is the primary", |store| {
            let role: redis::RedisResult<Vec<redis::Value>> = store.queue().run(&["ROLE"]);
            let word = role
                .ok()
                .and_then(|role| redis::from_redis_value_ref::<String>(role.first()?).ok());
            word.as_deref() == Some("master")
        });
        let arguments = self.arguments(old);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.servers[old].set_arguments(&arguments);
        self.servers[old].start_again();
        self.await_replica();
    }

    fn await_replica(&self) {
        self.await_that("the replica follows", |store| {
            let info: redis::RedisResult<String> = store.queue().run(&["INFO", "replication"]);
            info.is_ok_and(|info| info.contains("state=online"))
        });
    }

    fn await_that(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "not so after {PATIENCE:?}: {what}");
            std::thread::sleep(POLL);
        }
    }
}

fn server_directory(directory: &Path, index: usize) -> PathBuf {
    let home = directory.join(format!("redis-{index}"));
    std::fs::create_dir_all(&home).expect("the directory is the run's own");
    home
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    listener.local_addr().expect("it is bound").port()
}
