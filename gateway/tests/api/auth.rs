//! Who gets in, and which paths exist for whom.

use reqwest::Method;
use serde_json::json;

use crate::harness::{Harness, KEY, send};

#[tokio::test]
async fn the_key_is_asked_for_everywhere_but_on_public_paths() {
    let harness = Harness::without_worker(|_| {}).await;
    for (method, path) in [
        (Method::POST, "/execute"),
        (Method::GET, "/execute"),
        (Method::GET, "/nowhere"),
        (Method::GET, "/health/"),
        (Method::GET, "/"),
    ] {
        let answer = send(harness.anonymous(method.clone(), path)).await;
        assert_eq!(answer.error(401, "UNAUTHENTICATED"), "Missing Authorization header", "{path}");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
        let wrong = harness.anonymous(method, path).header("authorization", "Bearer no");
        assert_eq!(send(wrong).await.error(403, "FORBIDDEN"), "Invalid API key", "{path}");
    }
    for path in ["/health", "/healthz", "/readyz", "/metrics"] {
        assert_eq!(send(harness.anonymous(Method::GET, path)).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn the_prefix_is_optional_and_of_any_case() {
    let harness = Harness::without_worker(|_| {}).await;
    for header in [KEY.to_owned(), format!("Bearer {KEY}"), format!("bEARER {KEY}")] {
        let request = harness.anonymous(Method::GET, "/nowhere").header("authorization", &header);
        send(request).await.error(404, "NOT_FOUND");
    }
    let empty = harness.anonymous(Method::GET, "/nowhere").header("authorization", "");
    send(empty).await.error(401, "UNAUTHENTICATED");
}

#[tokio::test]
async fn paths_and_methods() {
    let harness = Harness::without_worker(|_| {}).await;
    for path in ["/nowhere", "/health/", "/execute/", "//execute", "/"] {
        send(harness.request(Method::GET, path)).await.error(404, "NOT_FOUND");
    }
    let answer = send(harness.request(Method::GET, "/execute")).await;
    answer.error(405, "METHOD_NOT_ALLOWED");
    assert_eq!(answer.header("allow"), "POST");
    send(harness.request(Method::POST, "/health")).await.error(405, "METHOD_NOT_ALLOWED");
    let head = send(harness.anonymous(Method::HEAD, "/health")).await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
    assert_eq!(head.header("content-type"), "application/json");
}

#[tokio::test]
async fn health_is_exactly_isol8s() {
    let harness = Harness::without_worker(|_| {}).await;
    let health = send(harness.anonymous(Method::GET, "/health")).await;
    assert_eq!(health.json(), json!({"status": "ok", "version": shared::VERSION}));
    let ready = send(harness.anonymous(Method::GET, "/readyz")).await;
    assert_eq!(ready.json(), json!({"status": "ready"}));
}

#[tokio::test]
async fn the_request_id_is_echoed_or_made() {
    let harness = Harness::without_worker(|_| {}).await;
    let with = |id: &'static str| {
        send(harness.request(Method::GET, "/nowhere").header("x-request-id", id))
    };
    let answer = with("trace-1").await;
    answer.error(404, "NOT_FOUND");
    assert_eq!(answer.header("x-request-id"), "trace-1");
    let made = with("not \"sane\"").await;
    made.error(404, "NOT_FOUND");
    assert_eq!(made.header("x-request-id").len(), 36);
    let health = harness.anonymous(Method::GET, "/health").header("x-request-id", "h");
    assert_eq!(send(health).await.header("x-request-id"), "h");
}
