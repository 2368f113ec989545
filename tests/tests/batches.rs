//! A batch on a real fleet: workers die under its items, and each item has one result all the same.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tests::api::KEY;
use tests::{Api, Stack};
use tokio::time::sleep;

const ITEMS: u64 = 400;
const PATIENCE: Duration = Duration::from_secs(300);

async fn call(api: &Api, method: Method, path: &str, body: String) -> (u16, String) {
    let reply = api.send(method, path, Some(&format!("Bearer {KEY}")), body).await;
    let reply = reply.expect("there is an answer");
    (reply.status, reply.text)
}

async fn look(api: &Api, id: &str) -> Value {
    let (status, text) = call(api, Method::GET, &format!("/v1/batches/{id}"), String::new()).await;
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).expect("it is JSON")
}

/// Waits until so many items have ended.
async fn await_results(api: &Api, id: &str, count: u64) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let batch = look(api, id).await;
        if batch["progress"]["results"].as_u64() >= Some(count) {
            return batch;
        }
        assert!(Instant::now() < deadline, "{batch}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_killed_under_a_batch() {
    let mut stack = Stack::fleet(&json!({}));
    let (api, other) = (stack.gateway(), stack.gateway());
    let victims = [stack.worker(), stack.worker()];

    // Long enough for a worker to be killed under some of them.
    let request = json!({"runtime": "bash", "cmd": "read line; sleep 0.1; echo got $line"});
    let items = (0..ITEMS).map(|number| json!({"request": {"stdin": format!("item {number}")}}));
    let items = Value::from(items.collect::<Vec<_>>());
    let body = format!("{{\"request\":{request},\"items\":{items}}}");
    let (status, text) = call(&api, Method::POST, "/v1/batches", body).await;
    assert_eq!(status, 202, "{text}");
    let submitted: Value = serde_json::from_str(&text).expect("it is JSON");
    let id = submitted["id"].as_str().expect("it has an id").to_owned();

    await_results(&api, &id, 20).await;
    let _ = stack.queue().await_running();
    stack.node(victims[0]).kill();
    stack.worker();
    await_results(&api, &id, 60).await;
    let _ = stack.queue().await_running();
    stack.node(victims[1]).kill();
    stack.worker();

    let batch = await_results(&other, &id, ITEMS).await;
    assert_eq!(batch["state"], "finished", "{batch}");
    assert_eq!(batch["progress"]["succeeded"], ITEMS, "{batch}");
    let path = format!("/v1/batches/{id}/results?follow=true");
    let (_, text) = call(&other, Method::GET, &path, String::new()).await;
    let mut outputs = BTreeMap::new();
    let mut is_complete = false;
    for line in text.lines().filter(|line| !line.is_empty()) {
        let line: Value = serde_json::from_str(line).expect("it is JSON");
        is_complete |= line["end"] == true;
        if let Some(item) = line["item"].as_u64() {
            let output = line["stdout"].as_str().expect("it has output").to_owned();
            assert_eq!(outputs.insert(item, output), None, "a second result of {item}");
        }
    }
    assert!(is_complete, "{text}");
    let expected: BTreeMap<_, _> =
        (0..ITEMS).map(|item| (item, format!("got item {item}"))).collect();
    assert_eq!(outputs, expected);

    // Once it was kept long enough, workers remove all of it.
    let name = format!("default:{id}");
    let due = stack.queue().run::<u64>(&["ZADD", "v1:{s0}:tending", "XX", "0", &name]);
    due.expect("redis answers");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left: Vec<String> = stack.queue().run(&["KEYS", "*batch*"]).expect("redis answers");
        if left.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "{left:?}");
        sleep(Duration::from_millis(20)).await;
    }
    stack.finish();
}
