//! `/v1/batches`: uploaded piece by piece, looked at, read, stopped, and refused as a whole if one item is wrong.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use reqwest::{Body, Method};
use serde_json::{Value, json};
use shared::config::Config;
use shared::redis::{BatchCache, Queue};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::{Answer, Harness, KEY, SOON, send};

const LINES: &str = "application/x-ndjson";

/// A gateway, a worker, and what a worker does by the clock.
struct Fleet {
    harness: Harness,
    _tending: JoinSet<()>,
}

impl std::ops::Deref for Fleet {
    type Target = Harness;

    fn deref(&self) -> &Harness {
        &self.harness
    }
}

async fn fleet(change: impl FnOnce(&mut Config)) -> Fleet {
    let harness = Harness::without_worker(change).await.with_worker().await;
    let queue = Queue::connect(&harness.queue_config()).await.unwrap();
    let mut tending = JoinSet::new();
    tending.spawn(async move {
        let mut cache = BatchCache::default();
        loop {
            for batch in queue.tend_batches().await.unwrap() {
                queue.advance_batch(batch, &mut cache).await.unwrap();
                assert_eq!(queue.check_batch(batch).await.unwrap(), []);
            }
            sleep(Duration::from_millis(10)).await;
        }
    });
    Fleet { harness, _tending: tending }
}

fn head(program: &str, more: Value) -> Value {
    let mut head = json!({"request": {"runtime": "bash", "code": program}});
    head.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    head
}

/// A batch as lines, its items' standard inputs being their numbers.
fn lines(head: &Value, items: u64) -> String {
    let item =
        |number| json!({"id": format!("i{number}"), "request": {"stdin": number_of(number)}});
    let items = (0..items).map(|number| format!("{}\n", item(number)));
    format!("{head}\n{}", items.collect::<String>())
}

fn number_of(number: u64) -> String {
    format!("number {number}")
}

async fn upload(harness: &Harness, form: &str, body: impl Into<Body>, key: Option<&str>) -> Answer {
    let mut request = harness.request(Method::POST, "/v1/batches").header("content-type", form);
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    send(request.body(body)).await
}

async fn submit(harness: &Harness, head: &Value, items: u64) -> String {
    let answer = upload(harness, LINES, lines(head, items), None).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.json()["id"].as_str().unwrap().to_owned()
}

async fn get(harness: &Harness, path: &str) -> Answer {
    send(harness.request(Method::GET, path)).await
}

async fn wait(harness: &Harness, id: &str) -> Value {
    let batch = get(harness, &format!("/v1/batches/{id}?wait=60000")).await.json();
    assert_eq!(batch["state"], "finished", "{batch}");
    batch
}

