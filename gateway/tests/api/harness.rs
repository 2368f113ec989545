//! One gateway, its Redis and, if wanted, its worker. All end with the value.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use gateway::{Error, Options};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use shared::audit::Audit;
use shared::config::Config;
use shared::redis::Queue;
use shared::sealing::SecretsKeys;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::redis::Redis;
use crate::{keeper, streamer, worker};

pub(crate) const KEY: &str = "test-key";
/// Long enough for anything that is going to happen at all.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// Jobs that wait, as the metrics have them.
pub(crate) const QUEUED: &str = r#"isol8_queue_jobs{state="queued"}"#;
/// Jobs that run.
pub(crate) const RUNNING: &str = r#"isol8_queue_jobs{state="running"}"#;

pub(crate) struct Harness {
    pub(crate) redis: Redis,
    pub(crate) address: SocketAddr,
    pub(crate) token: CancellationToken,
    http: reqwest::Client,
    gateway: JoinSet<Result<(), Error>>,
    workers: JoinSet<()>,
    /// Clean-ups that keepers have done.
    pub(crate) clean_ups: Arc<AtomicUsize>,
    config: Config,
}

impl Harness {
    /// Everything, with a worker.
    pub(crate) async fn start() -> Self {
        let harness = Self::without_worker(|_| {}).await;
        harness.with_worker().await
    }

    /// A gateway alone: jobs wait.
    pub(crate) async fn without_worker(change: impl FnOnce(&mut Config)) -> Self {
        let redis = Redis::start();
        let mut config = Config::default();
        config.redis.url = Some(redis.url());
        let key = SecretsKeys::generate().unwrap();
        config.redis.secrets_keys = Some(SecretsKeys::parse(&key).unwrap());
        change(&mut config);
        let token = CancellationToken::new();
        let mut gateway = JoinSet::new();
        let address = start_gateway(&config, &mut gateway, &token).await;
        // Built together with the client crate, reqwest speaks TLS and wants a provider for it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(SOON).build().unwrap();
        let (workers, clean_ups) = (JoinSet::new(), Arc::default());
        Self { redis, address, token, http, gateway, workers, clean_ups, config }
    }

    pub(crate) async fn with_worker(mut self) -> Self {
        self.add_worker().await;
        self
    }

    /// How to reach its queue.
    pub(crate) fn queue_config(&self) -> shared::config::Redis {
        self.config.redis.clone()
    }

    pub(crate) async fn add_worker(&mut self) {
        self.workers.spawn(worker::run(Queue::connect(&self.config.redis).await.unwrap()));
    }

    /// A worker that keeps sessions and their files.
    pub(crate) async fn add_keeper(&mut self) {
        let queue = Queue::connect(&self.config.redis).await.unwrap();
        self.workers.spawn(keeper::run(queue, Arc::clone(&self.clean_ups)));
    }

    /// A worker that shows output as it comes.
    pub(crate) async fn add_streamer(&mut self) {
        self.workers.spawn(streamer::run(Queue::connect(&self.config.redis).await.unwrap()));
    }

    /// Ends all workers as a crash would.
    pub(crate) async fn drop_workers(&mut self) {
        self.workers.shutdown().await;
    }

    /// One more gateway on the same Redis.
    pub(crate) async fn add_gateway(&mut self) -> SocketAddr {
        start_gateway(&self.config, &mut self.gateway, &self.token).await
    }

    /// A request with another key than the master's.
    pub(crate) fn request_of(&self, key: &str, method: Method, path: &str) -> RequestBuilder {
        self.anonymous(method, path).header("authorization", format!("Bearer {key}"))
    }

    /// The same, to another gateway.
    pub(crate) fn request_at(&self, gateway: SocketAddr, key: &str, path: &str) -> RequestBuilder {
        let request = self.http.get(format!("http://{gateway}{path}"));
        request.header("authorization", format!("Bearer {key}"))
    }

    /// A new key of a tenant.
    pub(crate) async fn key_of(&self, tenant: &str) -> String {
        let body = json!({"name": "test", "tenantId": tenant});
        let answer = send(self.request(Method::POST, "/auth/keys").json(&body)).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["key"].as_str().unwrap().to_owned()
    }

    /// A request with the key.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.anonymous(method, path).header("authorization", KEY)
    }

    pub(crate) fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.address))
    }

    /// Runs a program of the pretending worker's language.
    pub(crate) async fn execute(&self, program: &str) -> Answer {
        self.execute_within(program, 30_000).await
    }

    pub(crate) async fn execute_within(&self, program: &str, timeout_ms: u64) -> Answer {
        let body =
            json!({"request": {"runtime": "bash", "code": program, "timeoutMs": timeout_ms}});
        self.post(body.to_string()).await
    }

    pub(crate) async fn post(&self, body: impl Into<reqwest::Body>) -> Answer {
        send(self.request(Method::POST, "/execute").body(body)).await
    }

    /// The value of a metric, by the start of its line.
    pub(crate) async fn metric(&self, line: &str) -> f64 {
        let text = send(self.anonymous(Method::GET, "/metrics")).await.text;
        let found = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("{line} in {text}")).parse().unwrap()
    }

    /// Waits until a metric has this value.
    pub(crate) async fn becomes(&self, line: &str, expected: f64) {
        let started = Instant::now();
        loop {
            let found = self.metric(line).await;
            if found == expected {
                return;
            }
            let has_time = started.elapsed() < SOON;
            assert!(has_time, "{line} is {found}, never {expected}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until so many requests wait for a job.
    pub(crate) async fn waiting(&self, expected: f64) {
        let started = Instant::now();
        while self.metric("isol8_execute_waiting").await != expected {
            assert!(started.elapsed() < SOON, "never {expected} waiting");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for the gateway's own end, after its token was cancelled.
    pub(crate) async fn ended(&mut self) {
        let ended = timeout(SOON, self.gateway.join_next()).await;
        ended.expect("the gateway ends").unwrap().unwrap().unwrap();
    }
}

async fn start_gateway(
    config: &Config,
    gateways: &mut JoinSet<Result<(), Error>>,
    token: &CancellationToken,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = Options {
        queue: Queue::connect(&config.redis).await.unwrap(),
        config: config.clone(),
        listener,
        master_key: KEY.into(),
        audit: Audit::start(&config.audit).unwrap(),
        more_metrics: None,
    };
    gateways.spawn(gateway::run(options, token.clone()));
    address
}

/// What came back, read to the end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
    pub(crate) took: Duration,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// Checks status and code of an error, and that its body has the one shape; returns its words.
    #[track_caller]
    pub(crate) fn error(&self, status: u16, code: &str) -> String {
        let body = self.json();
        assert_eq!((self.status, body["code"].as_str()), (status, Some(code)), "{self:?}");
        assert_eq!(body.as_object().unwrap().len(), 3, "{body}");
        assert_eq!(body["requestId"].as_str().unwrap(), self.header("x-request-id"));
        assert_eq!(self.header("content-type"), "application/json");
        body["error"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn stdout(&self) -> String {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()["stdout"].as_str().unwrap().to_owned()
    }
}

/// Sends and reads to the end.
pub(crate) async fn send(request: RequestBuilder) -> Answer {
    let started = Instant::now();
    let response: Response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.unwrap();
    Answer { status, headers, text, took: started.elapsed() }
}
