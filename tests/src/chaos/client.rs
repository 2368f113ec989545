//! A client as careful users write one: it sends a submission again, with its idempotency key, until it
//! is answered, and goes on reading where a stream broke.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::fleet::Doors;
use super::journal::{Exchange, Expected, Journal, Purpose};
use super::random::Random;
use crate::api::KEY;

/// No answer takes longer, whatever happens: what does is a hang.
pub(super) const HANG: Duration = Duration::from_secs(150);
/// Between two attempts at the same thing.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
/// A submission, or a look at a job's output, is given up after so long.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);

/// One client.
pub(super) struct Client {
    /// Its number.
    pub(super) number: usize,
    /// Its choices.
    pub(super) random: Random,
    /// Where the gateways are.
    pub(super) doors: Doors,
    /// How many.
    pub(super) gateways: usize,
    /// Where everything is written down.
    pub(super) journal: Arc<Journal>,
    /// Connections.
    pub(super) http: reqwest::Client,
}

/// What is asked.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// What for.
    pub(super) purpose: Purpose,
    /// For whom.
    pub(super) tenant: String,
    /// Method and path.
    pub(super) method: Method,
    /// With its query.
    pub(super) path: String,
    /// `null`: none; a text: just so.
    pub(super) body: Value,
    /// Idempotency key, or session.
    pub(super) key: String,
    /// The job or batch it is about.
    pub(super) job: String,
    /// What is expected of it.
    pub(super) expected: Option<Expected>,
}

impl Request {
    /// One without body.
    #[must_use]
    pub(super) fn new(purpose: Purpose, tenant: &str, method: Method, path: String) -> Self {
        Self {
            purpose,
            tenant: tenant.to_owned(),
            method,
            path,
            body: Value::Null,
            key: String::new(),
            job: String::new(),
            expected: None,
        }
    }
}

/// What came back.
pub(super) struct Answer {
    /// Status; 0 if there was none.
    pub(super) status: u16,
    /// Body.
    pub(super) body: Value,
}

impl Client {
    /// Sends a request once, through any gateway, and writes down what came of it.
    pub(super) async fn send(&mut self, request: &Request) -> Answer {
        let gateway = self.random.index(self.gateways);
        let (at_ms, begun) = (self.journal.now_ms(), Instant::now());
        let (status, durability, body) = match self.ask(gateway, request, None).await {
            Ok(response) => read(response, request.purpose == Purpose::Stream).await,
            Err(error) => (0, String::new(), json!({"broken": error})),
        };
        let job = ["id", "executionId"].into_iter().find_map(|name| body[name].as_str());
        self.note(request, at_ms, begun, gateway, status, durability, job, body.clone());
        Answer { status, body }
    }

    /// Sends a request until a gateway decides on it: answers, or refuses for good.
    pub(super) async fn insist(&mut self, request: &Request) -> Answer {
        let begun = Instant::now();
        loop {
            let answer = self.send(request).await;
            let is_decided = !matches!(answer.status, 0 | 429 | 503);
            if is_decided || begun.elapsed() > PATIENCE {
                return answer;
            }
            sleep(PAUSE).await;
        }
    }

    /// Reads a job's output to its end, going on elsewhere wherever a stream breaks.
    pub(super) async fn follow(&mut self, tenant: &str, job: &str, expected: Option<Expected>) {
        let path = format!("/v1/jobs/{job}/output");
        let mut request = Request::new(Purpose::Output, tenant, Method::GET, path);
        (request.job, request.expected) = (job.to_owned(), expected);
        let (at_ms, begun) = (self.journal.now_ms(), Instant::now());
        let (mut events, mut last_id, mut gateway, mut status) = (Vec::new(), None, 0, 0);
        while begun.elapsed() < PATIENCE {
            gateway = self.random.index(self.gateways);
            if let Ok(response) = self.ask(gateway, &request, last_id.as_deref()).await {
                status = response.status().as_u16();
                if status == 404 {
                    break;
                }
                if status == 200 {
                    events.push(json!({"type": "connected"}));
                    follow_stream(response, &mut events, &mut last_id).await;
                    if events.last().is_some_and(|event| event["type"] == "end") {
                        break;
                    }
                }
            }
            sleep(PAUSE).await;
        }
        let events = Value::Array(events);
        self.note(&request, at_ms, begun, gateway, status, String::new(), None, events);
    }