fn parsed(text: &str) -> Vec<Value> {
    let lines = text.lines().filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Asserts that no batch is there, nor anything of one.
async fn none_left(harness: &Harness) {
    let deadline = Instant::now() + SOON;
    loop {
        let keys = harness.redis.keys("*batch*");
        if keys.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "{keys:?}");
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(get(harness, "/v1/batches").await.json(), json!({"batches": []}));
}

#[tokio::test]
async fn a_batch_is_uploaded_run_and_read() {
    let fleet = fleet(|_| {}).await;
    let head = head("exit 0", json!({"queue": {"tags": ["t"]}, "failureBudget": 9}));
    let items = Value::from(parsed(&lines(&head, 300)).split_off(1));
    let text = head.to_string();
    let object = format!("{},\"items\":{items}}}", text.strip_suffix('}').unwrap());
    for (form, body) in [(LINES, lines(&head, 300)), ("application/json", object)] {
        // In many small pieces.
        let pieces: Vec<_> = body.as_bytes().chunks(1000).map(Bytes::copy_from_slice).collect();
        let pieces = stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>));
        let answer = upload(&fleet, form, Body::wrap_stream(pieces), None).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let id = answer.json()["id"].as_str().unwrap().to_owned();
        assert_eq!(answer.json(), json!({"id": id, "state": "running", "items": 300}));
        assert_eq!(answer.header("location"), format!("/v1/batches/{id}"));

        let batch = wait(&fleet, &id).await;
        assert_eq!((&batch["outcome"], &batch["priority"]), (&json!("completed"), &json!("low")));
        assert_eq!((&batch["tags"], &batch["failureBudget"]), (&json!(["t"]), &json!(9)));
        assert_eq!(
            batch["progress"],
            json!({"items": 300, "queued": 0, "running": 0, "succeeded": 300, "failed": 0,
                   "cancelled": 0, "notBegun": 0, "results": 300})
        );
        let times = ["createdAt", "startedAt", "finishedAt", "keptUntil"];
        let times: Vec<_> = times.iter().map(|name| batch[*name].as_str().unwrap()).collect();
        assert!(times.is_sorted(), "{times:?}");

        let answer = get(&fleet, &format!("/v1/batches/{id}/results")).await;
        assert_eq!(answer.header("content-type"), LINES);
        let mut found = parsed(&answer.text);
        assert_eq!(found.pop().unwrap(), json!({"next": 300, "end": true}));
        let mut seen = vec![false; 300];
        for (number, line) in found.iter().enumerate() {
            let item = line["item"].as_u64().unwrap();
            assert!(!std::mem::replace(&mut seen[usize::try_from(item).unwrap()], true));
            let expected = json!({
                "number": number, "item": item, "id": format!("i{item}"), "outcome": "exited",
                "exitCode": 0, "stdout": number_of(item), "stderr": "", "durationMs": 1,
            });
            assert_eq!(*line, expected);
        }
        assert!(seen.into_iter().all(|it| it));
    }
    let first = get(&fleet, "/v1/batches?limit=1").await.json();
    let cursor = first["nextCursor"].as_str().unwrap();
    let second = get(&fleet, &format!("/v1/batches?limit=1&cursor={cursor}")).await.json();
    assert_eq!(second["batches"].as_array().unwrap().len(), 1);
    assert!(second["nextCursor"].is_null(), "{second}");
    assert_ne!(first["batches"][0]["id"], second["batches"][0]["id"]);
}

