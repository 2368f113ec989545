//! `queue.durability`: the answer says whether a job is as safe as asked.

use std::time::Instant;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Harness, SOON, send};

async fn post(harness: &Harness, path: &str, queue: &Value) -> Answer {
    let body = json!({"request": {"runtime": "bash", "code": "print x"}, "queue": queue});
    send(harness.request(Method::POST, path).body(body.to_string())).await
}

/// What the answer to a request with this durability says of it.
async fn told(harness: &Harness, path: &str, durability: &str) -> String {
    let answer = post(harness, path, &json!({"durability": durability})).await;
    let expected = if path == "/v1/jobs" { 202 } else { 200 };
    assert_eq!(answer.status, expected, "{answer:?}");
    answer.header("x-isol8-durability").to_owned()
}

#[tokio::test]
async fn a_job_is_as_safe_as_asked_or_the_answer_says_that_it_is_not() {
    let harness = Harness::start().await;
    assert_eq!(told(&harness, "/execute", "fast").await, "fast; met");
    // There is no replica, and this test's Redis may be too old to speak of its disk.
    assert_eq!(told(&harness, "/v1/jobs", "replicated").await, "replicated; missed");

    let _replica = harness.redis.start_replica();
    let begun = Instant::now();
    while told(&harness, "/v1/jobs", "replicated").await != "replicated; met" {
        assert!(begun.elapsed() < SOON, "the replica does not follow");
    }
    assert_eq!(told(&harness, "/execute", "replicated").await, "replicated; met");

    let unasked = post(&harness, "/execute", &Value::Null).await;
    assert_eq!((unasked.status, unasked.header("x-isol8-durability")), (200, ""));
    for queue in [json!({"durability": "eternal"}), json!({"durabilty": "fast"})] {
        for path in ["/execute", "/v1/jobs"] {
            post(&harness, path, &queue).await.error(400, "INVALID_REQUEST");
        }
    }
}
