//! A client of server-sent events.

use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::Value;
use shared::config::Config;
use tokio::time::timeout;

use crate::harness::{Answer, Harness, send};
use crate::streamer::request;

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn harness() -> Harness {
    configured(|_| {}).await
}

pub(crate) async fn configured(change: impl FnOnce(&mut Config)) -> Harness {
    let mut harness = Harness::without_worker(change).await;
    harness.add_streamer().await;
    harness
}

pub(crate) fn post(harness: &Harness, program: &str) -> reqwest::RequestBuilder {
    harness.request(Method::POST, "/execute/stream").json(&request(program))
}

pub(crate) async fn stream(harness: &Harness, program: &str) -> Answer {
    let answer = send(post(harness, program)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

/// Opens a stream and leaves it open.
pub(crate) async fn open(harness: &Harness, program: &str) -> Response {
    let response = post(harness, program).send().await.unwrap();
    assert_eq!(response.status(), 200);
    response
}

/// Reads on until the text so far contains `expected`.
pub(crate) async fn read_until(response: &mut Response, expected: &str) -> String {
    let mut bytes = Vec::new();
    let reading = async {
        let mut looked = 0;
        while !String::from_utf8_lossy(&bytes[looked..]).contains(expected) {
            // It may lie across two chunks.
            looked = bytes.len().saturating_sub(expected.len());
            let chunk = response.chunk().await.unwrap();
            bytes.extend(chunk.unwrap_or_else(|| panic!("ended before {expected}")));
        }
    };
    timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("no {expected}"));
    String::from_utf8(bytes).unwrap()
}

/// The events of a whole stream.
pub(crate) fn events(text: &str) -> Vec<Value> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The numbers that a flood's pieces begin with.
pub(crate) fn flood(events: &[Value]) -> Vec<u64> {
    let output = events.iter().filter(|event| event["type"] == "stdout");
    output.map(|event| event["data"].as_str().unwrap().trim().parse().unwrap()).collect()
}
