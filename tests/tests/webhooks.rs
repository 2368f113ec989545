//! Webhooks from the end of a job or a batch to its receiver: signed, tried again, taken over from a dead worker, and never
//! sent where they must not go.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tests::api::KEY;
use tests::upstream::{Answer, Request};
use tests::{Api, Stack, Upstream, code};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const SOON: Duration = Duration::from_secs(90);

/// Receivers on loopback may be told, in the clear.
fn open(changes: &Value) -> Value {
    let mut webhooks = json!({"allowHttp": true, "allowPrivateAddresses": ["127.0.0.0/8"],
        "backoffMs": 50, "maxBackoffMs": 100});
    for (name, value) in changes.as_object().expect("it is an object") {
        webhooks[name] = value.clone();
    }
    json!({"webhooks": webhooks})
}

fn no_op(mut config: Value) -> Value {
    config["worker"] = json!({"noOp": true, "prewarm": []});
    config
}

async fn call(api: &Api, method: Method, path: &str, body: &str) -> (u16, Value) {
    let authorization = format!("Bearer {KEY}");
    let reply = api.send(method, path, Some(&authorization), body.to_owned()).await;
    let reply = reply.expect("there is an answer");
    (reply.status, reply.json())
}

async fn submit(api: &Api, url: &str) -> String {
    let mut body = code("bash", "echo hello");
    body["queue"] = json!({"webhook": {"url": url, "secret": SECRET}});
    let (status, job) = call(api, Method::POST, "/v1/jobs", &body.to_string()).await;
    assert_eq!(status, 202, "{job}");
    job["id"].as_str().expect("it has an id").to_owned()
}

/// Waits until the only delivery of a job is in this state.
async fn delivery(api: &Api, id: &str, state: &str) -> Value {
    delivery_at(api, &format!("/v1/jobs/{id}/deliveries"), state).await
}

