//! Streams when clients, queue or gateway go away, and many of them at once.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::harness::{Harness, QUEUED, RUNNING};
use crate::sse::{configured, events, flood, harness, open, post, read_until, stream};
use crate::streamer::request;

#[tokio::test]
async fn lost_messages_are_made_up_for() {
    let harness = harness().await;
    let cut = async {
        for _ in 0..12 {
            sleep(Duration::from_millis(50)).await;
            harness.redis.command("CLIENT KILL TYPE pubsub");
        }
    };
    let steps: String = (0..60).map(|number| format!("out {number};wait 10;")).collect();
    let program = steps + "end exited 0";
    let (answer, ()) = tokio::join!(stream(&harness, &program), cut);
    let events = events(&answer.text);
    assert_eq!(flood(&events), (0..60).collect::<Vec<_>>());
    assert_eq!(events[60]["type"], "exit");
}

#[tokio::test]
async fn without_any_message_the_ending_still_comes_with_everything_before_it() {
    let harness = harness().await;
    stream(&harness, "out x").await;
    // Nobody may publish any more; what a script did before it tried stays.
    assert!(harness.redis.command("ACL SETUSER default resetchannels").starts_with("+OK"));
    let answer = stream(&harness, "flood 20 10;end exited 5").await;
    let events = events(&answer.text);
    assert_eq!(flood(&events[..20]), (0..20).collect::<Vec<_>>());
    assert_eq!(events[20], json!({"type": "exit", "data": "5", "phase": "code"}));
}

#[tokio::test]
async fn a_stream_outlives_a_restart_of_redis() {
    let mut harness = harness().await;
    let mut response = open(&harness, "out a;wait 700;out b;wait 200;out c").await;
    read_until(&mut response, "\"a\"").await;
    harness.redis.stop();
    sleep(Duration::from_millis(300)).await;
    harness.redis.start_again();
    let rest = read_until(&mut response, r#""exit""#).await;
    let data: Vec<_> = events(&rest).iter().map(|event| event["data"].clone()).collect();
    assert_eq!(data, ["b", "c", "0"]);
}

#[tokio::test]
async fn a_stream_ends_with_an_error_if_redis_stays_away() {
    let mut harness = harness().await;
    let mut body = request("out a;hang");
    body["request"]["timeoutMs"] = json!(1000);
    let request = harness.request(Method::POST, "/execute/stream").json(&body);
    let mut response = request.send().await.unwrap();
    read_until(&mut response, "\"a\"").await;
    harness.redis.stop();
    let rest = read_until(&mut response, "QUEUE_UNAVAILABLE").await;
    assert!(rest.contains("\"type\":\"error\""), "{rest}");
    assert!(response.chunk().await.unwrap().is_none(), "the stream goes on");
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_job() {
    let mut harness = Harness::without_worker(|_| {}).await;
    // One that waits in the queue,
    let response = open(&harness, "hang").await;
    harness.becomes(QUEUED, 1.0).await;
    drop(response);
    harness.becomes(QUEUED, 0.0).await;
    // and one that runs.
    harness.add_streamer().await;
    let mut response = open(&harness, "out a;hang").await;
    read_until(&mut response, "\"a\"").await;
    drop(response);
    harness.becomes(RUNNING, 0.0).await;
    harness.becomes("isol8_streams_open", 0.0).await;
}

#[tokio::test]
async fn a_client_may_leave_its_job_running() {
    let harness = configured(|config| config.gateway.cancel_on_disconnect = false).await;
    let mut response = open(&harness, "out a;hang").await;
    read_until(&mut response, "\"a\"").await;
    drop(response);
    harness.becomes("isol8_streams_open", 0.0).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(harness.metric(RUNNING).await, 1.0);
}

#[tokio::test]
async fn a_gateway_that_goes_says_so_and_cancels() {
    for cancels in [true, false] {
        let mut harness = configured(|config| {
            config.gateway.shutdown_grace_ms = 100;
            config.gateway.cancel_on_disconnect = cancels;
        })
        .await;
        let mut response = open(&harness, "out a;hang").await;
        read_until(&mut response, "\"a\"").await;
        harness.token.cancel();
        let last = read_until(&mut response, "shutting down").await;
        let fate = if cancels { "the job is cancelled" } else { "the job itself goes on" };
        assert!(last.contains(fate), "{last}");
        assert!(response.chunk().await.unwrap().is_none());
        harness.ended().await;
    }
}

#[tokio::test]
async fn a_stream_may_end_within_the_grace_period() {
    let mut harness = harness().await;
    let mut response = open(&harness, "out a;wait 400;out b").await;
    read_until(&mut response, "\"a\"").await;
    harness.token.cancel();
    let rest = read_until(&mut response, r#""exit""#).await;
    assert_eq!(events(&rest).len(), 2, "{rest}");
    harness.ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_idle_streams_come_and_go() {
    const COUNT: usize = 1000;
    let harness = Harness::without_worker(|config| config.gateway.heartbeat_ms = 500).await;
    let mut opening = JoinSet::new();
    for _ in 0..COUNT {
        let post = post(&harness, "out x");
        opening.spawn(async move { post.send().await.unwrap() });
    }
    let mut open = Vec::with_capacity(COUNT);
    while let Some(response) = opening.join_next().await {
        open.push(response.unwrap());
    }
    assert_eq!(harness.metric("isol8_streams_open").await, 1000.0);
    for response in &mut open {
        read_until(response, ": keepalive").await;
    }
    drop(open);
    harness.becomes("isol8_streams_open", 0.0).await;
    harness.becomes("isol8_execute_waiting", 0.0).await;
    harness.becomes(QUEUED, 0.0).await;
}
