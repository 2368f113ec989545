//! The Redis of a stack: a server of the test's own, and a look at what the queue keeps in it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::node::Node;

const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the queue may take to come to rest once all answers are in.
const REST_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// The one stream there is with the one shard that the tests configure.
const JOBS: &str = "v1:{s0}:jobs";

/// A view of a Redis behind the queue's back.
#[derive(Clone, Debug)]
pub struct Queue {
    socket: PathBuf,
    /// Where the passwords of its users are, if it has any.
    users: Option<PathBuf>,
}

impl Queue {
    /// The one on `socket`, open to everybody.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, users: None }
    }

    /// How processes under test reach it in their role: the address, and the file with the password.
    ///
    /// # Panics
    /// If it has no users.
    #[must_use]
    pub fn access(&self, role: &str) -> (String, PathBuf) {
        let users = self.users.as_ref().expect("a fleet's redis has users");
        let url = format!("redis+unix://{}?user={role}", self.socket.display());
        (url, users.join(format!("{role}.password")))
    }

    /// The address for a user with all rights.
    fn url(&self) -> String {
        if self.users.is_none() {
            return format!("redis+unix://{}", self.socket.display());
        }
        let (url, file) = self.access("admin");
        // While the server is being made, the file may be missing.
        format!("{url}&pass={}", std::fs::read_to_string(file).unwrap_or_default())
    }

    /// Commands that a role was refused: what it needs and `deploy/redis/users.acl` does not give.
    ///
    /// # Panics
    /// If Redis does not answer.
    #[must_use]
    pub fn refused(&self) -> Vec<String> {
        let log: Vec<HashMap<String, redis::Value>> =
            self.run(&["ACL", "LOG"]).expect("redis answers");
        let text = |entry: &HashMap<String, redis::Value>, field: &str| {
            entry.get(field).and_then(|it| redis::from_redis_value_ref::<String>(it).ok())
        };
        let describe = |entry| {
            let [user, reason, object, context] =
                ["username", "reason", "object", "context"].map(|field| text(entry, field));
            format!("{user:?} was refused {reason:?} {object:?} ({context:?})")
        };
        log.iter().map(describe).collect()
    }

    /// A connection with all rights.
    ///
    /// # Errors
    /// If Redis cannot be reached.
    pub fn connection(&self) -> redis::RedisResult<redis::Connection> {
        redis::Client::open(self.url())?.get_connection()
    }

    /// Runs a command.
    ///
    /// # Errors
    /// If Redis cannot be reached or refuses.
    pub fn run<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        redis::cmd(words[0]).arg(&words[1..]).query(&mut self.connection()?)
    }

    /// All that it holds, key by key, one after the other.
    ///
    /// # Panics
    /// If Redis does not answer.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        let mut found = Vec::new();
        for key in self.run::<Vec<String>>(&["KEYS", "*"]).expect("redis answers") {
            found.extend(key.as_bytes());
            let kind: String = self.run(&["TYPE", &key]).expect("redis answers");
            let words: &[&str] = match kind.as_str() {
                "string" => &["GET", &key],
                "hash" => &["HGETALL", &key],
                "list" => &["LRANGE", &key, "0", "-1"],
                "set" => &["SMEMBERS", &key],
                "zset" => &["ZRANGE", &key, "0", "-1", "WITHSCORES"],
                "stream" => &["XRANGE", &key, "-", "+"],
                // Gone meanwhile.
                "none" => continue,
                kind => panic!("{key} is a {kind}"),
            };
            gather(&self.run(words).expect("redis answers"), &mut found);
        }
        found
    }

    /// The socket it is reached through.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The file with the password of a role.
    ///
    /// # Panics
    /// If it has no users.
    #[must_use]
    pub fn password_file(&self, role: &str) -> PathBuf {
        self.access(role).1
    }

    /// The process number of the server.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn server_pid(&self) -> u32 {
        let info: String = self.run(&["INFO", "server"]).expect("redis answers");
        let pid = info.lines().find_map(|line| line.strip_prefix("process_id:"));
        pid.and_then(|pid| pid.trim().parse().ok()).expect("redis knows its own number")
    }

    /// Field of the record of a job, if there.
    ///
    /// # Panics
    /// If Redis does not answer.
    #[must_use]
    pub fn job_field(&self, job: &str, field: &str) -> Option<String> {
        self.run(&["HGET", &format!("v1:{{s0}}:job:{job}"), field]).expect("redis answers")
    }

    /// Jobs that run right now, and the workers that run them.
    ///
    /// # Panics
    /// If Redis does not answer.
    #[must_use]
    pub fn running(&self) -> Vec<(String, String)> {
        let keys: Vec<String> = self.run(&["KEYS", "v1:{s0}:job:*"]).expect("redis answers");
        let jobs = keys.iter().filter_map(|key| key.rsplit(':').next());
        jobs.filter(|job| self.job_field(job, "state").as_deref() == Some("running"))
            .filter_map(|job| Some((job.to_owned(), self.job_field(job, "worker")?)))
            .collect()
    }

    /// Waits until a job runs; returns it and its worker.
    ///
    /// # Panics
    /// If none does.
    #[must_use]
    pub fn await_running(&self) -> (String, String) {
        let deadline = Instant::now() + REST_TIMEOUT;
        loop {
            if let Some(found) = self.running().into_iter().next() {
                return found;
            }
            assert!(Instant::now() < deadline, "no job runs");
            std::thread::sleep(POLL);
        }
    }

    /// Calls that wait in the queue of a session.
    ///
    /// # Panics
    /// If Redis does not answer.
    #[must_use]
    pub fn waiting_calls(&self, session: &str) -> u64 {
        let queues = format!("v1:{{s0}}:calls:*:{session}");
        let queues: Vec<String> = self.run(&["KEYS", &queues]).expect("redis answers");
        let length = |queue: &String| self.run::<u64>(&["LLEN", queue]).expect("redis answers");
        queues.iter().map(length).sum()
    }

    /// Jobs that a worker holds right now.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.run::<(u64, redis::Value, redis::Value, redis::Value)>(&["XPENDING", JOBS, "workers"])
            .map_or(0, |summary| summary.0)
    }

    /// Waits until `count` jobs are held by workers.
    ///
    /// # Panics
    /// If that does not come about.
    pub fn await_pending(&self, count: u64) {
        let deadline = Instant::now() + REST_TIMEOUT;
        while self.pending() != count {
            assert!(Instant::now() < deadline, "{} jobs pending, not {count}", self.pending());
            std::thread::sleep(POLL);
        }
    }

    /// What is left that should not be, once every job has its answer. Waits for the last commits.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        let deadline = Instant::now() + REST_TIMEOUT;
        loop {
            let found = self.look().unwrap_or_else(|error| vec![format!("redis: {error}")]);
            if found.is_empty() || Instant::now() > deadline {
                return found;
            }
            std::thread::sleep(POLL);
        }
    }

    fn look(&self) -> redis::RedisResult<Vec<String>> {
        let mut found = Vec::new();
        for key in self.run::<Vec<String>>(&["KEYS", "*"])? {
            let lives_ms: i64 = self.run(&["PTTL", &key])?;
            // Gone meanwhile, temporary, or one of those that are there for good: API keys are
            // purged when they are dead, listed jobs taken off their lists and batches removed, not by Redis.
            let is_kept = [
                "v1:fleet",
                "v1:{keys}:",
                "v1:{s0}:listed:",
                "v1:{s0}:retained",
                "v1:{s0}:kept:",
                "v1:{s0}:placements",
                "v1:{s0}:tenants",
                "v1:{s0}:workers",
                "v1:{s0}:slots",
                "v1:{s0}:usage",
                "v1:{s0}:batch:",
                "v1:{s0}:batch-results:",
                "v1:{s0}:batches:",
                "v1:{s0}:batched:",
                "v1:{s0}:tending",
            ];
            if lives_ms != -1 || is_kept.iter().any(|start| key.starts_with(start)) {
                continue;
            }
            if !key.starts_with(JOBS) {
                found.push(format!("key {key} never expires"));
                continue;
            }
            let length: u64 = self.run(&["XLEN", &key])?;
            if length > 0 || self.pending() > 0 {
                found.push(format!("{length} jobs in the queue, {} pending", self.pending()));
            }
        }
        Ok(found)
    }

    /// Workers that have not signed off.
    ///
    /// # Panics
    /// If Redis does not answer.
    #[must_use]
    pub fn consumers(&self) -> usize {
        let listed: redis::RedisResult<Vec<redis::Value>> =
            self.run(&["XINFO", "CONSUMERS", JOBS, "workers"]);
        listed.map_or(0, |consumers| consumers.len())
    }
}

