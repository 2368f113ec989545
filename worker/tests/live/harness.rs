//! A worker in this process, on real Docker and a Redis of its own, and callers that talk to the queue
//! as a gateway does. [`Fleet::finish`] stops the worker and checks that nothing is left behind.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::audit::Audit;
use shared::config;
use shared::execution::{
    Call, Ending, Event, EventKind, ExecutionResult, Failure, FileReply, Job, Phase, PoolStrategy,
    Stream,
};
use shared::id::{GatewayId, JobId, SessionId, TenantId, WorkerId};
use shared::labels::Labels;
use shared::redis::{JobState, Queue, Quota, Submission, ToSession};
use shared::runtime::Runtime;
use tempfile::TempDir;
use tokio::runtime::Runtime as Tokio;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use worker::Executor;
use worker::engine::docker::Docker;
use worker::engine::{Engine, Options};
use worker::fetch::Fetcher;
use worker::webhooks::Webhooks;

use crate::programs::{python, result};

/// Long enough for anything that is going to happen at all.
pub(crate) const SOON: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// What tests choose about a worker.
#[derive(Clone, Copy)]
pub(crate) struct Choices {
    pub(crate) max_concurrent: usize,
    pub(crate) max_sessions: usize,
    pub(crate) session_idle: Option<Duration>,
    pub(crate) grace: Duration,
}

impl Default for Choices {
    fn default() -> Self {
        let grace = Duration::from_secs(30);
        Self { max_concurrent: 2, max_sessions: 4, session_idle: None, grace }
    }
}

/// One worker and its queue.
pub(crate) struct Fleet {
    pub(crate) queue: Queue,
    pub(crate) tenant: TenantId,
    gateway: GatewayId,
    config: config::Redis,
    workers: Vec<Worker>,
    killed: Vec<WorkerId>,
    redis: Child,
    directory: TempDir,
}

/// A worker that runs.
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    pub(crate) metrics: Arc<worker::metrics::Metrics>,
    token: CancellationToken,
    /// All that the worker does, so that it can end as by a signal 9.
    runtime: Tokio,
    task: JoinHandle<shared::Result<()>>,
}

impl Fleet {
    pub(crate) async fn start() -> Self {
        Self::start_with(Choices::default()).await
    }

    pub(crate) async fn start_with(choices: Choices) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("redis.sock");
        let redis = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .expect("these tests need redis-server on the PATH");
        let config = config::Redis {
            url: Some(format!("redis+unix://{}", socket.display())),
            lease_ms: 5000,
            renew_ms: 300,
            allow_plain_secrets: true,
            ..config::Redis::default()
        };
        let deadline = Instant::now() + SOON;
        let queue = loop {
            match Queue::connect(&config).await {
                Ok(queue) => break queue,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(POLL).await;
        };
        let mut fleet = Self {
            queue,
            tenant: TenantId::new("acme"),
            gateway: GatewayId::generate(),
            config,
            workers: Vec::new(),
            killed: Vec::new(),
            redis,
            directory,
        };
        fleet.add_worker(choices).await;
        fleet
    }

    /// Starts one more worker.
    pub(crate) async fn add_worker(&mut self, choices: Choices) {
        let (id, token) = (WorkerId::generate(), CancellationToken::new());
        let metrics = Arc::<worker::metrics::Metrics>::default();
        let options = Options {
            owner: format!("test-{id}"),
            strategy: PoolStrategy::Fast,
            clean: 0,
            max_concurrent: choices.max_concurrent,
            max_containers: choices.max_concurrent + choices.max_sessions,
            idle: Duration::from_secs(60),
            prewarm: Vec::new(),
            runtimes: config::Runtimes::default(),
            seccomp: worker::engine::SeccompProfiles::default(),
            packages: worker::engine::PackageSettings::default(),
            resolver: shared::net::Resolver::default(),
        };
        let engine_options = options;
        let audit = config::Audit {
            enabled: true,
            log_dir: Some(self.directory.path().join("audit").display().to_string()),
            ..config::Audit::default()
        };
        let options = worker::Options {
            name: "test".into(),
            worker: id,
            labels: Labels::default(),
            only_labelled: false,
            max_concurrent: choices.max_concurrent,
            max_sessions: choices.max_sessions,
            session_idle: choices.session_idle,
            fetcher: Fetcher::default(),
            webhooks: Webhooks::new(&config::Config::default()).unwrap(),
            policy: config::Policy::default(),
            audit: Audit::disabled(),
            redis: self.config.clone(),
            shutdown_grace: choices.grace,
            metrics: Arc::clone(&metrics),
            listener: None,
        };
        let (config, counted, stop) = (self.config.clone(), Arc::clone(&metrics), token.clone());
        let runtime = Tokio::new().unwrap();
        let task = runtime.spawn(async move {
            let docker = Docker::connect().await.unwrap();
            let image = Runtime::Python.image();
            let engine = Engine::start(engine_options, docker, id, image, counted, stop.clone());
            let executor = Executor::Sandbox(engine.await.unwrap());
            let queue = Queue::connect(&config).await.unwrap();
            let options = worker::Options { audit: Audit::start(&audit).unwrap(), ..options };
            let audit = options.audit.clone();
            let ended = worker::run(options, queue, executor, stop).await;
            audit.shutdown().await;
            ended
        });
        self.workers.push(Worker { id, metrics, token, runtime, task });
    }