#[tokio::test]
async fn one_wrong_item_and_nothing_runs() {
    let fleet = fleet(|config| {
        config.policy.max_batch_items = 1000;
        config.gateway.max_body_bytes = 100_000;
    })
    .await;
    let fine = head("exit 0", json!({}));
    let many = lines(&fine, 700);
    let huge = "x".repeat(100_000);
    for (form, body, status, code, words) in [
        (
            LINES,
            format!("{many}{{\"request\":{{\"timeoutMs\":\"1\"}}}}\n{many}"),
            400,
            "INVALID_REQUEST",
            "line 702: request.timeoutMs",
        ),
        (
            LINES,
            format!("{many}{{\"reqest\":{{}}}}\n"),
            400,
            "INVALID_REQUEST",
            "line 702: reqest: unknown field",
        ),
        (LINES, format!("{many}\n\nnope"), 400, "INVALID_JSON", "line 704: "),
        (
            LINES,
            format!("{many}{{\"options\":{{\"memoryLimit\":\"9t\"}}}}"),
            400,
            "POLICY_VIOLATION",
            "line 702: ",
        ),
        (LINES, format!("{many}{{\"id\":\"{huge}\"}}"), 413, "PAYLOAD_TOO_LARGE", "line 702 "),
        (LINES, lines(&fine, 1001), 400, "POLICY_VIOLATION", "policy.maxBatchItems"),
        (LINES, format!("{fine}\n\n"), 400, "INVALID_REQUEST", "at least one item"),
        (LINES, String::new(), 400, "INVALID_REQUEST", "at least one item"),
        (
            LINES,
            lines(&head("exit 0", json!({"queue": {"delayMs": 1}})), 1),
            400,
            "INVALID_REQUEST",
            "line 1: queue: ",
        ),
        (
            LINES,
            lines(&head("exit 0", json!({"faliureBudget": 1})), 1),
            400,
            "INVALID_REQUEST",
            "line 1: faliureBudget",
        ),
        (LINES, lines(&json!({}), 1), 400, "INVALID_REQUEST", "line 2: "),
        (
            LINES,
            lines(&json!({"request": {"runtime": "bash", "installPackage": ["a"]}}), 1),
            400,
            "INVALID_REQUEST",
            "line 1: request.installPackage: unknown field `installPackage`; did you mean `installPackages`?",
        ),
        (
            LINES,
            format!("{many}{{\"options\":{{\"networkFilter\":[]}}}}"),
            400,
            "INVALID_REQUEST",
            "line 702: options.networkFilter: expected an object, not an array",
        ),
        (
            "application/json",
            r#"{"request":{"runtime":"bash","code":"exit 0"},"items":[{},{"id":""}]}"#.into(),
            400,
            "INVALID_REQUEST",
            "items[1]: id ",
        ),
        (
            "application/json",
            r#"{"items":[],"request":{}}"#.into(),
            400,
            "INVALID_JSON",
            "last field",
        ),
        ("application/json", fine.to_string(), 400, "INVALID_JSON", "no array"),
    ] {
        let message = upload(&fleet, form, body, None).await.error(status, code);
        assert!(message.contains(words), "{message} has not {words}");
    }
    none_left(&fleet).await;
    assert_eq!(fleet.metric(crate::harness::QUEUED).await, 0.0);
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_removed() {
    let fleet = fleet(|_| {}).await;
    let body = lines(&head("exit 0", json!({})), 2000);
    let mut connection = TcpStream::connect(fleet.address).await.unwrap();
    let request = format!(
        "POST /v1/batches HTTP/1.1\r\nhost: x\r\nauthorization: {KEY}\r\ncontent-type: {LINES}\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len() + 1
    );
    connection.write_all(request.as_bytes()).await.unwrap();
    let deadline = Instant::now() + SOON;
    loop {
        let list = get(&fleet, "/v1/batches").await.json();
        let batch = &list["batches"][0];
        if batch["progress"]["items"].as_u64().is_some_and(|items| items >= 1024) {
            assert_eq!(batch["state"], "uploading");
            let id = batch["id"].as_str().unwrap();
            let path = format!("/v1/batches/{id}");
            get(&fleet, &format!("{path}/results")).await.error(404, "NOT_FOUND");
            send(fleet.request(Method::DELETE, &path)).await.error(404, "NOT_FOUND");
            break;
        }
        assert!(Instant::now() < deadline, "{list}");
        sleep(Duration::from_millis(5)).await;
    }
    drop(connection);
    none_left(&fleet).await;
}

#[tokio::test]
async fn an_upload_that_is_sent_again_is_the_same_batch() {
    let fleet = fleet(|_| {}).await;
    let body = lines(&head("exit 0", json!({})), 5);
    let first = upload(&fleet, LINES, body.clone(), Some("k")).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (202, ""));
    let again = upload(&fleet, LINES, body.clone(), Some("k")).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (202, "true"));
    assert_eq!(again.json()["id"], first.json()["id"]);
    let other = upload(&fleet, LINES, format!("{body}{{}}"), Some("k")).await;
    other.error(422, "IDEMPOTENCY_MISMATCH");
    let list = get(&fleet, "/v1/batches").await.json();
    assert_eq!(list["batches"].as_array().unwrap().len(), 1, "{list}");
}

#[tokio::test]
async fn results_are_followed_and_resumed_through_any_gateway() {
    let mut fleet = fleet(|config| {
        config.policy.max_concurrent_jobs = 1;
        config.gateway.heartbeat_ms = 50;
    })
    .await;
    let other = fleet.harness.add_gateway().await;
    let id = submit(&fleet, &head("sleep 200", json!({})), 5).await;
    let path = format!("/v1/batches/{id}/results?follow=true");
    let response = fleet.request(Method::GET, &path).send().await.unwrap();
    let mut pieces = response.bytes_stream();
    let mut text = String::new();
    while parsed(&text).len() < 2 {
        let piece = timeout(SOON, pieces.next()).await.unwrap().unwrap().unwrap();
        text.push_str(std::str::from_utf8(&piece).unwrap());
    }
    let state = get(&fleet, &format!("/v1/batches/{id}")).await.json();
    assert_eq!(state["state"], "running", "results came before the end: {state}");
    drop(pieces);
    let rest = send(fleet.request_at(other, KEY, &format!("{path}&from=2"))).await;
    assert!(rest.text.starts_with('\n') || rest.text.contains("\n\n"), "a sign of life: {rest:?}");
    let rest = parsed(&rest.text);
    let numbers: Vec<_> = rest.iter().map(|line| line["number"].as_u64()).collect();
    assert_eq!(numbers, [Some(2), Some(3), Some(4), None]);
    assert_eq!(rest[3], json!({"next": 5, "end": true}));
}

