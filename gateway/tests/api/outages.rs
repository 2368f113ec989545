//! Redis away, frozen, emptied, or losing messages: every request gets an answer.

use std::time::{Duration, Instant};

use reqwest::Method;
use tokio::time::sleep;

use crate::harness::{Harness, QUEUED, RUNNING, SOON, send};

/// Long enough for an answer on a busy machine, and too short for one that waits for something else.
const QUICK: Duration = Duration::from_secs(15);

#[tokio::test]
async fn without_redis_the_answer_is_a_quick_503() {
    let mut harness = Harness::start().await;
    assert_eq!(harness.execute("print 1").await.stdout(), "1");
    harness.redis.stop();
    for _ in 0..3 {
        let answer = harness.execute("print 2").await;
        answer.error(503, "QUEUE_UNAVAILABLE");
        assert_ne!(answer.header("retry-after"), "");
        assert!(answer.took < QUICK, "{:?}", answer.took);
    }
    let ready = send(harness.anonymous(Method::GET, "/readyz")).await;
    assert!(ready.error(503, "QUEUE_UNAVAILABLE").contains("redis"));
    assert_eq!(send(harness.anonymous(Method::GET, "/healthz")).await.status, 200);
    assert_eq!(harness.metric("isol8_queue_up").await, 0.0);

    harness.redis.start_again();
    let started = Instant::now();
    while harness.execute("print 3").await.status != 200 {
        assert!(started.elapsed() < SOON, "never came back");
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(send(harness.anonymous(Method::GET, "/readyz")).await.status, 200);
}

#[tokio::test]
async fn a_frozen_redis_is_a_503_too() {
    let harness = Harness::start().await;
    harness.redis.freeze();
    let answer = harness.execute("print 1").await;
    harness.redis.thaw();
    answer.error(503, "QUEUE_UNAVAILABLE");
    assert!(answer.took < QUICK, "{:?}", answer.took);
    let started = Instant::now();
    while harness.execute("print 2").await.status != 200 {
        assert!(started.elapsed() < SOON, "never came back");
    }
}

#[tokio::test]
async fn a_job_whose_queueing_was_not_answered_is_not_run() {
    let mut harness = Harness::start().await;
    assert_eq!(harness.execute("print 1").await.stdout(), "1");
    harness.drop_workers().await;
    harness.redis.freeze();
    let answer = harness.execute("print 2").await;
    harness.redis.thaw();
    let words = answer.error(503, "QUEUE_UNAVAILABLE");
    assert!(words.contains("The job may have run"), "{words}");
    // What Redis was sent while it stood still is carried out now.
    sleep(Duration::from_millis(300)).await;
    harness.becomes(QUEUED, 0.0).await;
}

#[tokio::test]
async fn a_request_outlives_a_restart_of_redis() {
    let mut harness = Harness::start().await;
    let request = harness
        .request(Method::POST, "/execute")
        .body(r#"{"request":{"runtime":"bash","code":"sleep 1500"}}"#);
    let mut waiting = tokio::task::JoinSet::new();
    waiting.spawn(send(request));
    harness.becomes(RUNNING, 1.0).await;
    harness.redis.stop();
    sleep(Duration::from_millis(500)).await;
    harness.redis.start_again();
    assert_eq!(waiting.join_next().await.unwrap().unwrap().stdout(), "slept");
}

#[tokio::test]
async fn waiting_ends_if_redis_stays_away() {
    let mut harness = Harness::without_worker(|_| {}).await;
    let request = harness
        .request(Method::POST, "/execute")
        .body(r#"{"request":{"runtime":"bash","code":"print x","timeoutMs":4000}}"#);
    let mut waiting = tokio::task::JoinSet::new();
    waiting.spawn(send(request));
    harness.becomes(QUEUED, 1.0).await;
    harness.redis.stop();
    let answer = waiting.join_next().await.unwrap().unwrap();
    assert!(answer.error(503, "QUEUE_UNAVAILABLE").contains("result of job"));
    assert!(answer.took < QUICK, "{:?}", answer.took);
    assert_eq!(harness.metric("isol8_execute_waiting").await, 0.0);
}

#[tokio::test]
async fn a_job_whose_data_is_gone_is_given_up() {
    let harness = Harness::without_worker(|_| {}).await;
    let request = harness
        .request(Method::POST, "/execute")
        .body(r#"{"request":{"runtime":"bash","code":"print x"}}"#);
    let mut waiting = tokio::task::JoinSet::new();
    waiting.spawn(send(request));
    harness.becomes(QUEUED, 1.0).await;
    assert!(harness.redis.command("FLUSHALL").starts_with("+OK"));
    let answer = waiting.join_next().await.unwrap().unwrap();
    answer.error(500, "JOB_UNKNOWN");
    assert!(answer.took < QUICK, "{:?}", answer.took);
}

#[tokio::test]
async fn a_lost_message_costs_a_moment_not_the_answer() {
    let harness = Harness::start().await;
    assert_eq!(harness.execute("print 1").await.stdout(), "1");
    let cut = async {
        // Again and again, so that the ending's message falls into a gap.
        for _ in 0..12 {
            sleep(Duration::from_millis(50)).await;
            assert!(!harness.redis.command("CLIENT KILL TYPE pubsub").starts_with('-'));
        }
    };
    let (answer, ()) = tokio::join!(harness.execute("sleep 400"), cut);
    assert_eq!(answer.stdout(), "slept");
    assert!(answer.took < QUICK, "{:?}", answer.took);
}

#[tokio::test]
async fn without_any_message_the_poll_finds_the_ending() {
    let harness = Harness::start().await;
    assert_eq!(harness.execute("print 1").await.stdout(), "1");
    // Nobody may publish any more, so no message ever comes.
    assert!(harness.redis.command("ACL SETUSER default resetchannels").starts_with("+OK"));
    let answer = harness.execute("print 2").await;
    assert_eq!(answer.stdout(), "2");
    assert!(answer.took < QUICK, "{:?}", answer.took);
    assert!(harness.metric("isol8_execute_found_by_looking_total").await >= 1.0);
}
