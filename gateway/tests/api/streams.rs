//! `POST /execute/stream`: framing, every sequence of events, slow readers, sessions.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Harness, KEY, send};
use crate::sse::{configured, events, flood, harness, open, post, read_until, stream};
use crate::streamer::request;

#[tokio::test]
async fn the_framing_is_the_contracts() {
    let harness = harness().await;
    let answer = stream(&harness, "out a\n;err é \"q\";end exited 3").await;
    assert_eq!(answer.header("content-type"), "text/event-stream");
    assert_eq!(answer.header("cache-control"), "no-cache");
    assert_eq!(answer.header("connection"), "keep-alive");
    assert_eq!(answer.header("x-accel-buffering"), "no");
    assert_eq!(
        answer.text,
        "data: {\"type\":\"stdout\",\"data\":\"a\\n\",\"phase\":\"code\"}\n\n\
         data: {\"type\":\"stderr\",\"data\":\"é \\\"q\\\"\",\"phase\":\"code\"}\n\n\
         data: {\"type\":\"exit\",\"data\":\"3\",\"phase\":\"code\"}\n\n"
    );
    assert_eq!(harness.metric("isol8_stream_catch_ups_total").await, 0.0);
    harness.becomes("isol8_streams_open", 0.0).await;
}

#[tokio::test]
async fn every_sequence_is_the_contracts() {
    let harness = harness().await;
    let out = json!({"type": "stdout", "data": "x", "phase": "code"});
    let setup = json!({"type": "stdout", "data": "s", "phase": "setup"});
    let exit = |code: &str, phase: &str| json!({"type": "exit", "data": code, "phase": phase});
    let error = |text: &str, phase: &str| json!({"type": "error", "data": text, "phase": phase});
    for (program, expected) in [
        ("out x;end exited 0", vec![out.clone(), exit("0", "code")]),
        (
            "setup s;ready;out x;end exited 0",
            vec![setup.clone(), exit("0", "setup"), out.clone(), exit("0", "code")],
        ),
        (
            "setup s;setup-fails 3",
            vec![setup, error("Setup script failed (exit code 3)", "setup"), exit("3", "setup")],
        ),
        ("setup-times-out", vec![error("SETUP SCRIPT TIMED OUT", "setup"), exit("137", "setup")]),
        (
            "out x;end timed_out 137",
            vec![out.clone(), error("EXECUTION TIMED OUT", "code"), exit("137", "code")],
        ),
        ("end cancelled 137", vec![error("Execution cancelled", "code"), exit("137", "code")]),
        ("end out_of_memory 137", vec![exit("137", "code")]),
        (
            "out x;fail WORKER_LOST",
            vec![out, json!({"type": "error", "data": "WORKER_LOST", "code": "WORKER_LOST"})],
        ),
    ] {
        assert_eq!(events(&stream(&harness, program).await.text), expected, "{program}");
    }
}

#[tokio::test]
async fn mistakes_are_answers_not_streams() {
    let harness = configured(|config| config.gateway.max_streams = 1).await;
    let send_text =
        |body: &str| send(harness.request(Method::POST, "/execute/stream").body(body.to_owned()));
    send_text("{").await.error(400, "INVALID_JSON");
    send_text("{}").await.error(400, "INVALID_REQUEST");
    let cobol = r#"{"request":{"runtime":"cobol","code":"x"}}"#;
    assert!(send_text(cobol).await.error(400, "INVALID_REQUEST").contains("Unknown runtime"));
    let get = send(harness.request(Method::GET, "/execute/stream")).await;
    get.error(405, "METHOD_NOT_ALLOWED");
    let anonymous = send(harness.anonymous(Method::POST, "/execute/stream")).await;
    anonymous.error(401, "UNAUTHENTICATED");

    let one = open(&harness, "hang").await;
    let another = send(post(&harness, "out x")).await;
    assert!(another.error(429, "QUEUE_FULL").contains("gateway.maxStreams"));
    assert_ne!(another.header("retry-after"), "");
    drop(one);
    harness.becomes("isol8_streams_open", 0.0).await;
    stream(&harness, "out x").await;
}