fn gather(value: &redis::Value, found: &mut Vec<u8>) {
    match value {
        redis::Value::Array(parts) => parts.iter().for_each(|part| gather(part, found)),
        redis::Value::BulkString(bytes) => found.extend(bytes),
        redis::Value::SimpleString(text) => found.extend(text.as_bytes()),
        _ => {}
    }
    found.push(b'\n');
}

/// Where the users of the fleet's Redis are made.
const MAKE_USERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/redis/make-users.sh");

/// A `redis-server` of the test's own, with the fleet's users, which keeps its data over restarts.
pub struct RedisServer {
    directory: PathBuf,
    users: PathBuf,
    arguments: Vec<String>,
    node: Option<Node>,
}

impl RedisServer {
    /// Starts one with its files in `directory`, reached through a socket there alone.
    ///
    /// # Panics
    /// If its users cannot be made or it does not answer.
    #[must_use]
    pub fn start(directory: &Path) -> Self {
        let users = make_users(directory);
        Self::start_with(directory, &users, &["--port", "0"])
    }

    /// The same with these users and settings.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn start_with(directory: &Path, users: &Path, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|it| (*it).to_owned()).collect();
        let (directory, users) = (directory.to_owned(), users.to_owned());
        let mut server = Self { directory, users, arguments, node: None };
        server.start_again();
        server
    }

    /// A view of it.
    #[must_use]
    pub fn queue(&self) -> Queue {
        Queue { socket: self.directory.join("queue.sock"), users: Some(self.users.clone()) }
    }

    /// Starts it (again) on the data it has.
    ///
    /// # Panics
    /// If it does not answer soon.
    pub fn start_again(&mut self) {
        let mut command = Command::new("redis-server");
        command
            .args(["--save", "", "--appendonly", "yes", "--appendfsync", "always"])
            .args(["--unixsocketperm", "700", "--loglevel", "warning"])
            .arg("--unixsocket")
            .arg(self.directory.join("queue.sock"))
            .arg("--aclfile")
            .arg(self.users.join("users.acl"))
            .arg("--dir")
            .arg(&self.directory)
            .args(&self.arguments);
        self.node = Some(Node::start("redis-server", command));
        let deadline = Instant::now() + START_TIMEOUT;
        // A replica that has not got its data yet says so, and so does one that reads its file.
        while self.queue().run::<String>(&["PING"]).is_err() {
            assert!(Instant::now() < deadline, "redis-server does not answer");
            std::thread::sleep(POLL);
        }
    }

    /// Has it started with other settings from the next time on.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|it| (*it).to_owned()).collect();
    }

    /// Stops it; its data stays.
    ///
    /// # Panics
    /// If it does not stop.
    pub fn stop(&mut self) {
        if let Some(mut node) = self.node.take() {
            node.stop().expect("redis-server stops when asked to");
        }
    }

    /// Kills it the hard way; what it has written stays.
    ///
    /// # Panics
    /// If it has ended already.
    pub fn kill(&mut self) {
        if let Some(mut node) = self.node.take() {
            node.kill();
        }
    }
}

/// Makes the fleet's users in a directory; those that are there keep their passwords.
///
/// # Panics
/// If they cannot be made.
#[must_use]
pub fn make_users(directory: &Path) -> PathBuf {
    let users = directory.join("users");
    let made = Command::new("sh").arg(MAKE_USERS).arg(&users).status();
    assert!(made.is_ok_and(|status| status.success()), "{MAKE_USERS} failed");
    users
}