    pub(crate) fn worker(&self) -> &Worker {
        &self.workers[0]
    }

    /// Asks the first worker to stop, and waits until it has.
    pub(crate) async fn stop_worker(&mut self) {
        let worker = self.workers.remove(0);
        worker.token.cancel();
        worker.task.await.unwrap().unwrap();
        worker.runtime.shutdown_background();
        await_no_containers(worker.id).await;
    }

    /// Ends the first worker as a signal 9 would: nothing is tidied up.
    pub(crate) fn kill_worker(&mut self) -> WorkerId {
        let worker = self.workers.remove(0);
        worker.runtime.shutdown_background();
        self.killed.push(worker.id);
        worker.id
    }

    pub(crate) fn submission(&self, id: JobId) -> Submission<'_> {
        let quota = Quota::default();
        Submission { tenant: &self.tenant, id, reply_to: Some(self.gateway), quota }
    }

    pub(crate) async fn enqueue(&self, job: &Job) -> JobId {
        let id = JobId::generate();
        self.queue.enqueue(self.submission(id), job).await.unwrap();
        id
    }

    /// Puts a call into a session's queue.
    pub(crate) async fn call(&self, session: &str, call: &Call) -> shared::Result<JobId> {
        let (id, session) = (JobId::generate(), SessionId::new(session).unwrap());
        let to =
            ToSession { id: &session, may_open: true, max_sessions: 100, labels: Labels::none() };
        self.queue.enqueue_call(self.submission(id), to, call).await?;
        Ok(id)
    }

    /// Runs a program in a session.
    pub(crate) async fn execute(&self, session: &str, job: Job) -> Ending {
        let id = self.call(session, &Call::Execute { job }).await.expect("the session takes it");
        self.ending(id).await
    }

    /// Runs Python in a session.
    pub(crate) async fn python(&self, session: &str, code: &str) -> ExecutionResult {
        result(self.execute(session, python(code)).await)
    }

    /// Does something to a session's files.
    pub(crate) async fn file(&self, session: &str, call: Call) -> Result<FileReply, Failure> {
        let id = self.call(session, &call).await.expect("the session takes it");
        self.reply(id).await
    }

    /// The answer to a call about files.
    pub(crate) async fn reply(&self, id: JobId) -> Result<FileReply, Failure> {
        match self.ending(id).await {
            Ending::File(reply) => Ok(reply),
            Ending::Error(failure) => Err(failure),
            Ending::Result(result) => panic!("{result:?}"),
        }
    }

    /// How a job ends.
    pub(crate) async fn ending(&self, id: JobId) -> Ending {
        let deadline = Instant::now() + SOON;
        loop {
            match self.queue.state(&self.tenant, id).await.unwrap() {
                JobState::Finished(text) => return serde_json::from_str(text.get()).unwrap(),
                state => assert!(Instant::now() < deadline, "{id} is still {state:?}"),
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until a job runs.
    pub(crate) async fn await_running(&self, id: JobId) {
        let deadline = Instant::now() + SOON;
        while !matches!(self.queue.state(&self.tenant, id).await, Ok(JobState::Running)) {
            assert!(Instant::now() < deadline, "{id} does not run");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until a job has written `text` to its stream.
    pub(crate) async fn await_output(&self, id: JobId, text: &str) {
        let deadline = Instant::now() + SOON;
        while !self.output(id, Phase::Code, Stream::Stdout).await.contains(text) {
            assert!(Instant::now() < deadline, "no \"{text}\" from {id}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Everything that was published of a job; checks that nothing is missing.
    pub(crate) async fn events(&self, id: JobId) -> Vec<Event> {
        let mut events: Vec<Event> = Vec::new();
        loop {
            let from = events.len() as u64;
            let more = self.queue.events(&self.tenant, id, from).await.unwrap();
            if more.is_empty() {
                return events;
            }
            for event in more {
                assert_eq!(event.number, events.len() as u64);
                events.push(event);
            }
        }
    }

    /// One stream of a job, joined; checks the offsets.
    pub(crate) async fn output(&self, id: JobId, of_phase: Phase, of: Stream) -> String {
        let mut joined = Vec::new();
        for event in self.events(id).await {
            if let EventKind::Output { stream, offset, data } = event.kind
                && (event.phase, stream) == (of_phase, of)
            {
                assert_eq!(offset, joined.len() as u64);
                assert!(std::str::from_utf8(&data).is_ok(), "cut within a character: {data:?}");
                joined.extend_from_slice(&data);
            }
        }
        String::from_utf8(joined).unwrap()
    }

    /// Waits until `count` sessions of the tenant are known.
    pub(crate) async fn await_sessions(&self, count: usize) {
        let deadline = Instant::now() + SOON;
        loop {
            let sessions = self.queue.sessions(&self.tenant).await.unwrap();
            if sessions.len() == count {
                return;
            }
            assert!(Instant::now() < deadline, "{sessions:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    pub(crate) fn audit_log(&self) -> String {
        let path = self.directory.path().join("audit/executions.log");
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// Runs a command on Redis, behind the queue's back.
    pub(crate) fn redis<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let client = redis::Client::open(self.config.url.clone().unwrap()).unwrap();
        let mut connection = client.get_connection().unwrap();
        redis::cmd(words[0]).arg(&words[1..]).query(&mut connection).unwrap()
    }

    /// Stops or continues Redis itself.
    pub(crate) fn signal_redis(&self, name: &str) {
        let pid = self.redis.id().to_string();
        let status = Command::new("kill").arg(format!("-{name}")).arg(pid).status().unwrap();
        assert!(status.success());
    }

    /// Stops everything and checks that nothing is left.
    pub(crate) async fn finish(mut self) {
        while !self.workers.is_empty() {
            self.stop_worker().await;
        }
        let deadline = Instant::now() + SOON;
        loop {
            let left = self.leftovers();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left behind: {left:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Keys that stay for good, but for the fleet's own and empty streams.
    fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for key in self.redis::<Vec<String>>(&["KEYS", "*"]) {
            let ttl_ms: i64 = self.redis(&["PTTL", &key]);
            let stays = match key.as_str() {
                // Who lives, and how much the fleet can run: the dead are taken off by others.
                "v1:fleet" | "v1:{s0}:workers" | "v1:{s0}:slots" | "v1:{s0}:tenants" => false,
                stream if stream.contains(":jobs") => self.redis::<u64>(&["XLEN", stream]) > 0,
                _ => ttl_ms == -1,
            };
            if stays {
                left.push(key);
            }
        }
        left
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = self.redis.kill();
        let _ = self.redis.wait();
        for worker in self.workers.drain(..) {
            worker.runtime.shutdown_background();
            self.killed.push(worker.id);
        }
        for container in self.killed.iter().flat_map(|worker| containers(*worker)) {
            docker(&["rm", "--force", &container]);
        }
    }
}

pub(crate) fn docker(arguments: &[&str]) -> String {
    let output = Command::new("timeout")
        .args(["-s", "KILL", "60", "docker"])
        .args(arguments)
        .output()
        .expect("docker can be started");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Containers of a worker.
pub(crate) fn containers(worker: WorkerId) -> Vec<String> {
    let filter = format!("label=isol8.worker={worker}");
    let listed = docker(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter]);
    listed.lines().map(str::to_owned).collect()
}

/// Waits until nothing of a killed worker runs. A container that it had created and not yet started is
/// left to the next worker of its name.
pub(crate) async fn await_silence(worker: WorkerId) {
    let filter = format!("label=isol8.worker={worker}");
    let deadline = Instant::now() + SOON;
    loop {
        let running = docker(&["ps", "--quiet", "--filter", &filter]);
        if running.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "containers run: {running}");
        tokio::time::sleep(POLL).await;
    }
}

async fn await_no_containers(worker: WorkerId) {
    let deadline = Instant::now() + SOON;
    loop {
        let left = containers(worker);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "containers left: {left:?}");
        tokio::time::sleep(POLL).await;
    }
}