    async fn ask(
        &self,
        gateway: usize,
        request: &Request,
        last_id: Option<&str>,
    ) -> Result<Response, String> {
        let Some(port) = self.doors.port(gateway) else {
            return Err("no gateway listens".to_owned());
        };
        let url = format!("http://127.0.0.1:{port}{}", request.path);
        let mut sent: RequestBuilder = self.http.request(request.method.clone(), url);
        sent = sent.bearer_auth(KEY).header("X-Isol8-Tenant", &request.tenant).timeout(HANG);
        if matches!(request.purpose, Purpose::Submit | Purpose::Batch) {
            sent = sent.header("Idempotency-Key", &request.key);
        }
        if let Some(id) = last_id {
            sent = sent.header("Last-Event-ID", id);
        }
        sent = match &request.body {
            Value::Null => sent,
            Value::String(text) => sent.body(text.clone()),
            body => sent.body(body.to_string()),
        };
        sent.send().await.map_err(|error| describe(&error))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one line of the log")]
    fn note(
        &self,
        request: &Request,
        at_ms: u64,
        begun: Instant,
        gateway: usize,
        status: u16,
        durability: String,
        job: Option<&str>,
        answer: Value,
    ) {
        let job = job.map_or_else(|| request.job.clone(), str::to_owned);
        self.journal.exchange(Exchange {
            at_ms,
            took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            client: self.number,
            gateway,
            tenant: request.tenant.clone(),
            purpose: request.purpose,
            status,
            key: request.key.clone(),
            job,
            durability,
            expected: request.expected.clone(),
            answer,
        });
    }
}

/// What went wrong, with its causes; a time-out is a hang, and named as such.
fn describe(error: &reqwest::Error) -> String {
    if error.is_timeout() { "timed out".to_owned() } else { format!("{error:?}") }
}

/// The whole of an answer. A stream that breaks has its events, and status 0.
async fn read(mut response: Response, is_stream: bool) -> (u16, String, Value) {
    let status = response.status().as_u16();
    let durability = response.headers().get("x-isol8-durability");
    let durability =
        durability.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    if is_stream && status == 200 {
        let (mut events, mut unread) = (Vec::new(), Vec::new());
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => unread.extend_from_slice(&chunk),
                Ok(None) => return (status, durability, Value::Array(events)),
                Err(error) => {
                    events.push(json!({"broken": describe(&error)}));
                    return (0, durability, Value::Array(events));
                }
            }
            take_events(&mut unread, |_, event| events.push(event));
        }
    }
    match response.text().await {
        Ok(text) => {
            (status, durability, serde_json::from_str(&text).unwrap_or_else(|_| json!(text)))
        }
        Err(error) => (0, durability, json!({"broken": describe(&error)})),
    }
}

/// Reads numbered events until the stream ends or breaks.
async fn follow_stream(
    mut response: Response,
    events: &mut Vec<Value>,
    last_id: &mut Option<String>,
) {
    let mut unread = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        unread.extend_from_slice(&chunk);
        take_events(&mut unread, |id, mut event| {
            if let Some(id) = id {
                event["id"] = json!(id.parse::<u64>().ok());
                *last_id = Some(id);
            }
            events.push(event);
        });
    }
}

/// Takes whole events off what has come so far.
fn take_events(unread: &mut Vec<u8>, mut take: impl FnMut(Option<String>, Value)) {
    while let Some(end) = unread.windows(2).position(|pair| pair == b"\n\n") {
        let block: Vec<u8> = unread.drain(..end + 2).collect();
        let text = String::from_utf8_lossy(&block).into_owned();
        let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        // Comments are no events.
        let Some(data) = line("data: ") else { continue };
        let event = serde_json::from_str(data).unwrap_or_else(|_| json!({"unreadable": data}));
        take(line("id: ").map(str::to_owned), event);
    }
}
