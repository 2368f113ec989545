//! How a job's ending becomes an answer.

use std::time::{Duration, Instant};

use shared::config::Config;
use tokio::task::JoinSet;

use crate::harness::{Harness, QUEUED};

#[tokio::test]
async fn a_result_is_passed_on_as_it_is() {
    let harness = Harness::start().await;
    let answer = harness.execute("print hello").await;
    let result = answer.json();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(result["stdout"], "hello");
    assert_eq!(result["exitCode"], 3);
    assert_eq!(result["timings"]["queueMs"], 0.25);
    // The contract's order of fields, which a parse and a rewrite would not keep.
    assert!(answer.text.starts_with(r#"{"stdout":"hello","stderr":"","exitCode":3,"durationMs":"#));
}

#[tokio::test]
async fn failures_keep_code_and_words_and_get_a_status() {
    let harness = Harness::start().await;
    for (code, status) in [
        ("IMAGE_NOT_FOUND", 400),
        ("FILE_WRITE_FAILED", 422),
        ("SETUP_FAILED", 422),
        ("START_FAILED", 422),
        ("SANDBOX_FAILED", 500),
        ("WORKER_LOST", 500),
        ("CANCELLED", 409),
        ("INTERNAL", 500),
    ] {
        let error = harness.execute(&format!("fail {code}")).await.error(status, code);
        assert_eq!(error, format!("pretended {code}"));
    }
}

#[tokio::test]
async fn a_result_too_big_for_a_message_arrives_all_the_same() {
    let harness = Harness::start().await;
    let answer = harness.execute("big 3000000").await;
    assert_eq!(answer.stdout().len(), 3_000_000);
}

#[tokio::test]
async fn every_429_says_when_to_come_back() {
    let harness = Harness::start().await;
    for code in ["QUEUE_FULL", "RATE_LIMITED", "TOO_MANY_JOBS", "SESSION_LIMIT"] {
        let answer = harness.execute(&format!("fail {code}")).await;
        answer.error(429, code);
        assert_eq!(answer.header("retry-after"), "1", "{code}");
    }
}

#[tokio::test]
async fn a_full_queue_is_429() {
    let harness = Harness::without_worker(|config| config.redis.max_queued = 2).await;
    let mut waiting = JoinSet::new();
    for _ in 0..2 {
        let request = harness
            .request(reqwest::Method::POST, "/execute")
            .body(r#"{"request":{"runtime":"bash","code":"print x"}}"#);
        waiting.spawn(crate::harness::send(request));
    }
    harness.becomes(QUEUED, 2.0).await;
    let answer = harness.execute("print y").await;
    answer.error(429, "QUEUE_FULL");
    assert_eq!(answer.header("retry-after"), "1");
    let harness = harness.with_worker().await;
    while let Some(answer) = waiting.join_next().await {
        assert_eq!(answer.unwrap().stdout(), "x");
    }
    assert_eq!(harness.metric("isol8_execute_waiting").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_each_get_their_own() {
    let harness = Harness::start().await;
    let started = Instant::now();
    let mut requests = JoinSet::new();
    for number in 0..64 {
        let request = harness
            .request(reqwest::Method::POST, "/execute")
            .body(format!(r#"{{"request":{{"runtime":"bash","code":"print {number}"}}}}"#));
        requests.spawn(async move { (number, crate::harness::send(request).await) });
    }
    while let Some(answered) = requests.join_next().await {
        let (number, answer) = answered.unwrap();
        assert_eq!(answer.stdout(), number.to_string());
    }
    nobody_looked(&harness, started.elapsed()).await;
    assert_eq!(harness.metric("isol8_execute_waiting").await, 0.0);
}

#[tokio::test]
async fn a_client_that_leaves_is_forgotten_and_its_job_cancelled() {
    let harness = Harness::without_worker(|_| {}).await;
    leave(&harness).await;
    harness.becomes(QUEUED, 0.0).await;
}

#[tokio::test]
async fn if_the_server_is_set_so_the_job_of_a_client_that_leaves_goes_on() {
    let change = |config: &mut Config| config.gateway.cancel_on_disconnect = false;
    let harness = Harness::without_worker(change).await;
    leave(&harness).await;
    assert_eq!(harness.metric(QUEUED).await, 1.0);
    let harness = harness.with_worker().await;
    harness.becomes(QUEUED, 0.0).await;
}

/// Sends a job and does not wait for its end.
async fn leave(harness: &Harness) {
    let request = harness
        .request(reqwest::Method::POST, "/execute")
        .body(r#"{"request":{"runtime":"bash","code":"print x"}}"#);
    let mut leaving = JoinSet::new();
    leaving.spawn(request.send());
    harness.becomes(QUEUED, 1.0).await;
    leaving.shutdown().await;
    harness.waiting(0.0).await;
}

/// Checks that endings came as messages; whoever has waited for a second may have looked.
async fn nobody_looked(harness: &Harness, waited: Duration) {
    let found = harness.metric("isol8_execute_found_by_looking_total").await;
    assert!(found == 0.0 || waited >= Duration::from_secs(1), "{found} found by looking");
}
