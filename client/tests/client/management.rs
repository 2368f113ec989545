//! Sessions, files and keys: what is asked, and what is made of the answers.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use bytes::Bytes;
use client::{Client, ClientError, NewKey, SessionNetwork};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::serve;

/// Method and address, and the body, of each request.
type Heard = Arc<Mutex<Vec<(String, String)>>>;

/// A server that answers everything with `answer`.
async fn always(status: u16, answer: &'static str) -> (Client, Heard, JoinSet<()>) {
    let heard = Heard::default();
    let note = Arc::clone(&heard);
    let status = StatusCode::from_u16(status).unwrap();
    let router = Router::new().fallback(move |request: Request| async move {
        let what = format!("{} {}", request.method(), request.uri());
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
        note.lock().unwrap().push((what, String::from_utf8(body.to_vec()).unwrap()));
        (status, answer).into_response()
    });
    let (host, tasks) = serve(router).await;
    (Client::new(&host, "k3y", Some("a/b c".into())).unwrap(), heard, tasks)
}

fn last(heard: &Heard) -> (String, Value) {
    let (what, body) = heard.lock().unwrap().pop().unwrap();
    (what, serde_json::from_str(&body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn sessions() {
    let answer = r#"{"sessions":[{"id":"x","isActive":false,"lastAccessedAt":"2026-03-04T10:11:12.345Z","runtime":"bash"}]}"#;
    let (client, heard, _server) = always(200, answer).await;
    let sessions = client.list_sessions().await.unwrap();
    assert_eq!((sessions[0].id.as_str(), sessions[0].is_active), ("x", false));
    assert_eq!(sessions[0].more["runtime"], "bash");
    assert_eq!(last(&heard).0, "GET /sessions");
    client.delete_session("a/b ?#").await.unwrap();
    assert_eq!(last(&heard).0, "DELETE /session/a%2Fb%20%3F%23");

    let answer = r#"{"mode":"none","whitelist":[],"blacklist":["a"]}"#;
    let (client, heard, _server) = always(200, answer).await;
    let change = SessionNetwork { blacklist: Some(vec!["a".into()]), ..SessionNetwork::default() };
    let network = client.set_session_network("a/b", &change).await.unwrap();
    assert_eq!((network.mode.as_deref(), network.whitelist), (Some("none"), Some(vec![])));
    let sent = ("PATCH /v1/sessions/a%2Fb/network".to_owned(), json!({"blacklist": ["a"]}));
    assert_eq!(last(&heard), sent);

    let (client, _, _server) = always(503, r#"{"error":"down"}"#).await;
    let error = client.list_sessions().await.unwrap_err();
    assert_eq!(error.to_string(), "Failed to list sessions: down");
    let error = client.delete_session("x").await.unwrap_err();
    assert_eq!(error.to_string(), "Failed to delete session: down");
}

#[tokio::test]
async fn small_files() {
    let (client, heard, _server) = always(200, r#"{"content":"AP8="}"#).await;
    client.put_file("/sandbox/x", &[0, 255]).await.unwrap();
    let (what, body) = last(&heard);
    assert_eq!(what, "POST /file");
    assert_eq!(body, json!({"sessionId": "a/b c", "path": "/sandbox/x", "content": "AP8="}));
    assert_eq!(client.get_file("/sandbox/x").await.unwrap(), [0, 255]);
    assert_eq!(last(&heard).0, "GET /file?sessionId=a%2Fb+c&path=%2Fsandbox%2Fx");

    let (client, _, _server) = always(404, "nothing").await;
    let error = client.put_file("x", b"").await.unwrap_err();
    assert_eq!(error.to_string(), "File upload failed: Not Found");
    let error = client.get_file("x").await.unwrap_err();
    assert_eq!(error.to_string(), "File download failed: Not Found");
    let (client, _, _server) = always(200, r#"{"content":"?"}"#).await;
    assert!(matches!(client.get_file("x").await, Err(ClientError::Content(_))));

    let alone = Client::new("http://127.0.0.1:1", "k", None).unwrap();
    let error = alone.put_file("x", b"").await.unwrap_err();
    assert_eq!(error.to_string(), "File operations require a sessionId (persistent mode)");
    assert!(matches!(alone.get_file("x").await, Err(ClientError::NoSession)));
}

#[tokio::test]
async fn streamed_files() {
    let (client, heard, _server) = always(200, "content").await;
    let pieces = ["ab", "c"].map(|piece| Ok(Bytes::from_static(piece.as_bytes())));
    let pieces = futures_util::stream::iter(pieces);
    client.upload("a/b", "/x y", 0o100_755, 3, pieces).await.unwrap();
    let (what, body) = heard.lock().unwrap().pop().unwrap();
    assert_eq!(what, "PUT /v1/sessions/a%2Fb/files?path=%2Fx+y&mode=0755");
    assert_eq!(body, "abc");

    let mut download = client.download("s", "/x").await.unwrap();
    assert_eq!(download.size_bytes, Some(7));
    let mut content = Vec::new();
    while let Some(piece) = download.next().await {
        content.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(content, b"content");
    assert_eq!(last(&heard).0, "GET /v1/sessions/s/files?path=%2Fx");
    client.remove_file("s", "/x").await.unwrap();
    assert_eq!(last(&heard).0, "DELETE /v1/sessions/s/files?path=%2Fx");

    let broken = futures_util::stream::iter([Err(std::io::Error::other("disk"))]);
    assert!(client.upload("s", "/x", 0o644, 3, broken).await.is_err());

    let answer = r#"{"path":"/d","truncated":true,"entries":[{"name":"f","type":"file",
        "sizeBytes":3,"mode":"0644","modifiedAt":"2026-01-01T00:00:00.000Z"}]}"#;
    let (client, heard, _server) = always(200, answer).await;
    let directory = client.list_files("s", "/d").await.unwrap();
    assert!(directory.truncated);
    assert_eq!((directory.entries[0].kind.as_str(), directory.entries[0].size_bytes), ("file", 3));
    assert_eq!(last(&heard).0, "GET /v1/sessions/s/files/list?path=%2Fd");
}

#[tokio::test]
async fn a_refusal_in_the_middle_of_an_upload_is_told() {
    let refuse = || async { (StatusCode::NOT_FOUND, r#"{"error":"Session not found"}"#) };
    let (host, _server) = serve(Router::new().fallback(refuse)).await;
    let client = Client::new(&host, "k3y", None).unwrap();
    let piece = Bytes::from(vec![0; 1 << 20]);
    let pieces = futures_util::stream::iter((0..64).map(move |_| Ok(piece.clone())));
    let error = client.upload("s", "/x", 0o644, 64 << 20, pieces).await.unwrap_err();
    assert_eq!(error.to_string(), "File upload failed: Session not found");
}

#[tokio::test]
async fn keys() {
    let answer = r#"{"id":"1","key":"isol8_x","name":"n","keyPrefix":"isol8_x...","tenantId":"t",
        "expiresAt":"2026-01-01T00:00:00.000Z"}"#;
    let (client, heard, _server) = always(201, answer).await;
    let wanted = NewKey { name: "n".into(), scopes: vec!["execute".into()], ..NewKey::default() };
    let made = client.create_key(&wanted).await.unwrap();
    assert_eq!((made.key.as_str(), &made.more["tenantId"]), ("isol8_x", &json!("t")));
    let (what, body) = last(&heard);
    assert_eq!(what, "POST /auth/keys");
    assert_eq!(body, json!({"name": "n", "scopes": ["execute"]}));
    client.revoke_key("1").await.unwrap();
    assert_eq!(last(&heard).0, "DELETE /auth/keys/1");

    let answer = r#"{"keys":[{"id":"1","name":"n","keyPrefix":"isol8_x...","tenantId":"t",
        "createdAt":"2026-01-01T00:00:00.000Z","expiresAt":"2026-01-02T00:00:00.000Z",
        "lastUsedAt":null,"revoked":false}]}"#;
    let (client, heard, _server) = always(200, answer).await;
    let keys = client.list_keys(Some("t&u")).await.unwrap();
    assert_eq!((keys[0].tenant_id.as_str(), keys[0].last_used_at), ("t", None));
    assert_eq!(last(&heard).0, "GET /auth/keys?tenantId=t%26u");
    client.list_keys(None).await.unwrap();
    assert_eq!(last(&heard).0, "GET /auth/keys");

    let answer = r#"{"token":"isol8_y","expiresAt":"2026-01-01T00:00:00.000Z","keyId":"2"}"#;
    let (client, heard, _server) = always(200, answer).await;
    let login = client.login("me", Some(5)).await.unwrap();
    assert_eq!((login.token.as_str(), login.key_id.as_str()), ("isol8_y", "2"));
    assert_eq!(last(&heard), ("POST /auth/login".into(), json!({"name": "me", "ttlMs": 5})));

    let (client, _, _server) = always(400, r#"{"error":"DB-backed auth is not enabled"}"#).await;
    let error = client.login("me", None).await.err().unwrap();
    assert_eq!(error.to_string(), "Login failed: DB-backed auth is not enabled");
    assert_eq!(error.status(), Some(400));
}

#[tokio::test]
async fn cleaning_up() {
    let answer = r#"{"ok":true,"sessions":{"removed":1,"failed":0,"errors":[]},
        "containers":{"removed":3,"failed":1,"errors":["abc: busy"]}}"#;
    let (client, heard, _server) = always(200, answer).await;
    let cleanup = client.cleanup(false).await.unwrap();
    assert_eq!((cleanup.sessions.removed, cleanup.containers.failed), (1, 1));
    assert!(cleanup.images.is_none());
    assert_eq!(last(&heard), ("POST /cleanup".into(), json!({"images": false})));
}
