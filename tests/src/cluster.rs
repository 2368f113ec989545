//! A Redis Cluster for fleets under test: three masters on loopback, with the fleet's users.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::node::Node;
use crate::queue::make_users;

const MASTERS: usize = 3;
const SLOTS: usize = 16_384;
const START_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// The nodes; stopped on drop.
pub struct RedisCluster {
    directory: PathBuf,
    users: PathBuf,
    masters: Vec<Master>,
}

struct Master {
    _node: Node,
    port: u16,
    bus: u16,
}

impl RedisCluster {
    /// Starts one with its files in `directory`.
    ///
    /// # Panics
    /// If its nodes do not find each other.
    #[must_use]
    pub fn start(directory: &Path) -> Self {
        let users = make_users(directory);
        let mut cluster = Self { directory: directory.to_owned(), users, masters: Vec::new() };
        for number in 0..MASTERS {
            let master = cluster.start_master(number);
            cluster.masters.push(master);
        }
        cluster.join();
        cluster
    }

    /// How processes under test reach it in their role: the address, and the file with the password.
    #[must_use]
    pub fn access(&self, role: &str) -> (String, PathBuf) {
        // One node is enough: it knows the others.
        let url = format!("redis+cluster://{role}@127.0.0.1:{}", self.masters[0].port);
        (url, self.users.join(format!("{role}.password")))
    }

    /// Runs a command at a node, as a user with all rights.
    ///
    /// # Errors
    /// If the node cannot be reached or refuses.
    pub fn run<T: redis::FromRedisValue>(
        &self,
        node: usize,
        words: &[&str],
    ) -> redis::RedisResult<T> {
        self.run_at(self.masters[node].port, words)
    }

    fn run_at<T: redis::FromRedisValue>(&self, port: u16, words: &[&str]) -> redis::RedisResult<T> {
        let file = self.users.join("admin.password");
        let password = std::fs::read_to_string(file).unwrap_or_default();
        let url = format!("redis://admin:{password}@127.0.0.1:{port}");
        let mut connection = redis::Client::open(url)?.get_connection()?;
        redis::cmd(words[0]).arg(&words[1..]).query(&mut connection)
    }

    /// Names of keys, node by node.
    ///
    /// # Panics
    /// If a node does not answer.
    #[must_use]
    pub fn keys(&self, pattern: &str) -> Vec<Vec<String>> {
        let keys = |node| self.run(node, &["KEYS", pattern]).expect("the node answers");
        (0..MASTERS).map(keys).collect()
    }

    /// How often a role was refused anything.
    ///
    /// # Panics
    /// If a node does not answer.
    #[must_use]
    pub fn refusals(&self) -> usize {
        let log = |node| self.run::<Vec<redis::Value>>(node, &["ACL", "LOG"]);
        (0..MASTERS).map(|node| log(node).expect("the node answers").len()).sum()
    }

    /// Starts one on ports that are free; should somebody be quicker, on others.
    fn start_master(&self, number: usize) -> Master {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let [port, bus] = free_ports();
            let directory = self.directory.join(format!("node-{number}"));
            std::fs::create_dir_all(&directory).expect("the directory is writable");
            let mut command = Command::new("redis-server");
            command
                .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
                .args(["--cluster-enabled", "yes", "--cluster-port", &bus.to_string()])
                .args(["--cluster-announce-ip", "127.0.0.1", "--loglevel", "warning"])
                .args(["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"])
                .arg("--aclfile")
                .arg(self.users.join("users.acl"))
                .arg("--dir")
                .arg(directory);
            let mut node = Node::start(&format!("redis-{number}"), command);
            while node.try_wait().is_none() {
                if self.run_at::<String>(port, &["PING"]).is_ok() {
                    return Master { _node: node, port, bus };
                }
                assert!(Instant::now() < deadline, "redis-server does not answer");
                std::thread::sleep(POLL);
            }
            assert!(Instant::now() < deadline, "redis-server does not start");
        }
    }

    /// Gives each its part of the slots and lets them find each other.
    fn join(&self) {
        let run = |node: usize, words: &[&str]| {
            self.run::<()>(node, words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
        };
        let first = &self.masters[0];
        for node in 0..MASTERS {
            let [from, to] = [SLOTS * node / MASTERS, SLOTS * (node + 1) / MASTERS - 1];
            run(node, &["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]);
            run(node, &["CLUSTER", "SET-CONFIG-EPOCH", &(node + 1).to_string()]);
            if node > 0 {
                let (port, bus) = (first.port.to_string(), first.bus.to_string());
                run(node, &["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
            }
        }
        let deadline = Instant::now() + START_TIMEOUT;
        let is_joined = |node| {
            let info: String = self.run(node, &["CLUSTER", "INFO"]).unwrap_or_default();
            info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
        };
        while !(0..MASTERS).all(is_joined) {
            assert!(Instant::now() < deadline, "the nodes do not find each other");
            std::thread::sleep(POLL);
        }
    }
}

fn free_ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind(("127.0.0.1", 0)).expect("a port is free"));
    listeners.map(|it| it.local_addr().expect("it listens").port())
}
