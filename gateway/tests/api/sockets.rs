//! `GET /execute/ws`: what is said, in which order, and how conversations end.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::harness::{Harness, KEY, SOON, send};
use crate::socket::{Socket, complaint, exit, out};

async fn harness() -> Harness {
    let mut harness = Harness::without_worker(|_| {}).await;
    harness.add_streamer().await;
    harness
}

#[tokio::test]
async fn an_execution_is_told_and_the_socket_closes() {
    let harness = harness().await;
    let mut socket = Socket::open(&harness).await;
    socket.execute("setup s;ready;out a;err é;end exited 3").await;
    let Message::Text(first) = socket.hear().await else { panic!("no text frame") };
    assert_eq!(first.as_str(), r#"{"type":"stdout","data":"s","phase":"setup"}"#);
    let expected = [
        json!({"type": "exit", "data": "0", "phase": "setup"}),
        out("a"),
        json!({"type": "stderr", "data": "é", "phase": "code"}),
        exit("3"),
    ];
    assert_eq!(socket.completion().await, expected);
    harness.becomes("isol8_streams_open", 0.0).await;
}

#[tokio::test]
async fn failures_are_told_and_the_socket_closes_too() {
    let harness = harness().await;
    for (message, expected) in [
        (json!({"request": {"runtime": "cobol", "code": "x"}}), "Unknown runtime: \"cobol\""),
        (json!({"request": {"runtime": "bash", "code": "x", "cmd": "y"}}), "mutually exclusive"),
        (json!({"request": {"runtime": 5}}), "request.runtime: "),
        (json!({"request": {"runtime": "bash", "code": "fail SANDBOX_FAILED"}}), "SANDBOX_FAILED"),
    ] {
        let mut message = message;
        message["type"] = json!("execute");
        let mut socket = Socket::open(&harness).await;
        socket.say_json(message).await;
        let events = socket.completion().await;
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!((&events[0]["type"], events[0].get("phase")), (&json!("error"), None));
        assert!(events[0]["data"].as_str().unwrap().contains(expected), "{events:?}");
        assert!(events[0]["code"].is_string(), "{events:?}");
    }
}

#[tokio::test]
async fn keys_are_checked_before_the_upgrade() {
    let harness = harness().await;
    for (key, status, text) in
        [(None, 401, "Missing Authorization header"), (Some("no"), 403, "Invalid API key")]
    {
        match Socket::connect(harness.address, key).await {
            Err(Error::Http(response)) => {
                let body: Value =
                    serde_json::from_slice(response.body().as_ref().unwrap()).unwrap();
                assert_eq!((response.status().as_u16(), &body["error"]), (status, &json!(text)));
            }
            other => panic!("{:?}", other.err()),
        }
    }
    send(harness.request(Method::GET, "/execute/ws")).await.error(404, "NOT_FOUND");
    send(harness.anonymous(Method::GET, "/execute/ws")).await.error(401, "UNAUTHENTICATED");
    let half = harness.request(Method::GET, "/execute/ws").header("upgrade", "websocket");
    send(half).await.error(400, "INVALID_REQUEST");
}

#[tokio::test]
async fn what_is_no_json_ends_the_conversation() {
    let harness = harness().await;
    let messages =
        [Message::text("not json"), Message::text(""), Message::binary(b"{\"type\":1}".to_vec())];
    for message in messages {
        let mut socket = Socket::open(&harness).await;
        socket.say(message).await;
        let expected = vec![complaint("Invalid JSON message")];
        assert_eq!(socket.rest().await, (expected, 1003, "Invalid JSON".into()));
    }
}

#[tokio::test]
async fn what_is_not_understood_is_answered_and_the_socket_stays() {
    let harness = harness().await;
    let mut socket = Socket::open(&harness).await;
    for (message, answer) in [
        (r#"{"type":"bogus"}"#, "Unknown message type: bogus"),
        ("{}", "Unknown message type: undefined"),
        ("null", "Unknown message type: undefined"),
        (r#"{"type":"execute"}"#, "execute: missing field `request`"),
        (r#"{"type":"signal","signal":"SIGSTOP"}"#, "Unknown signal: SIGSTOP."),
    ] {
        socket.say(message).await;
        let event = socket.event().await;
        assert!(event["data"].as_str().unwrap().starts_with(answer), "{event}");
        assert_eq!(event["type"], "error");
    }
    // Taken and ignored, as by isol8.
    socket.say_json(json!({"type": "stdin", "data": "x"})).await;
    socket.say_json(json!({"type": "signal", "signal": "SIGINT"})).await;
    socket.execute("out a").await;
    assert_eq!(socket.completion().await, [out("a"), exit("0")]);
}

#[tokio::test]
async fn one_execution_at_a_time() {
    let harness = harness().await;
    let mut socket = Socket::open(&harness).await;
    socket.execute("out a;wait 300;out b").await;
    assert_eq!(socket.event().await, out("a"));
    socket.execute("out never").await;
    let words = "An execution is already running on this connection";
    assert_eq!(socket.event().await, complaint(words));
    assert_eq!(socket.completion().await, [out("b"), exit("0")]);
}

#[tokio::test]
async fn input_and_signals_reach_the_program() {
    let harness = harness().await;
    let mut socket = Socket::open(&harness).await;
    socket.execute_with("echo", json!({"interactive": true})).await;
    assert_eq!(socket.event().await, out("open"));
    socket.say_json(json!({"type": "stdin", "data": "one\n"})).await;
    assert_eq!(socket.event().await, out("one\n"));
    socket.say_json(json!({"type": "stdin", "data": "two", "eof": true})).await;
    assert_eq!(socket.completion().await, [out("two"), exit("0")]);

    // Signals need no open input, and isol8's message is enough to send one.
    let mut socket = Socket::open(&harness).await;
    socket.execute("echo").await;
    assert_eq!(socket.event().await, out("closed"));
    socket.say_json(json!({"type": "stdin", "data": "x"})).await;
    let event = socket.event().await;
    assert!(event["data"].as_str().unwrap().contains("\"interactive\": true"), "{event}");
    socket.say_json(json!({"type": "signal", "signal": "SIGINT"})).await;
    assert_eq!(socket.completion().await, [exit("130")]);

    // Input that comes before the program is ignored, and opens nothing.
    let mut socket = Socket::open(&harness).await;
    socket.say_json(json!({"type": "stdin", "data": "early"})).await;
    socket.say_json(json!({"type": "stdin_end"})).await;
    socket.execute("echo").await;
    assert_eq!(socket.event().await, out("closed"));
    socket.say_json(json!({"type": "signal", "signal": "SIGTERM"})).await;
    assert_eq!(socket.completion().await, [exit("143")]);
}

/// Waits until so many inputs of the only job lie in the queue.
async fn inputs_wait(harness: &Harness, expected: usize) {
    let started = Instant::now();
    let count = || {
        let keys = harness.redis.command("KEYS v1:{s0}:in:*");
        let key = keys.lines().find(|line| line.starts_with("v1:"))?;
        harness.redis.command(&format!("XLEN {key}")).trim_start_matches(':').trim().parse().ok()
    };
    while count() != Some(expected) {
        assert!(started.elapsed() < SOON, "{:?} inputs wait, not {expected}", count());
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_signal_does_not_wait_behind_input_that_finds_no_room() {
    let mut harness = Harness::without_worker(|_| {}).await;
    let mut socket = Socket::open(&harness).await;
    socket.execute_with("echo", json!({"interactive": true})).await;
    // Six more than may wait in the queue; nobody takes any yet.
    for _ in 0..70 {
        socket.say_json(json!({"type": "stdin", "data": "x"})).await;
    }
    socket.say_json(json!({"type": "signal", "signal": "SIGINT"})).await;
    inputs_wait(&harness, 65).await;
    harness.add_streamer().await;
    let events = socket.completion().await;
    let told = events.iter().filter(|event| **event == out("x")).count();
    assert_eq!((told, events.last()), (64, Some(&exit("130"))));
}

#[tokio::test]
async fn too_large_a_message_closes_with_a_code_of_its_own() {
    let harness = Harness::without_worker(|config| config.gateway.max_body_bytes = 1000).await;
    let mut socket = Socket::open(&harness).await;
    socket.say(" ".repeat(1001)).await;
    let (events, code, reason) = socket.rest().await;
    assert_eq!((events.len(), code, reason.as_str()), (1, 1009, "Message too large"));
}

#[tokio::test]
async fn much_input_waits_its_turn() {
    const PIECES: usize = 200;
    let mut harness = Harness::without_worker(|_| {}).await;
    let mut socket = Socket::open(&harness).await;
    socket.execute_with("echo", json!({"interactive": true})).await;
    // More than may wait in the queue; nobody takes any yet.
    for number in 0..PIECES {
        socket.say_json(json!({"type": "stdin", "data": format!("{number} ")})).await;
    }
    socket.say_json(json!({"type": "stdin", "eof": true})).await;
    inputs_wait(&harness, 64).await;
    harness.add_streamer().await;
    let events = socket.completion().await;
    let data: String = events[1..=PIECES].iter().map(|it| it["data"].as_str().unwrap()).collect();
    let expected: String = (0..PIECES).map(|number| format!("{number} ")).collect();
    assert_eq!(data, expected);
}

#[tokio::test]
async fn persistent_without_a_session_is_run_and_told() {
    let harness = harness().await;
    let mut socket = Socket::open(&harness).await;
    socket.execute_with("out a", json!({"options": {"mode": "persistent"}})).await;
    let events = socket.completion().await;
    assert_eq!(events[1..], [out("a"), exit("0")]);
    assert_eq!((&events[0]["type"], &events[0]["phase"]), (&json!("stderr"), &json!("code")));
    let text = events[0]["data"].as_str().unwrap();
    assert!(text.starts_with("[isol8] No session was kept: "), "{text}");
    assert!(text.contains("--no-stream") && text.contains("sessionId"), "{text}");
}

#[tokio::test]
async fn sockets_count_as_streams() {
    let harness = Harness::without_worker(|config| config.gateway.max_streams = 1).await;
    let one = Socket::open(&harness).await;
    match Socket::connect(harness.address, Some(KEY)).await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 429),
        other => panic!("{:?}", other.err()),
    }
    drop(one);
    harness.becomes("isol8_streams_open", 0.0).await;
    harness.becomes(r#"isol8_queue_jobs{state="queued"}"#, 0.0).await;
}

#[tokio::test]
async fn no_tenant_takes_all_streams() {
    let harness = Harness::without_worker(|config| {
        config.auth.enabled = true;
        config.gateway.max_streams = 2;
    })
    .await;
    let (greedy, modest) = (harness.key_of("greedy").await, harness.key_of("modest").await);
    let _held = Socket::connect(harness.address, Some(&greedy)).await.unwrap();
    match Socket::connect(harness.address, Some(&greedy)).await {
        Err(Error::Http(response)) => {
            let body: Value = serde_json::from_slice(response.body().as_ref().unwrap()).unwrap();
            assert_eq!((response.status().as_u16(), &body["code"]), (429, &json!("QUEUE_FULL")));
            assert_eq!(response.headers()["retry-after"], "1");
        }
        other => panic!("{:?}", other.err()),
    }
    assert!(Socket::connect(harness.address, Some(&modest)).await.is_ok());
}
