//! Streams: which way they go, and what becomes of every way to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse as _;
use axum::routing::{get, post};
use client::{Client, ClientError, EventStream, EventType, Execution, StreamEvent};
use serde_json::{Value, json};
use shared::execution::Phase;
use tokio::task::JoinSet;

use crate::{program, serve};

/// What a stream brought, and how it ended.
async fn drain(mut events: EventStream) -> (Vec<StreamEvent>, Option<ClientError>) {
    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => seen.push(event),
            Err(error) => {
                assert!(events.next().await.is_none(), "nothing comes after an error");
                return (seen, Some(error));
            }
        }
    }
    (seen, None)
}

fn words(events: &[StreamEvent]) -> Vec<(EventType, &str)> {
    events.iter().map(|event| (event.kind, event.data.as_str())).collect()
}

async fn sse(status: u16, body: &'static str) -> (Client, JoinSet<()>) {
    let status = StatusCode::from_u16(status).unwrap();
    let router =
        Router::new().route("/execute/stream", post(move || async move { (status, body) }));
    let (host, tasks) = serve(router).await;
    (Client::new(&host, "k3y", None).unwrap(), tasks)
}

/// A server whose WebSocket says `frames`, then closes or, without a code, just hangs up.
async fn websocket(frames: &'static [&'static str], code: Option<u16>) -> (Client, JoinSet<()>) {
    let talk = move |mut socket: WebSocket| async move {
        let Some(Ok(Message::Text(asked))) = socket.recv().await else { return };
        assert_eq!(serde_json::from_str::<Value>(&asked).unwrap()["type"], "execute");
        for frame in frames {
            socket.send(Message::text(*frame)).await.unwrap();
        }
        if let Some(code) = code {
            let frame = CloseFrame { code, reason: "Execution complete".into() };
            socket.send(Message::Close(Some(frame))).await.unwrap();
            // The other side's goodbye comes without waiting for it to be dropped.
            assert!(matches!(socket.recv().await, Some(Ok(Message::Close(_)))));
        }
    };
    let upgrade = move |upgrade: WebSocketUpgrade| async move { upgrade.on_upgrade(talk) };
    let (host, tasks) = serve(Router::new().route("/execute/ws", get(upgrade))).await;
    (Client::new(&host, "k3y", None).unwrap(), tasks)
}

const HELLO: &str = "data: {\"type\":\"stdout\",\"data\":\"hi\\n\",\"phase\":\"code\"}\n\n: alive\n\n\
                     data: {\"type\":\"exit\",\"data\":\"0\",\"phase\":\"code\"}\n\n";

#[tokio::test]
async fn events_come_over_either_way() {
    let (client, _server) = sse(200, HELLO).await;
    let (events, error) = drain(client.execute_stream(&program()).await.unwrap()).await;
    assert!(error.is_none());
    assert_eq!(words(&events), [(EventType::Stdout, "hi\n"), (EventType::Exit, "0")]);
    assert_eq!(events[0].phase, Some(Phase::Code));

    let frames = &[
        r#"{"type":"stdout","data":"a","phase":"setup"}"#,
        r#"{"type":"exit","data":"0","phase":"setup"}"#,
        "not json",
        r#"{"type":"stderr","data":"b"}"#,
        r#"{"type":"error","data":"no","code":"INTERNAL"}"#,
    ];
    let (client, _server) = websocket(frames, Some(1000)).await;
    let (events, error) = drain(client.execute_stream(&program()).await.unwrap()).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(
        words(&events),
        [
            (EventType::Stdout, "a"),
            (EventType::Exit, "0"),
            (EventType::Stderr, "b"),
            (EventType::Error, "no")
        ]
    );
    assert_eq!(events[3].code.as_deref(), Some("INTERNAL"));
}