/// The same of whatever has its deliveries there.
async fn delivery_at(api: &Api, path: &str, state: &str) -> Value {
    let begun = Instant::now();
    loop {
        let (_, list) = call(api, Method::GET, path, "").await;
        let delivery = &list["deliveries"][0];
        if delivery["state"] == state {
            return delivery.clone();
        }
        assert!(begun.elapsed() < SOON, "never {state}: {list}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// HMAC-SHA256 by its definition, without the library that signs.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let pad = |with: u8| -> Vec<u8> {
        (0..64).map(|index| key.get(index).copied().unwrap_or_default() ^ with).collect()
    };
    let inner = Sha256::digest([pad(0x36).as_slice(), message].concat());
    Sha256::digest([pad(0x5c).as_slice(), inner.as_slice()].concat()).to_vec()
}

#[track_caller]
fn verify(request: &Request) {
    let key = STANDARD.decode(&SECRET["whsec_".len()..]).expect("it is base64");
    let (id, timestamp) = (request.header("webhook-id"), request.header("webhook-timestamp"));
    let signed = format!("{id}.{timestamp}.{}", request.body);
    let expected = format!("v1,{}", STANDARD.encode(hmac(&key, signed.as_bytes())));
    assert_eq!(request.header("webhook-signature"), expected, "{}", request.head);
    let sent: u64 = timestamp.parse().expect("it is in seconds");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("it is later than 1970").as_secs();
    assert!(sent <= now + 5 && now < sent + 600, "{sent} is not near {now}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_fails_twice_is_told_a_third_time_and_each_is_signed() {
    let asked = AtomicUsize::new(0);
    let receiver =
        Upstream::start("127.0.0.1", move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::status("500 Internal Server Error"),
            1 => Answer::status("302 Found").with("Location", "http://127.0.0.1:1/elsewhere"),
            _ => Answer::status("204 No Content"),
        })
        .await;
    let (mut stack, api) = Stack::serve(&open(&json!({})));
    let id = submit(&api, &format!("http://{}/hook?token=hush", receiver.address)).await;
    let delivered = delivery(&api, &id, "delivered").await;

    let requests = receiver.seen();
    assert_eq!(requests.len(), 3);
    for request in &requests {
        assert_eq!(request.line, "POST /hook?token=hush");
        assert_eq!(request.header("content-type"), "application/json");
        assert_eq!(request.header("webhook-id"), delivered["id"], "the same in each");
        verify(request);
    }
    let (_, job) = call(&api, Method::GET, &format!("/v1/jobs/{id}"), "").await;
    let told: Value = serde_json::from_str(&requests[2].body).expect("it is JSON");
    assert_eq!((&told["type"], &told["timestamp"]), (&json!("job.succeeded"), &job["finishedAt"]));
    assert_eq!(told["data"]["result"], job["result"]);
    assert_eq!(told["data"]["result"]["stdout"], "hello");
    let attempts = delivered["attempts"].as_array().expect("there are some").iter();
    let statuses: Vec<_> = attempts.map(|attempt| attempt["status"].clone()).collect();
    assert_eq!(statuses, [json!(500), json!(302), json!(204)]);
    assert!(!delivered.to_string().contains("hush"), "{delivered}");
    assert!(!job.to_string().contains("MfKQ9"), "{job}");

    // Once more, as somebody asks for it: the same message again.
    let path = format!("/v1/jobs/{id}/deliveries/{}/retry", delivered["id"].as_str().unwrap_or(""));
    assert_eq!(call(&api, Method::POST, &path, "").await.0, 202);
    let begun = Instant::now();
    while receiver.seen().len() < 4 {
        assert!(begun.elapsed() < SOON, "it is not told again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    delivery(&api, &id, "delivered").await;
    let last = receiver.seen().pop().expect("there are some");
    assert_eq!(last.header("webhook-id"), delivered["id"]);
    verify(&last);
    let logs = stack.node(0).log().text();
    assert!(!logs.contains("MfKQ9") && !logs.contains("hush"), "{logs}");
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_wants_no_more_is_left_alone() {
    let receiver = Upstream::start("127.0.0.1", |_| Answer::status("410 Gone")).await;
    let (stack, api) = Stack::serve(&no_op(open(&json!({}))));
    let id = submit(&api, &format!("http://{}/", receiver.address)).await;
    let given_up = delivery(&api, &id, "failed").await;
    assert_eq!((&given_up["tries"], &given_up["attempts"][0]["status"]), (&json!(1), &json!(410)));
    assert_eq!(receiver.seen().len(), 1);
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_address_is_refused_before_and_after_its_name_was_resolved() {
    let receiver = Upstream::start("127.0.0.1", |_| Answer::status("204 No Content")).await;
    let port = receiver.address.port();
    let closed = no_op(open(&json!({"allowPrivateAddresses": []})));
    let (stack, api) = Stack::serve(&closed);
    for host in ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "2130706433"] {
        let mut body = code("bash", "true");
        body["queue"] =
            json!({"webhook": {"url": format!("http://{host}:{port}/"), "secret": SECRET}});
        let (status, error) = call(&api, Method::POST, "/v1/jobs", &body.to_string()).await;
        assert_eq!((status, &error["code"]), (400, &json!("POLICY_VIOLATION")), "{host}: {error}");
    }
    let id = submit(&api, &format!("http://localhost:{port}/")).await;
    let refused = delivery(&api, &id, "failed").await;
    let why = refused["attempts"][0]["error"].as_str().unwrap_or_default();
    assert!(why.contains("loopback") && why.contains("webhooks.allowPrivateAddresses"), "{why}");
    assert!(receiver.seen().is_empty(), "nothing was dialled");
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_taken_over_from_a_worker_that_is_killed_at_it() {
    let asked = AtomicUsize::new(0);
    let receiver =
        Upstream::start("127.0.0.1", move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::Hang,
            _ => Answer::status("204 No Content"),
        })
        .await;
    let mut stack = Stack::fleet(&no_op(open(&json!({"timeoutMs": 10_000}))));
    let api = stack.gateway();
    let first = stack.worker();
    let id = submit(&api, &format!("http://{}/", receiver.address)).await;
    let begun = Instant::now();
    while receiver.seen().is_empty() {
        assert!(begun.elapsed() < SOON, "nothing is sent");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stack.node(first).kill();
    let second = stack.worker();
    let delivered = delivery(&api, &id, "delivered").await;
    assert_eq!(delivered["tries"], 1, "{delivered}");
    assert_eq!(delivered["attempts"][0]["worker"], stack.worker_id(second).as_str());
    let requests = receiver.seen();
    assert_eq!(requests.len(), 2);
    for request in &requests {
        assert_eq!(request.header("webhook-id"), delivered["id"]);
        verify(request);
    }
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_told_of_once_though_its_receiver_fails_and_a_worker_is_killed_at_it() {
    let asked = AtomicUsize::new(0);
    let receiver =
        Upstream::start("127.0.0.1", move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::status("500 Internal Server Error"),
            1 => Answer::Hang,
            _ => Answer::status("204 No Content"),
        })
        .await;
    let mut stack = Stack::fleet(&no_op(open(&json!({"timeoutMs": 10_000}))));
    let api = stack.gateway();
    let first = stack.worker();
    let webhook = json!({"url": format!("http://{}/hook?token=hush", receiver.address),
        "secret": SECRET, "events": ["completed"]});
    let items = Value::from(vec![json!({}); 50]);
    let head =
        json!({"request": {"runtime": "bash", "code": "true"}, "queue": {"webhook": webhook}});
    let head = head.to_string();
    let body = format!("{},\"items\":{items}}}", head.strip_suffix('}').expect("it is an object"));
    let (status, batch) = call(&api, Method::POST, "/v1/batches", &body).await;
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("it has an id");
    let begun = Instant::now();
    while receiver.seen().len() < 2 {
        assert!(begun.elapsed() < SOON, "it is not tried again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stack.node(first).kill();
    let second = stack.worker();
    let path = format!("/v1/batches/{id}/deliveries");
    let delivered = delivery_at(&api, &path, "delivered").await;
    assert_eq!((&delivered["type"], &delivered["tries"]), (&json!("batch.completed"), &json!(2)));
    assert_eq!(delivered["attempts"][1]["worker"], stack.worker_id(second).as_str());

    let requests = receiver.seen();
    assert_eq!(requests.len(), 3);
    for request in &requests {
        assert_eq!(request.header("webhook-id"), delivered["id"], "the same in each");
        verify(request);
    }
    let (_, batch) = call(&api, Method::GET, &format!("/v1/batches/{id}"), "").await;
    let mut told: Value = serde_json::from_str(&requests[2].body).expect("it is JSON");
    assert_eq!(told["type"], "batch.completed");
    assert_eq!(told["timestamp"], batch["finishedAt"]);
    assert_eq!(told["data"]["progress"]["succeeded"], 50);
    // Since it was told, it is kept for no longer than it asked for.
    assert!(told["data"]["keptUntil"].as_str() > batch["keptUntil"].as_str(), "{told} {batch}");
    told["data"]["keptUntil"] = batch["keptUntil"].clone();
    assert_eq!(told["data"], batch);
    assert!(!batch.to_string().contains("MfKQ9") && !delivered.to_string().contains("hush"));

    // Once more, as somebody asks for it; what it does not want to hear of it is not told.
    let retry = format!("{path}/{}/retry", delivered["id"].as_str().unwrap_or_default());
    assert_eq!(call(&api, Method::POST, &retry, "").await.0, 202);
    let begun = Instant::now();
    while receiver.seen().len() < 4 {
        assert!(begun.elapsed() < SOON, "it is not told again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    delivery_at(&api, &path, "delivered").await;
    let body = body.replace("[\"completed\"]", "[\"failed\"]");
    let (_, batch) = call(&api, Method::POST, "/v1/batches", &body).await;
    let id = batch["id"].as_str().expect("it has an id");
    delivery_at(&api, &format!("/v1/batches/{id}/deliveries"), "skipped").await;
    assert_eq!(receiver.seen().len(), 4);
    stack.finish();
}