#[tokio::test]
async fn events_come_while_the_program_runs_and_silence_is_filled() {
    let harness = configured(|config| config.gateway.heartbeat_ms = 50).await;
    let mut response = open(&harness, "out first;wait 2000;out second").await;
    let first = read_until(&mut response, "first").await;
    assert!(!first.contains("second"));
    let rest = read_until(&mut response, r#""exit""#).await;
    assert!(rest.contains(": keepalive\n\n"), "{rest}");
    assert_eq!(events(&rest).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_misses_nothing() {
    let harness = harness().await;
    // Far more than mailbox and sockets hold.
    let mut response = open(&harness, "flood 3000 8000;out end").await;
    harness.becomes(r#"isol8_queue_jobs{state="running"}"#, 0.0).await;
    let text = read_until(&mut response, r#""exit""#).await;
    let events = events(&text);
    assert_eq!(flood(&events[..3000]), (0..3000).collect::<Vec<_>>());
    assert_eq!(events.len(), 3002);
    assert!(harness.metric("isol8_stream_catch_ups_total").await > 0.0, "it was not slow at all");
    assert_eq!(harness.metric("isol8_stream_gaps_total").await, 0.0);
}

#[tokio::test]
async fn what_cannot_be_had_is_told_in_its_place() {
    let harness = harness().await;
    let answer = stream(&harness, "out a;lose 2;out b;lose 1").await;
    let events = events(&answer.text);
    let data: Vec<_> = events.iter().map(|event| event["data"].as_str().unwrap()).collect();
    assert_eq!((data[0], data[2], data[4]), ("a", "b", "0"), "{data:?}");
    assert!(data[1].starts_with("[isol8] output is missing here: 2 pieces"), "{data:?}");
    assert!(data[3].starts_with("[isol8] output is missing here: 1 piece "), "{data:?}");
    assert_eq!((&events[1]["type"], &events[1]["phase"]), (&json!("stderr"), &json!("code")));
    assert_eq!(harness.metric("isol8_stream_gaps_total").await, 2.0);
}

#[tokio::test]
async fn any_gateway_will_do_and_each_has_its_own_streams() {
    let mut harness = harness().await;
    let other = harness.add_gateway().await;
    let http = reqwest::Client::new();
    let at_other = async {
        let url = format!("http://{other}/execute/stream");
        let program = request("out other;wait 50;out again");
        let post = http.post(url).header("authorization", KEY).json(&program);
        post.send().await.unwrap().text().await.unwrap()
    };
    let (one, other) = tokio::join!(stream(&harness, "out one;wait 50;out more"), at_other);
    let data =
        |text: &str| events(text).iter().map(|event| event["data"].clone()).collect::<Vec<Value>>();
    assert_eq!(data(&one.text), ["one", "more", "0"]);
    assert_eq!(data(&other), ["other", "again", "0"]);
}

#[tokio::test]
async fn a_session_can_be_streamed() {
    let mut harness = Harness::without_worker(|_| {}).await;
    harness.add_keeper().await;
    for _ in 0..2 {
        let mut body = request("print x");
        body["sessionId"] = json!("s");
        let post = harness.request(Method::POST, "/execute/stream").json(&body);
        let answer = send(post).await;
        assert_eq!(events(&answer.text).last().unwrap()["type"], "exit", "{answer:?}");
    }
    let sessions = send(harness.request(Method::GET, "/sessions")).await.json();
    assert_eq!(sessions["sessions"][0]["id"], "s", "{sessions}");
    // Over the buffered route too, and with its error where a session cannot be.
    let mut body = request("print y");
    body["sessionId"] = json!("s");
    assert_eq!(harness.post(body.to_string()).await.stdout(), "y");
    body["request"]["runtime"] = json!("python");
    let refused = send(harness.request(Method::POST, "/execute/stream").json(&body)).await;
    assert!(refused.error(400, "INVALID_REQUEST").contains("Cannot switch runtime"));
}