#[tokio::test]
async fn a_silent_end_is_an_error() {
    let only_setup = "data: {\"type\":\"exit\",\"data\":\"0\",\"phase\":\"setup\"}\n\n";
    for body in ["", "<html>", "data: {\"type\":\"stdout\",\"data\":\"x\"}\n\n", only_setup] {
        let (client, _server) = sse(200, body).await;
        let (_, error) = drain(client.execute_stream(&program()).await.unwrap()).await;
        assert!(matches!(error, Some(ClientError::StreamEnded { .. })), "{body}: {error:?}");
    }
    let (client, _server) = websocket(&[r#"{"type":"stdout","data":"x"}"#], Some(1011)).await;
    let (events, error) = drain(client.execute_stream(&program()).await.unwrap()).await;
    assert_eq!(words(&events), [(EventType::Stdout, "x")]);
    assert!(error.unwrap().to_string().contains("1011"));
    let (client, _server) = websocket(&[], None).await;
    let (_, error) = drain(client.execute_stream(&program()).await.unwrap()).await;
    assert!(error.is_some());
}

#[tokio::test]
async fn a_complaint_is_the_end_only_if_the_server_says_goodbye() {
    const COMPLAINT: &str = r#"{"type":"error","data":"Unknown message type: bogus"}"#;
    let (client, _server) = websocket(&[COMPLAINT], Some(1000)).await;
    let (_, error) = drain(client.execute_stream(&program()).await.unwrap()).await;
    assert!(error.is_none(), "{error:?}");
    let (client, _server) = websocket(&[COMPLAINT], None).await;
    let (events, error) = drain(client.execute_stream(&program()).await.unwrap()).await;
    assert!(error.is_some() && !events[0].is_last());
    let frames = &[COMPLAINT, r#"{"type":"stdout","data":"x"}"#];
    let (client, _server) = websocket(frames, Some(1011)).await;
    let (_, error) = drain(client.execute_stream(&program()).await.unwrap()).await;
    assert!(error.unwrap().to_string().contains("1011"));
}

#[tokio::test]
async fn a_setup_script_that_failed_is_an_end() {
    let body = "data: {\"type\":\"exit\",\"data\":\"9\",\"phase\":\"setup\"}\n\n";
    let (client, _server) = sse(200, body).await;
    let (events, error) = drain(client.execute_stream(&program()).await.unwrap()).await;
    assert!(error.is_none() && events.len() == 1);
}

#[tokio::test]
async fn a_refusal_speaks_the_servers_words() {
    let (client, _server) = sse(403, r#"{"error":"Invalid API key","code":"FORBIDDEN"}"#).await;
    let error = client.execute_stream(&program()).await.err().unwrap();
    assert_eq!(error.to_string(), "Stream failed: Invalid API key");
    assert_eq!((error.status(), error.code()), (Some(403), Some("FORBIDDEN")));
}

/// A server that counts how often each way was tried.
async fn counting(websocket_works: bool) -> (Client, [Arc<AtomicUsize>; 2], JoinSet<()>) {
    let [tried, streamed] = [Arc::<AtomicUsize>::default(), Arc::default()];
    let (count_tried, count_streamed) = (Arc::clone(&tried), Arc::clone(&streamed));
    let upgrade = move |upgrade: WebSocketUpgrade| async move {
        count_tried.fetch_add(1, Ordering::Relaxed);
        if !websocket_works {
            return StatusCode::UPGRADE_REQUIRED.into_response();
        }
        upgrade.on_upgrade(|mut socket| async move {
            let _asked = socket.recv().await;
            let exit = r#"{"type":"exit","data":"0"}"#;
            // The client may be gone; that is its business.
            let _ = socket.send(Message::text(exit)).await;
        })
    };
    let stream = move || async move {
        count_streamed.fetch_add(1, Ordering::Relaxed);
        HELLO
    };
    let router =
        Router::new().route("/execute/ws", get(upgrade)).route("/execute/stream", post(stream));
    let (host, tasks) = serve(router).await;
    (Client::new(&host, "k3y", None).unwrap(), [tried, streamed], tasks)
}

async fn run_to_the_end(client: &Client, execution: &Execution) {
    let (_, error) = drain(client.execute_stream(execution).await.unwrap()).await;
    assert!(error.is_none(), "{error:?}");
}

#[tokio::test]
async fn what_works_is_remembered_by_every_clone() {
    for (works, expected) in [(true, [3, 0]), (false, [1, 3])] {
        let (client, counts, _server) = counting(works).await;
        for _ in 0..3 {
            run_to_the_end(&client.clone(), &program()).await;
        }
        assert_eq!(counts.map(|count| count.load(Ordering::Relaxed)), expected);
    }
}

#[tokio::test]
async fn a_session_goes_over_sse() {
    let (client, counts, _server) = counting(true).await;
    let execution = Execution { session_id: Some("mine".into()), ..program() };
    run_to_the_end(&client, &execution).await;
    // An empty name is none.
    let execution = Execution { session_id: Some(String::new()), ..program() };
    run_to_the_end(&client, &execution).await;
    assert_eq!(counts.map(|count| count.load(Ordering::Relaxed)), [1, 1]);
}

#[tokio::test]
async fn a_running_program_can_be_talked_to() {
    let talk = |mut socket: WebSocket| async move {
        let mut heard = Vec::new();
        while heard.len() < 4 {
            let Some(Ok(Message::Text(text))) = socket.recv().await else { return };
            heard.push(serde_json::from_str::<Value>(&text).unwrap());
        }
        let data = Value::Array(heard).to_string();
        for event in [json!({"type": "stdout", "data": data}), json!({"type": "exit", "data": "0"})]
        {
            socket.send(Message::text(event.to_string())).await.unwrap();
        }
    };
    let upgrade = move |headers: HeaderMap, upgrade: WebSocketUpgrade| async move {
        assert_eq!(headers["authorization"], "Bearer k3y");
        upgrade.on_upgrade(talk)
    };
    let (host, _server) = serve(Router::new().route("/execute/ws", get(upgrade))).await;
    let client = Client::new(&host, "k3y", Some("mine".into())).unwrap();
    let (events, mut input) = client.execute_interactive(&program()).await.unwrap();
    input.stdin("line\n").await.unwrap();
    input.signal("SIGINT").await.unwrap();
    input.end_stdin().await.unwrap();
    let (events, error) = drain(events).await;
    assert!(error.is_none(), "{error:?}");
    let heard: Value = serde_json::from_str(&events[0].data).unwrap();
    assert_eq!(
        heard,
        json!([
            {"type": "execute", "interactive": true, "options": {}, "sessionId": "mine",
                "request": {"runtime": "python", "code": "print(7)"}},
            {"type": "stdin", "data": "line\n"},
            {"type": "signal", "signal": "SIGINT"},
            {"type": "stdin_end"},
        ])
    );
}

#[tokio::test]
async fn a_server_that_is_gone_is_an_error() {
    let client = Client::new("http://127.0.0.1:1", "k3y", None).unwrap();
    let error = client.execute_stream(&program()).await.err().unwrap();
    assert!(matches!(error, ClientError::Unreachable { .. }));
}