#[tokio::test]
async fn a_cancelled_batch_is_confirmed_to_be_still() {
    let fleet = fleet(|config| config.policy.max_concurrent_jobs = 2).await;
    let id = submit(&fleet, &head("sleep 500", json!({})), 800).await;
    fleet.becomes(crate::harness::RUNNING, 2.0).await;
    let answer = send(fleet.request(Method::DELETE, &format!("/v1/batches/{id}"))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let batch = answer.json();
    assert_eq!((&batch["state"], &batch["outcome"]), (&json!("finished"), &json!("cancelled")));
    let progress = &batch["progress"];
    assert_eq!((&progress["queued"], &progress["running"]), (&json!(0), &json!(0)));
    // The pretending worker lets its programs go on to their end.
    let ended = progress["failed"].as_u64().unwrap();
    assert!(ended >= 2);
    assert_eq!(progress["cancelled"], 800 - ended);
    fleet.becomes(crate::harness::RUNNING, 0.0).await;
    fleet.becomes(crate::harness::QUEUED, 0.0).await;
    let again = send(fleet.request(Method::DELETE, &format!("/v1/batches/{id}"))).await;
    assert_eq!(again.json()["progress"], *progress);
}

#[tokio::test]
async fn a_failure_budget_stops_what_is_left() {
    let fleet = fleet(|config| config.policy.max_concurrent_jobs = 1).await;
    let id = submit(&fleet, &head("exit 7", json!({"failureBudget": 3})), 500).await;
    let batch = wait(&fleet, &id).await;
    assert_eq!(batch["outcome"], "failure_budget");
    let (failed, cancelled) = (&batch["progress"]["failed"], &batch["progress"]["cancelled"]);
    assert_eq!(failed.as_u64().unwrap() + cancelled.as_u64().unwrap(), 500);
    assert!(failed.as_u64().unwrap() >= 4);
    assert_eq!(batch["failures"]["nonzeroExit"], *failed);
}

#[tokio::test]
async fn items_wait_for_readers_and_go_on_once_results_are_acknowledged() {
    let fleet = fleet(|config| config.policy.max_batch_result_bytes = 3000).await;
    let id = submit(&fleet, &head("exit 0", json!({})), 200).await;
    let path = format!("/v1/batches/{id}");
    let deadline = Instant::now() + SOON;
    let (mut next, mut waited) = (0, 0);
    loop {
        let batch = get(&fleet, &path).await.json();
        if batch["waiting"]["reason"] == "results_full" {
            waited += 1;
            let read = parsed(&get(&fleet, &format!("{path}/results?from={next}")).await.text);
            let last = read.last().unwrap();
            assert_eq!(last["end"], false);
            next = last["next"].as_u64().unwrap();
            let forget = fleet.request(Method::DELETE, &format!("{path}/results?before={next}"));
            assert_eq!(send(forget).await.json(), json!({"forgotten": read.len() - 1}));
        }
        if batch["state"] == "finished" {
            break;
        }
        assert!(Instant::now() < deadline, "{batch}");
        sleep(Duration::from_millis(5)).await;
    }
    assert!(waited > 1, "{waited}");
    let left = parsed(&get(&fleet, &format!("{path}/results")).await.text);
    assert_eq!(left[0], json!({"gap": next}), "what was acknowledged is gone");
    assert_eq!(left.last().unwrap(), &json!({"next": 200, "end": true}));
}

#[tokio::test]
async fn batches_are_their_tenants_own() {
    let fleet = fleet(|config| {
        config.policy.max_batches = 1;
        config.auth.enabled = true;
    })
    .await;
    let id = submit(&fleet, &head("exit 0", json!({})), 1).await;
    let body = lines(&head("exit 0", json!({})), 1);
    let message = upload(&fleet, LINES, body, None).await.error(429, "TOO_MANY_JOBS");
    assert!(message.contains("policy.maxBatches"), "{message}");
    let key = fleet.key_of("stranger").await;
    let path = format!("/v1/batches/{id}");
    for (method, path) in [
        (Method::GET, path.clone()),
        (Method::DELETE, path.clone()),
        (Method::GET, format!("{path}/results")),
        (Method::DELETE, format!("{path}/results?before=1")),
        (Method::GET, "/v1/batches/x".into()),
    ] {
        send(fleet.request_of(&key, method, &path)).await.error(404, "NOT_FOUND");
    }
    let list = send(fleet.request_of(&key, Method::GET, "/v1/batches")).await.json();
    assert_eq!(list, json!({"batches": []}));
}
