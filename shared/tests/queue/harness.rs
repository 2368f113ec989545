//! A Redis of the test's own on a unix socket, and short names for what every test does.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use shared::config::{self, Seccomp};
use shared::error::{Error, ErrorCode};
use shared::execution::{Call, Ending, Failure, Job, Limits, Network, PackageSet, Source};
use shared::id::{GatewayId, JobId, SessionId, TenantId, WorkerId};
use shared::labels::Labels;
use shared::redis::{
    Claimed, ClaimedCall, Commit, Consumer, JobState, Lease, LeaseNews, NextCall, OwnedSession,
    Queue, Quota, Replies, Reply, Submission, ToSession,
};
use shared::runtime::Runtime;
use tempfile::TempDir;

/// Keys that are there for good once a queue was opened.
pub(crate) const PERMANENT: [&str; 4] =
    ["v1:fleet", "v1:{s0}:jobs", "v1:{s0}:jobs-high", "v1:{s0}:jobs-low"];
/// Long enough for anything that is going to happen at all.
pub(crate) const SOON: Duration = Duration::from_secs(60);
pub(crate) const BLOCK: Duration = Duration::from_secs(1);
/// A lease that tests can wait out, and that lasts for what they do before.
pub(crate) const LEASE: Duration = Duration::from_millis(1500);

/// A Redis server; stopped, and its files removed, on drop.
pub(crate) struct Redis {
    directory: TempDir,
    arguments: Vec<String>,
    child: Child,
}

impl Redis {
    pub(crate) fn start() -> Self {
        Self::start_with(&["--save", "", "--appendonly", "no"])
    }

    /// One that keeps its data over `stop` and `start_again`.
    pub(crate) fn durable() -> Self {
        Self::start_with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"])
    }

    /// One as `isol8 serve` starts it.
    pub(crate) fn as_served() -> Self {
        Self::start_with(&["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"])
    }

