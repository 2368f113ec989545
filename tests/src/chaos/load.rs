//! The load: clients that ask for all kinds of things in a random but repeatable order, until the storm is
//! over.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Kind;
use super::client::{Answer, Client, Request};
use super::fleet::Doors;
use super::journal::{Expected, Journal, Purpose};
use super::random::Random;

/// Tenants of a fleet.
const TENANTS: u64 = 6;

/// How much is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Volume {
    /// Clients, each with one request at a time.
    pub(super) clients: usize,
    /// Longest pause between two requests of a client.
    pub(super) pause_ms: u64,
}

/// Runs the clients until `stop` is cancelled and each has come to the end of what it was at.
pub(super) async fn run(
    kind: Kind,
    seed: u64,
    volume: Volume,
    doors: Doors,
    journal: Arc<Journal>,
    stop: CancellationToken,
) {
    // Only plain HTTP is spoken; the client insists on a provider when built with TLS.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().build().expect("it can be built");
    let mut clients = JoinSet::new();
    for number in 0..volume.clients {
        let client = Client {
            number,
            random: Random::new(seed, &format!("{} client {number}", kind.name())),
            doors: doors.clone(),
            gateways: kind.members().0,
            journal: Arc::clone(&journal),
            http: http.clone(),
        };
        let stop = stop.clone();
        clients.spawn(async move {
            let mut user = User { client, kind, tenant: String::new(), count: 0 };
            if kind == Kind::Docker && number % 4 == 0 {
                user.hold_sessions(volume, &stop).await;
            }
            while !stop.is_cancelled() {
                user.ask_something().await;
                let pause = Duration::from_millis(user.client.random.below(volume.pause_ms));
                // A stop ends the pause early.
                let _ = stop.run_until_cancelled(sleep(pause)).await;
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("clients do not panic");
    }
}

/// Makes schedules that run during the load, one after the other; with their tenants.
pub(super) async fn make_schedules(
    kind: Kind,
    doors: Doors,
    journal: Arc<Journal>,
    length: Duration,
) -> Vec<(String, String)> {
    match kind {
        // As batches.
        Kind::Failover => Vec::new(),
        Kind::NoOp | Kind::Docker => bystander(kind, doors, journal).make_schedules(length).await,
    }
}

/// Looks at schedules, and once more at jobs that have ended, through gateways that did not run when they
/// did.
pub(super) async fn look_again(
    kind: Kind,
    doors: Doors,
    journal: Arc<Journal>,
    jobs: Vec<(String, String)>,
    schedules: Vec<(String, String)>,
) {
    let mut client = bystander(kind, doors, journal);
    for (tenant, schedule) in schedules {
        client.look_at_schedule(&tenant, &schedule).await;
    }
    let mut user = User { client, kind, tenant: String::new(), count: 0 };
    for (tenant, job) in jobs {
        user.tenant = tenant;
        user.wait(&job).await;
    }
}

/// A client besides those of the load.
fn bystander(kind: Kind, doors: Doors, journal: Arc<Journal>) -> Client {
    // Only plain HTTP is spoken; the client insists on a provider when built with TLS.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client {
        number: usize::MAX,
        random: Random::new(0, "another look"),
        doors,
        gateways: kind.members().0,
        journal,
        http: reqwest::Client::builder().no_proxy().build().expect("it can be built"),
    }
}

/// A client and what it is at.
struct User {
    client: Client,
    kind: Kind,
    tenant: String,
    count: u64,
}

impl User {
    async fn ask_something(&mut self) {
        self.count += 1;
        self.tenant = format!("tenant-{}", self.client.random.below(TENANTS));
        match self.client.random.below(100) {
            0..30 => self.execute(Purpose::Execute).await,
            30..45 => self.execute(Purpose::Stream).await,
            // What a failover may undo of a batch is not told apart.
            45..47 if self.kind != Kind::Failover => {
                let key = format!("batch-{}-{}", self.client.number, self.count);
                self.client.submit_batch(&self.tenant, key).await;
            }
            _ => self.submit().await,
        }
    }

    /// A program that writes what nothing else does, and what it comes to.
    fn program(&mut self) -> (String, Expected) {
        let mark = format!("{}-{}", self.client.number, self.count);
        let mut expected = Expected { tries: 1, ..Expected::default() };
        if self.kind != Kind::Docker {
            return (format!("echo {mark}"), expected);
        }
        let lines = self.client.random.between(1, 4);
        let pause = self.client.random.below(4);
        expected.exit_code = i64::try_from(self.client.random.below(3)).unwrap_or_default();
        let numbered = (1..=lines).map(|line| format!("{mark} {line}\n"));
        expected.stdout = Some(numbered.collect());
        let text = format!(
            "for i in $(seq {lines}); do echo {mark} $i; sleep 0.{pause}; done; exit {}",
            expected.exit_code
        );
        (text, expected)
    }

    fn request(&self, purpose: Purpose, path: &str) -> Request {
        Request::new(purpose, &self.tenant, Method::POST, path.to_owned())
    }

    async fn execute(&mut self, purpose: Purpose) {
        let path = if purpose == Purpose::Stream { "/execute/stream" } else { "/execute" };
        let mut request = self.request(purpose, path);
        let (text, expected) = self.program();
        request.body = json!({"request": {"runtime": "bash", "code": text}});
        request.expected = Some(expected);
        self.client.send(&request).await;
    }

    async fn submit(&mut self) {
        let mut request = self.request(Purpose::Submit, "/v1/jobs");
        let (mut text, mut expected) = self.program();
        let mut queue = self.terms(&mut expected);
        let is_cancelled = self.client.random.percent(10);
        if is_cancelled && self.kind == Kind::Docker {
            text = "echo begun; sleep 300".to_owned();
            (expected.stdout, expected.exit_code) = (None, 137);
        }
        if self.kind == Kind::Docker && expected.exit_code == 1 && !is_cancelled {
            expected.tries = self.client.random.between(1, 3);
            queue["maxAttempts"] = json!(expected.tries);
            queue["backoffMs"] = json!(self.client.random.between(1, 400));
        }
        request.body = json!({"request": {"runtime": "bash", "code": text}, "queue": queue});
        request.key = format!("{}-{}-{}", self.kind.name(), self.client.number, self.count);
        request.expected = Some(expected.clone());
        let first = self.client.insist(&request).await;
        if self.client.random.percent(15) {
            // An impatient client asks again, and gets the same job.
            self.client.insist(&request).await;
        }
        let Some(id) = accepted(&first) else { return };
        if is_cancelled {
            return self.cancel(&id).await;
        }
        match self.client.random.below(100) {
            0..30 => self.wait(&id).await,
            30..60 => {
                let tenant = self.tenant.clone();
                self.client.follow(&tenant, &id, Some(expected)).await;
            }
            // Nobody waits: it runs all the same.
            _ => {}
        }
    }

    /// What holds for a job.
    fn terms(&mut self, expected: &mut Expected) -> Value {
        let random = &mut self.client.random;
        let mut queue = json!({"retentionMs": 7_200_000, "tags": ["chaos"]});
        let priority = ["high", "normal", "normal", "normal", "low"][random.index(5)];
        queue["priority"] = json!(priority);
        if random.percent(20) {
            expected.delay_ms = random.between(50, 4000);
            queue["delayMs"] = json!(expected.delay_ms);
        } else if random.percent(10) {
            expected.expires_ms = Some(random.between(200, 4000));
            queue["expiresMs"] = json!(expected.expires_ms);
        }
        if self.kind == Kind::Failover {
            let durability = if random.percent(70) { "replicated" } else { "fast" };
            expected.durability = Some(durability);
            queue["durability"] = json!(durability);
        }
        queue
    }

    async fn wait(&mut self, id: &str) {
        let path = format!("/v1/jobs/{id}?wait=60000");
        let mut request = Request::new(Purpose::Wait, &self.tenant, Method::GET, path);
        request.job = id.to_owned();
        self.client.insist(&request).await;
    }

    async fn cancel(&mut self, id: &str) {
        sleep(Duration::from_millis(self.client.random.below(800))).await;
        let path = format!("/v1/jobs/{id}");
        let mut request = Request::new(Purpose::Cancel, &self.tenant, Method::DELETE, path);
        request.job = id.to_owned();
        self.client.insist(&request).await;
    }

    /// Opens one session after the other, and counts in each.
    async fn hold_sessions(&mut self, volume: Volume, stop: &CancellationToken) {
        for number in 0.. {
            if stop.is_cancelled() {
                return;
            }
            self.tenant = format!("tenant-{}", self.client.random.between(1, TENANTS - 1));
            let name = format!("session-{}-{number}", self.client.number);
            let calls = self.client.random.between(10, 60);
            for _ in 0..calls {
                self.call(&name).await;
                let pause = Duration::from_millis(self.client.random.below(volume.pause_ms));
                if stop.run_until_cancelled(sleep(pause)).await.is_none() {
                    break;
                }
            }
            let path = format!("/session/{name}");
            let mut request = Request::new(Purpose::Close, &self.tenant, Method::DELETE, path);
            request.key = name;
            self.client.insist(&request).await;
        }
    }

    async fn call(&mut self, session: &str) {
        let mut request = self.request(Purpose::Call, "/execute");
        let text = "count=$((count+1)); echo $count";
        request.body = json!({"request": {"runtime": "bash", "code": text}, "sessionId": session});
        request.key = session.to_owned();
        self.client.send(&request).await;
    }
}

/// The job that a submission has become.
fn accepted(answer: &Answer) -> Option<String> {
    (answer.status == 202).then(|| answer.body["id"].as_str().map(str::to_owned)).flatten()
}
