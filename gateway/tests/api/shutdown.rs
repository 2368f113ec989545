//! Going in good order.

use std::time::{Duration, Instant};

use reqwest::Method;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::{Answer, Harness, RUNNING, SOON, send};

fn in_background(harness: &Harness, program: &str) -> JoinSet<Answer> {
    let body = format!(r#"{{"request":{{"runtime":"bash","code":"{program}"}}}}"#);
    let mut tasks = JoinSet::new();
    tasks.spawn(send(harness.request(Method::POST, "/execute").body(body)));
    tasks
}

#[tokio::test]
async fn an_idle_gateway_ends_at_once() {
    let mut harness = Harness::start().await;
    // Leaves a kept-alive connection behind, which must not hold the gateway up.
    assert_eq!(harness.execute("print 1").await.stdout(), "1");
    let mute = TcpStream::connect(harness.address).await.unwrap();
    let started = Instant::now();
    harness.token.cancel();
    harness.ended().await;
    // Its grace period is three times as long.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    drop(mute);
}

#[tokio::test]
async fn open_requests_finish_and_new_ones_are_refused() {
    let mut harness = Harness::start().await;
    let mut open = in_background(&harness, "sleep 1500");
    harness.becomes(RUNNING, 1.0).await;
    harness.token.cancel();
    let started = Instant::now();
    while TcpStream::connect(harness.address).await.is_ok() {
        assert!(started.elapsed() < SOON, "still accepting");
    }
    assert_eq!(open.join_next().await.unwrap().unwrap().stdout(), "slept");
    harness.ended().await;
}

#[tokio::test]
async fn after_the_grace_period_the_rest_is_answered_503() {
    let mut harness =
        Harness::without_worker(|config| config.gateway.shutdown_grace_ms = 300).await;
    let mut open = in_background(&harness, "print never");
    harness.waiting(1.0).await;
    let started = Instant::now();
    harness.token.cancel();
    let answer = open.join_next().await.unwrap().unwrap();
    assert!(answer.error(503, "QUEUE_UNAVAILABLE").contains("shutting down"));
    harness.ended().await;
    assert!(started.elapsed() > Duration::from_millis(290), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_client_that_never_finishes_its_request_is_cut() {
    use tokio::io::AsyncWriteExt as _;
    let mut harness =
        Harness::without_worker(|config| config.gateway.shutdown_grace_ms = 100).await;
    let mut stuck = TcpStream::connect(harness.address).await.unwrap();
    let head = "POST /execute HTTP/1.1\r\nhost: x\r\nauthorization: test-key\r\n\
                content-length: 100\r\n\r\n{";
    stuck.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    harness.token.cancel();
    harness.ended().await;
}

#[tokio::test]
async fn two_gateways_share_a_process_and_a_queue() {
    let (one, other) = tokio::join!(Harness::start(), Harness::start());
    let (first, second) = tokio::join!(one.execute("print 1"), other.execute("print 2"));
    assert_eq!((first.stdout(), second.stdout()), ("1".into(), "2".into()));
    let counted = r#"isol8_http_requests_total{route="/execute",status="200"}"#;
    assert_eq!((one.metric(counted).await, other.metric(counted).await), (1.0, 1.0));
}