    /// One with these arguments, besides its socket and directory.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), arguments)
    }

    /// The same in a directory that holds files for it.
    pub(crate) fn start_in(directory: TempDir, arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|&it| it.to_owned()).collect();
        let child = launch(&directory, &arguments);
        Self { directory, arguments, child }
    }

    pub(crate) fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn start_again(&mut self) {
        self.child = launch(&self.directory, &self.arguments);
    }

    /// Stops (`STOP`) or continues (`CONT`) the process.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").arg(format!("-{name}")).arg(pid).status().unwrap();
        assert!(status.success());
    }

    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// Runs a command behind the queue's back.
    pub(crate) fn run<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let url = format!("redis+unix://{}", self.socket().display());
        let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut connection).unwrap()
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.run(&["KEYS", "*"]);
        keys.sort();
        keys
    }

    /// All that it holds, key by key, one after the other.
    pub(crate) fn contents(&self) -> Vec<u8> {
        let mut found = Vec::new();
        for key in self.keys() {
            found.extend(key.as_bytes());
            let kind: String = self.run(&["TYPE", &key]);
            let held: redis::Value = match kind.as_str() {
                "string" => self.run(&["GET", &key]),
                "hash" => self.run(&["HGETALL", &key]),
                "list" => self.run(&["LRANGE", &key, "0", "-1"]),
                "set" => self.run(&["SMEMBERS", &key]),
                "zset" => self.run(&["ZRANGE", &key, "0", "-1", "WITHSCORES"]),
                "stream" => self.run(&["XRANGE", &key, "-", "+"]),
                "none" => redis::Value::Nil,
                kind => panic!("{key} is a {kind}"),
            };
            gather(&held, &mut found);
        }
        found
    }

    /// What its append-only file holds.
    pub(crate) fn append_only_file(&self) -> Vec<u8> {
        let files = std::fs::read_dir(self.directory.path().join("appendonlydir")).unwrap();
        files.flat_map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
    }

    /// Asserts that nothing is left but what is permanent and empty, and what expires by itself.
    pub(crate) fn assert_nothing_left(&self) {
        for key in self.keys() {
            if key.contains(":jobs") {
                assert_eq!(self.run::<u64>(&["XLEN", &key]), 0, "{key}");
                let pending: (u64, redis::Value, redis::Value, redis::Value) =
                    self.run(&["XPENDING", &key, "workers"]);
                assert_eq!(pending.0, 0, "{key}");
            } else if key != "v1:fleet" && key != "v1:{s0}:tenants" {
                let expires =
                    ["attempts", "deliveries", "job", "once", "out", "rate", "session", "transfer"];
                let kind = key.split(':').nth(2).unwrap();
                assert!(expires.contains(&kind), "{key} is left");
                assert!(self.run::<i64>(&["PTTL", &key]) > 0, "{key} never expires");
            }
        }
    }

    pub(crate) fn config(&self) -> config::Redis {
        config::Redis {
            url: Some(format!("redis+unix://{}", self.socket().display())),
            // So that tests can look at what jobs run, and change it; how it is sealed is `sealed`'s concern.
            allow_plain_secrets: true,
            ..config::Redis::default()
        }
    }

    /// Where leases run out while the test waits.
    pub(crate) fn short_lease(&self) -> config::Redis {
        let lease_ms = u64::try_from(LEASE.as_millis()).unwrap();
        config::Redis { lease_ms, renew_ms: lease_ms / 4, ..self.config() }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gather(value: &redis::Value, found: &mut Vec<u8>) {
    match value {
        redis::Value::Array(parts) => parts.iter().for_each(|part| gather(part, found)),
        redis::Value::BulkString(bytes) => found.extend(bytes),
        redis::Value::SimpleString(text) => found.extend(text.as_bytes()),
        redis::Value::Int(number) => found.extend(number.to_string().into_bytes()),
        redis::Value::Nil | redis::Value::Okay => {}
        other => panic!("{other:?}"),
    }
    found.push(b'\n');
}

/// Whether bytes contain a text.
pub(crate) fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn launch(directory: &TempDir, arguments: &[String]) -> Child {
    let socket = directory.path().join("redis.sock");
    let mut child = Command::new("redis-server")
        .args(["--port", "0", "--unixsocket"])
        .arg(&socket)
        .arg("--dir")
        .arg(directory.path())
        .args(arguments)
        .stdout(Stdio::null())
        .spawn()
        .expect("these tests need redis-server on the PATH");
    let client = redis::Client::open(format!("redis+unix://{}", socket.display())).unwrap();
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("redis-server ended with {status}");
        }
        let answer = client.get_connection().and_then(|mut it| redis::cmd("PING").exec(&mut it));
        match answer {
            Ok(()) => return child,
            // It is there; only its users get in.
            Err(error) if error.code() == Some("NOAUTH") => return child,
            Err(error) if Instant::now() > deadline => panic!("Redis did not start: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// A port that nobody listens on, below those that the kernel gives to connections going out.
pub(crate) fn free_port() -> u16 {
    const PORTS: std::ops::Range<u16> = 20_000..32_000;
    static BEGIN: AtomicUsize = AtomicUsize::new(0);
    // Tests that run side by side begin at different places, and each goes on from there.
    let first = usize::try_from(std::process::id()).unwrap() * 97;
    let first = (first + BEGIN.fetch_add(1, Ordering::Relaxed)) % PORTS.len();
    let mut ports = PORTS.cycle().skip(first);
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

/// A gateway and a worker on one queue.
pub(crate) struct Fleet {
    pub(crate) queue: Queue,
    pub(crate) gateway: GatewayId,
    pub(crate) replies: Replies,
    pub(crate) tenant: TenantId,
    pub(crate) worker: WorkerId,
    pub(crate) consumer: Consumer,
}

impl Fleet {
    pub(crate) async fn new(config: &config::Redis) -> Self {
        let queue = Queue::connect(config).await.unwrap();
        let (gateway, worker) = (GatewayId::generate(), WorkerId::generate());
        let replies = queue.replies(gateway).await.unwrap();
        let consumer = queue.consumer(worker).await.unwrap();
        Self { queue, gateway, replies, tenant: TenantId::new("acme"), worker, consumer }
    }

    pub(crate) async fn enqueue(&self) -> JobId {
        self.enqueue_for(&self.tenant).await
    }

    pub(crate) async fn enqueue_for(&self, tenant: &TenantId) -> JobId {
        let id = JobId::generate();
        self.queue.enqueue(submission(tenant, id, self.gateway), &job()).await.unwrap();
        id
    }

    pub(crate) async fn claim(&mut self, max: usize) -> Vec<Claimed> {
        self.queue.claim(&mut self.consumer, max, BLOCK).await.unwrap()
    }

    pub(crate) async fn claim_one(&mut self) -> Claimed {
        let mut claimed = self.queue.claim(&mut self.consumer, 1, SOON).await.unwrap();
        assert_eq!(claimed.len(), 1);
        claimed.remove(0)
    }

    /// Puts a call into a session of the fleet's tenant, opening it if need be.
    pub(crate) async fn call(&self, session: &str, call: &Call) -> Result<JobId, Error> {
        let (id, session) = (JobId::generate(), SessionId::new(session).unwrap());
        let to =
            ToSession { id: &session, may_open: true, max_sessions: 2, labels: Labels::none() };
        let submission = submission(&self.tenant, id, self.gateway);
        self.queue.enqueue_call(submission, to, call).await.map(|()| id)
    }

    /// Opens a session and ends the call that did.
    pub(crate) async fn open(&mut self, session: &str) -> OwnedSession {
        let id = self.call(session, &execute()).await.unwrap();
        let claimed = self.claim_one().await;
        assert_eq!(claimed.lease.job, id);
        self.finish(&claimed, "opened").await;
        // Behind whatever the test did not listen to.
        while !matches!(self.reply().await, Reply::Finished { job, .. } if job == id) {}
        claimed.opens.unwrap()
    }

    /// Claims a job that cannot be read, and has the worker pass it on.
    pub(crate) async fn pass_on_unread(&mut self) {
        assert!(self.queue.claim(&mut self.consumer, 1, SOON).await.unwrap().is_empty());
        let unreadable = self.consumer.take_unreadable();
        assert_eq!(unreadable.len(), 1);
        let done = self.queue.pass_on(self.worker, &unreadable[0]).await.unwrap();
        assert_eq!(done, Commit::Done);
    }

    pub(crate) async fn finish(&self, claimed: &Claimed, message: &str) {
        let done = self.queue.finish(self.worker, &claimed.lease, &ending(message)).await;
        assert_eq!(done.unwrap(), Commit::Done);
    }

    /// The call that the session's owner is to run next.
    pub(crate) async fn next_call(&self, session: &OwnedSession) -> ClaimedCall {
        match self.queue.next_call(self.worker, session).await.unwrap() {
            NextCall::Run(call) => call,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn finish_call(&self, session: &OwnedSession, id: JobId, how: &str) -> Commit {
        self.queue.finish_call(self.worker, session, id, &ending(how)).await.unwrap()
    }

    /// Another worker, and its place in the queue.
    pub(crate) async fn second_worker(&self) -> (WorkerId, Consumer) {
        let worker = WorkerId::generate();
        (worker, self.queue.consumer(worker).await.unwrap())
    }

    pub(crate) async fn reply(&mut self) -> Reply {
        tokio::time::timeout(SOON, self.replies.next()).await.expect("a reply was due")
    }

    /// Asserts that the next reply is that this job ended so.
    pub(crate) async fn expect_reply(&mut self, expected: JobId, ending: &Ending) {
        match self.reply().await {
            Reply::Finished { job, ending: Some(text) } => {
                assert_eq!(job, expected);
                assert_eq!(text.get(), serde_json::to_string(ending).unwrap());
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn state(&self, id: JobId) -> JobState {
        self.queue.state(&self.tenant, id).await.unwrap()
    }

    /// The failure a job ended with.
    pub(crate) async fn failure(&self, id: JobId) -> Failure {
        match self.state(id).await {
            JobState::Finished(text) => match serde_json::from_str(text.get()).unwrap() {
                Ending::Error(failure) => failure,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }
}

/// A submission without limits.
pub(crate) fn submission(tenant: &TenantId, id: JobId, reply_to: GatewayId) -> Submission<'_> {
    Submission { tenant, id, reply_to: Some(reply_to), quota: Quota::default() }
}

/// What a renewal says of leases that are lost.
pub(crate) fn lost<const N: usize>(leases: [&Lease; N]) -> [(Lease, LeaseNews); N] {
    leases.map(|lease| (lease.clone(), LeaseNews::Lost))
}

/// A call that may open a session.
pub(crate) fn execute() -> Call {
    Call::Execute { job: job() }
}

/// One that may not.
pub(crate) fn list() -> Call {
    Call::List { path: "/sandbox".into() }
}

/// Waits until leases of [`LEASE`] have run out.
pub(crate) async fn outlive_lease() {
    tokio::time::sleep(LEASE + Duration::from_millis(50)).await;
}

pub(crate) const SECRET: &str = "hunter2-hunter2";

pub(crate) fn job() -> Job {
    Job {
        runtime: Runtime::Python,
        image: "isol8:python".into(),
        source: Source::Code { text: "print(1)".into(), extension: ".py".into() },
        timeout_ms: 1000,
        env: BTreeMap::new(),
        secrets: BTreeMap::from([("TOKEN".to_owned(), SECRET.to_owned())]),
        stdin: None,
        files: Vec::new(),
        output_paths: None,
        packages: PackageSet::default(),
        substitutes: Vec::new(),
        setup_script: None,
        workdir: "/sandbox".into(),
        network: Network::None,
        egress: None,
        agent_flags: Vec::new(),
        isolation: shared::isolation::Isolation::Container,
        seccomp: Seccomp::Strict,
        limits: Limits {
            memory_bytes: 1 << 29,
            cpu_millis: 1000,
            pids: 64,
            sandbox_bytes: 1 << 29,
            tmp_bytes: 1 << 28,
            readonly_root: true,
            max_output_bytes: 1 << 20,
        },
        metadata: BTreeMap::new(),
        stream: false,
        interactive: false,
        signals: false,
    }
}

/// An ending that is told from others by its message.
pub(crate) fn ending(message: impl Into<String>) -> Ending {
    Ending::Error(failure(message))
}

pub(crate) fn failure(message: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::SandboxFailed, message)
}
