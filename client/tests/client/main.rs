//! The client against small HTTP servers that answer as an isol8 server would.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod management;
mod streams;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use bytes::Bytes;
use client::{Client, ClientError, Execution};
use serde_json::{Value, json};
use shared::execution::ExecutionRequest;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A server on a port of its own; it stops when the `JoinSet` is dropped.
pub(crate) async fn serve(router: Router) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = format!("http://{}", listener.local_addr().unwrap());
    let service = router.into_make_service_with_connect_info::<std::net::SocketAddr>();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, service).await.unwrap() });
    (host, tasks)
}

async fn answer(status: u16, body: &'static str) -> (Client, JoinSet<()>) {
    let status = StatusCode::from_u16(status).unwrap();
    let router = Router::new()
        .route("/execute", post(move || async move { (status, body) }))
        .route("/health", get(move || async move { (status, body) }));
    let (host, tasks) = serve(router).await;
    (Client::new(&host, "k3y", None).unwrap(), tasks)
}

pub(crate) fn program() -> Execution {
    Execution {
        request: ExecutionRequest {
            runtime: "python".into(),
            code: Some("print(7)".into()),
            ..ExecutionRequest::default()
        },
        ..Execution::default()
    }
}

const RESULT: &str = r#"{"stdout":"7","stderr":"","exitCode":1,"durationMs":3,"truncated":false,
    "executionId":"01936d7f-0000-7000-8000-000000000000","runtime":"python",
    "timestamp":"2026-01-01T00:00:00Z","containerId":"c","outcome":"exited","later":[1],
    "timings":{"queueMs":0,"sandboxMs":0,"cold":false,"setupMs":0,"runMs":0,"collectMs":0}}"#;

#[tokio::test]
async fn a_failing_program_is_a_result() {
    let (client, _server) = answer(200, RESULT).await;
    let result = client.execute(&program()).await.unwrap();
    assert_eq!((result.exit_code, result.stdout.as_str()), (1, "7"));
    assert_eq!(result.more["later"], json!([1]));
    // What isol8's own server sends, which knows less.
    let (client, _server) = answer(200, r#"{"stdout":"","stderr":"e","exitCode":0}"#).await;
    assert_eq!(client.execute(&program()).await.unwrap().stderr, "e");
}

#[tokio::test]
async fn errors_speak_the_contracts_words() {
    for (status, body, text, code) in [
        (500, r#"{"error":"no such image"}"#, "Execution failed: no such image", None),
        (
            400,
            r#"{"error":"bad","code":"INVALID_REQUEST"}"#,
            "Execution failed: bad",
            Some("INVALID_REQUEST"),
        ),
        (502, "<html>", "Execution failed: Bad Gateway", None),
        (500, "Internal Server Error", "Execution failed: Internal Server Error", None),
    ] {
        let (client, _server) = answer(status, body).await;
        let error = client.execute(&program()).await.unwrap_err();
        assert_eq!((error.to_string().as_str(), error.code()), (text, code));
    }
}

#[tokio::test]
async fn a_stranger_is_told_from_a_server() {
    let (client, _server) = answer(200, "<html>").await;
    assert!(matches!(client.execute(&program()).await, Err(ClientError::Response(_))));
}

#[tokio::test]
async fn health_tells_up_from_down_from_gone() {
    let (client, _server) = answer(200, "{}").await;
    client.health().await.unwrap();
    let (client, server) = answer(503, "{}").await;
    let error = client.health().await.unwrap_err();
    assert_eq!(error.to_string(), "Remote server health check failed: 503");
    drop(server);
    // Nobody listens there.
    let gone = Client::new("http://127.0.0.1:1", "k3y", None).unwrap();
    let error = gone.health().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }));
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn what_goes_over_the_wire() {
    let echo = |headers: HeaderMap, body: Bytes| async move {
        let text = |name: &str| headers[name].to_str().unwrap().to_owned();
        let body: Value = serde_json::from_slice(&body).unwrap();
        json!({"stdout": "", "stderr": "", "exitCode": 0, "key": text("authorization"),
            "type": text("content-type"), "body": body})
        .to_string()
    };
    let (host, _server) = serve(Router::new().route("/execute", post(echo))).await;
    let slashed = format!("{host}/");
    let client = Client::new(&slashed, "k3y", Some("mine".into())).unwrap();
    assert_eq!(client.host(), host);
    let mut execution = program();
    execution.more_request.insert("codeHash".into(), json!("ff"));
    execution.more_options.insert("mode".into(), json!("ephemeral"));
    let seen = client.execute(&execution).await.unwrap().more;
    assert_eq!(
        Value::Object(seen),
        json!({
            "key": "Bearer k3y",
            "type": "application/json",
            "body": {
                "request": {"runtime": "python", "code": "print(7)", "codeHash": "ff"},
                "options": {"mode": "ephemeral"},
                "sessionId": "mine",
            },
        })
    );
}

#[tokio::test]
async fn a_connection_is_used_again_by_every_clone() {
    let ports = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&ports);
    let note = move |ConnectInfo(from): ConnectInfo<std::net::SocketAddr>| async move {
        // Counts changes of the client's port, that is, connections.
        if seen.swap(from.port().into(), Ordering::Relaxed) != usize::from(from.port()) {
            (StatusCode::OK, "new")
        } else {
            (StatusCode::OK, "same")
        }
    };
    let (host, _server) = serve(Router::new().route("/execute", post(note))).await;
    let client = Client::new(&host, "k3y", None).unwrap();
    let (_, first) = client.post_execute(Bytes::from_static(b"{}")).await.unwrap();
    assert_eq!(first, "new");
    for _ in 0..20 {
        let (status, again) = client.clone().post_execute(Bytes::new()).await.unwrap();
        assert_eq!((status, &again[..]), (200, &b"same"[..]));
    }
}

#[test]
fn nonsense_is_refused_at_once() {
    for host in ["", "localhost:3000", "ftp://host", "http://"] {
        let error = Client::new(host, "k", None).err().unwrap();
        assert!(matches!(error, ClientError::InvalidHost { .. }), "{host}: {error}");
    }
    let error = Client::new("http://h", "new\nline", None).err().unwrap();
    assert!(matches!(error, ClientError::InvalidKey));
}

#[tokio::test]
async fn https_speaks_tls_and_nothing_else() {
    use tokio::io::AsyncReadExt as _;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = format!("https://{}", listener.local_addr().unwrap());
    let client = Client::new(&host, "k3y", None).unwrap();
    let first_byte = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap()
    };
    let (health, first_byte) = tokio::join!(client.health(), first_byte);
    // 22 opens a TLS handshake; the peer then hangs up.
    assert_eq!(first_byte, 22);
    assert!(matches!(health, Err(ClientError::Unreachable { .. })));
}
