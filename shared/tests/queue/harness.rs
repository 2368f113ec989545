//! A Redis of the test's own on a unix socket, and short names for what every test does.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use shared::config;
use shared::error::ErrorCode;
use shared::execution::{Ending, Failure, Job, Limits, Network, Source};
use shared::id::{GatewayId, JobId, TenantId, WorkerId};
use shared::redis::{Claimed, Consumer, JobState, Queue, Replies, Reply};
use shared::runtime::Runtime;
use tempfile::TempDir;

/// Long enough for anything that is going to happen at all.
pub(crate) const SOON: Duration = Duration::from_secs(10);
pub(crate) const BLOCK: Duration = Duration::from_secs(1);
/// A lease that tests can wait out.
pub(crate) const LEASE: Duration = Duration::from_millis(300);

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

    fn start_with(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
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

    fn socket(&self) -> std::path::PathBuf {
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

    pub(crate) fn config(&self) -> config::Redis {
        config::Redis {
            url: Some(format!("redis+unix://{}", self.socket().display())),
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

fn launch(directory: &TempDir, arguments: &[String]) -> Child {
    let socket = directory.path().join("redis.sock");
    let child = Command::new("redis-server")
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
        let answer = client.get_connection().and_then(|mut it| redis::cmd("PING").exec(&mut it));
        match answer {
            Ok(()) => return child,
            Err(error) if Instant::now() > deadline => panic!("Redis did not start: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
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
        self.queue.enqueue(tenant, id, &job(), self.gateway).await.unwrap();
        id
    }

    pub(crate) async fn claim(&mut self, max: usize) -> Vec<Claimed> {
        self.queue.claim(&mut self.consumer, max, BLOCK).await.unwrap()
    }

    pub(crate) async fn claim_one(&mut self) -> Claimed {
        let mut claimed = self.claim(1).await;
        assert_eq!(claimed.len(), 1);
        claimed.remove(0)
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
                Ending::Result(result) => panic!("{result:?}"),
            },
            other => panic!("{other:?}"),
        }
    }
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
        setup_script: None,
        workdir: "/sandbox".into(),
        network: Network::None,
        limits: Limits {
            memory_bytes: 1 << 29,
            cpu_millis: 1000,
            pids: 64,
            sandbox_bytes: 1 << 29,
            tmp_bytes: 1 << 28,
            readonly_root: true,
            max_output_bytes: 1 << 20,
        },
    }
}

/// An ending that is told from others by its message.
pub(crate) fn ending(message: impl Into<String>) -> Ending {
    Ending::Error(failure(message))
}

pub(crate) fn failure(message: impl Into<String>) -> Failure {
    Failure { code: ErrorCode::SandboxFailed, message: message.into() }
}
