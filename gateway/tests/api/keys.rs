//! API keys: made, listed, used, revoked, forgotten.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::harness::{Answer, Harness, KEY, SOON, send};
use crate::socket::Socket;

async fn with_keys() -> Harness {
    Harness::without_worker(|config| config.auth.enabled = true).await
}

async fn create(harness: &Harness, body: Value) -> Answer {
    send(harness.request(Method::POST, "/auth/keys").json(&body)).await
}

async fn list(harness: &Harness, path: &str) -> Vec<Value> {
    let answer = send(harness.request(Method::GET, path)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["keys"].as_array().unwrap().clone()
}

fn names(object: &Value) -> HashSet<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn a_key_is_made_used_listed_and_revoked() {
    let harness = with_keys().await;
    let made = create(&harness, json!({"name": "ci", "tenantId": "acme", "ttlMs": 60_000})).await;
    assert_eq!((made.status, made.header("cache-control")), (201, "no-store"), "{made:?}");
    let made = made.json();
    let expected = ["id", "key", "name", "keyPrefix", "tenantId", "expiresAt", "scopes"];
    assert_eq!(names(&made), expected.into());
    let key = made["key"].as_str().unwrap();
    assert_eq!(key.len(), 70);
    assert_eq!(made["keyPrefix"], format!("{}...", &key[..10]));
    assert_eq!((&made["name"], &made["tenantId"]), (&json!("ci"), &json!("acme")));

    let listed = list(&harness, "/auth/keys").await;
    assert_eq!(listed.len(), 1);
    let expected = [
        "id",
        "name",
        "keyPrefix",
        "tenantId",
        "createdAt",
        "expiresAt",
        "lastUsedAt",
        "revoked",
        "scopes",
    ];
    assert_eq!(names(&listed[0]), expected.into());
    assert_eq!((&listed[0]["lastUsedAt"], &listed[0]["revoked"]), (&json!(null), &json!(false)));
    let times = ["createdAt", "expiresAt"].map(|field| {
        let time = listed[0][field].as_str().unwrap();
        assert_eq!(time.len(), "2026-03-04T10:11:12.345Z".len(), "{time}");
        chrono::DateTime::parse_from_rfc3339(time).unwrap().timestamp_millis()
    });
    assert_eq!(times[1] - times[0], 60_000);

    send(harness.request_of(key, Method::GET, "/nowhere")).await.error(404, "NOT_FOUND");
    let listed = list(&harness, "/auth/keys").await;
    assert!(listed[0]["lastUsedAt"].is_string(), "{listed:?}");

    let path = format!("/auth/keys/{}", made["id"].as_str().unwrap());
    for _ in 0..2 {
        let revoked = send(harness.request(Method::DELETE, &path)).await;
        assert_eq!(revoked.status, 200);
        assert_eq!(revoked.json(), json!({"ok": true, "id": made["id"]}));
    }
    let refused = send(harness.request_of(key, Method::GET, "/nowhere")).await;
    assert_eq!(refused.error(403, "FORBIDDEN"), "Invalid API key");
    assert_eq!(list(&harness, "/auth/keys").await[0]["revoked"], true);
}

#[tokio::test]
async fn nothing_of_a_key_is_stored_that_would_open_anything() {
    let harness = with_keys().await;
    let key = harness.key_of("acme").await;
    let stored = harness.redis.dump();
    assert!(stored.contains(&key[..10]), "the prefix is stored: {stored}");
    assert!(!stored.contains(&key[10..]), "the key is stored: {stored}");
}

#[tokio::test]
async fn a_revoked_key_is_refused_on_every_gateway_soon() {
    let mut harness = with_keys().await;
    let other = harness.add_gateway().await;
    let key = harness.key_of("acme").await;
    // Hot in the memory of the other gateway.
    let ask = || send(harness.request_at(other, &key, "/nowhere"));
    ask().await.error(404, "NOT_FOUND");
    let id = list(&harness, "/auth/keys").await[0]["id"].as_str().unwrap().to_owned();
    let path = format!("/auth/keys/{id}");
    assert_eq!(send(harness.request(Method::DELETE, &path)).await.status, 200);
    let revoked = Instant::now();
    loop {
        let asked = revoked.elapsed();
        let answer = ask().await;
        if answer.status == 403 {
            assert_eq!(answer.error(403, "FORBIDDEN"), "Invalid API key");
            break;
        }
        assert!(asked < SOON, "still let in after {asked:?}");
    }
}

#[tokio::test]
async fn a_revoked_key_runs_nothing_over_an_open_socket() {
    let harness = with_keys().await;
    let key = harness.key_of("acme").await;
    let mut socket = Socket::connect(harness.address, Some(&key)).await.unwrap();
    let id = list(&harness, "/auth/keys").await[0]["id"].as_str().unwrap().to_owned();
    let path = format!("/auth/keys/{id}");
    assert_eq!(send(harness.request(Method::DELETE, &path)).await.status, 200);
    socket.execute("out a").await;
    let (events, code, _) = socket.rest().await;
    let refusal = json!({"type": "error", "data": "Invalid API key", "code": "FORBIDDEN"});
    assert_eq!((events, code), (vec![refusal], 1008));
    harness.becomes(r#"isol8_queue_jobs{state="queued"}"#, 0.0).await;
}

#[tokio::test]
async fn a_hot_key_costs_no_round_trip_and_a_cold_one_needs_redis() {
    let mut harness = with_keys().await;
    let (hot, cold) = (harness.key_of("acme").await, harness.key_of("acme").await);
    let (before, started) = (harness.redis.commands_processed(), Instant::now());
    for _ in 0..50 {
        send(harness.request_of(&hot, Method::GET, "/nowhere")).await.error(404, "NOT_FOUND");
    }
    let asked = harness.redis.commands_processed() - before;
    // It is looked at anew every half second.
    let expected = 24 + started.elapsed().as_millis() / 100;
    assert!(u128::from(asked) <= expected, "{asked} commands for 50 requests");
    harness.redis.stop();
    let answer = send(harness.request_of(&cold, Method::GET, "/nowhere")).await;
    answer.error(503, "QUEUE_UNAVAILABLE");
    // What cannot be a key needs nobody to say so.
    send(harness.request_of("isol8_no", Method::GET, "/")).await.error(403, "FORBIDDEN");
}

#[tokio::test]
async fn what_is_asked_for_is_checked() {
    let harness = with_keys().await;
    for (body, words) in [
        (json!({}), "name is required"),
        (json!({"name": ""}), "name is required"),
        (json!({"name": 7}), "name: expected a string, not the number `7`"),
        (json!({"name": "a", "ttlMs": 0}), "ttlMs must be"),
        (
            json!({"name": "a", "ttlMs": -5}),
            "ttlMs: expected a whole number that is not negative, not the number `-5`",
        ),
        (
            json!({"name": "a", "ttlMs": "1d"}),
            "ttlMs: expected a whole number that is not negative, not the text",
        ),
        (json!({"name": "a", "tenantId": "a/b"}), "tenantId must be"),
        (json!({"name": "a", "scopes": ["root"]}), "scopes[0]: expected one of `execute`"),
    ] {
        let answer = create(&harness, body.clone()).await;
        let message = answer.error(400, "INVALID_REQUEST");
        assert!(message.starts_with(words), "{body}: {message}");
    }
    let bad = send(harness.request(Method::POST, "/auth/keys").body("{")).await;
    bad.error(400, "INVALID_JSON");
    for id in ["none", "6f1b3c52-6d0c-4a2a-9f5e-2f6f0e9e7f11"] {
        let answer = send(harness.request(Method::DELETE, &format!("/auth/keys/{id}"))).await;
        assert_eq!(answer.error(404, "NOT_FOUND"), "Key not found");
    }
    assert!(list(&harness, "/auth/keys").await.is_empty());
}

#[tokio::test]
async fn lists_are_newest_first_and_by_tenant() {
    let harness = with_keys().await;
    for (name, tenant) in [("one", "a"), ("two", "b"), ("three", "a")] {
        create(&harness, json!({"name": name, "tenantId": tenant})).await;
        sleep(Duration::from_millis(2)).await;
    }
    let names = async |path: &str| -> Vec<String> {
        let keys = list(&harness, path).await;
        keys.iter().map(|key| key["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("/auth/keys").await, ["three", "two", "one"]);
    assert_eq!(names("/auth/keys?tenantId=a").await, ["three", "one"]);
    assert_eq!(names("/auth/keys?tenantId=").await.len(), 3);
    assert!(names("/auth/keys?tenantId=c").await.is_empty());
}

#[tokio::test]
async fn login_gives_a_key_with_or_without_a_body() {
    let harness = with_keys().await;
    let login = send(harness.request(Method::POST, "/auth/login")).await;
    assert_eq!(login.status, 200, "{login:?}");
    assert_eq!(names(&login.json()), ["token", "expiresAt", "keyId"].into());
    let token = login.json()["token"].as_str().unwrap().to_owned();
    send(harness.request_of(&token, Method::GET, "/nowhere")).await.error(404, "NOT_FOUND");
    let listed = list(&harness, "/auth/keys").await;
    assert_eq!(listed[0]["id"], login.json()["keyId"]);
    assert!(listed[0]["name"].as_str().unwrap().starts_with("login-20"), "{listed:?}");
    let body = json!({"name": "laptop", "tenantId": "acme", "ttlMs": 5000});
    assert_eq!(send(harness.request(Method::POST, "/auth/login").json(&body)).await.status, 200);
    assert_eq!(list(&harness, "/auth/keys?tenantId=acme").await[0]["name"], "laptop");
}

#[tokio::test]
async fn only_the_master_manages_keys() {
    let harness = with_keys().await;
    let key = harness.key_of("acme").await;
    for (method, path) in [
        (Method::POST, "/auth/keys"),
        (Method::GET, "/auth/keys"),
        (Method::DELETE, "/auth/keys/x"),
        (Method::POST, "/auth/login"),
    ] {
        let answer = send(harness.request_of(&key, method.clone(), path)).await;
        let words = "Master key required for this operation";
        assert_eq!(answer.error(403, "FORBIDDEN"), words, "{method} {path}");
        let answer = send(harness.anonymous(method, path)).await;
        assert_eq!(answer.error(401, "UNAUTHENTICATED"), "Missing Authorization header");
    }
}

#[tokio::test]
async fn without_keys_there_is_only_the_master() {
    let harness = Harness::without_worker(|_| {}).await;
    for (method, path) in [
        (Method::POST, "/auth/keys"),
        (Method::GET, "/auth/keys"),
        (Method::DELETE, "/auth/keys/x"),
        (Method::POST, "/auth/login"),
    ] {
        let answer = send(harness.request(method, path)).await;
        assert_eq!(answer.error(400, "INVALID_REQUEST"), "DB-backed auth is not enabled");
    }
    let key = format!("isol8_{}", "ab".repeat(32));
    let answer = send(harness.request_of(&key, Method::GET, "/sessions")).await;
    assert_eq!(answer.error(403, "FORBIDDEN"), "Invalid API key");
}

#[tokio::test]
async fn an_expired_key_is_refused_and_dead_keys_are_forgotten() {
    let harness = Harness::without_worker(|config| {
        config.auth.enabled = true;
        config.auth.cleanup_interval_ms = 50;
    })
    .await;
    let made = create(&harness, json!({"name": "short", "ttlMs": 1})).await.json();
    sleep(Duration::from_millis(5)).await;
    let key = made["key"].as_str().unwrap();
    let answer = send(harness.request_of(key, Method::GET, "/sessions")).await;
    assert_eq!(answer.error(403, "FORBIDDEN"), "Invalid API key");
    let started = Instant::now();
    while !list(&harness, "/auth/keys").await.is_empty() {
        assert!(started.elapsed() < SOON, "never forgotten");
        sleep(Duration::from_millis(10)).await;
    }
    let path = format!("/auth/keys/{}", made["id"].as_str().unwrap());
    let answer = send(harness.request(Method::DELETE, &path)).await;
    assert_eq!(answer.error(404, "NOT_FOUND"), "Key not found");
}

#[tokio::test]
async fn a_missing_scope_is_named() {
    let harness = with_keys().await;
    let made = create(&harness, json!({"name": "files only", "scopes": ["files"]})).await.json();
    let key = made["key"].as_str().unwrap();
    assert_eq!(made["scopes"], json!(["files"]));
    for (method, path, scope) in [
        (Method::POST, "/execute", "execute"),
        (Method::GET, "/sessions", "sessions"),
        (Method::DELETE, "/session/a", "sessions"),
    ] {
        let answer = send(harness.request_of(key, method, path)).await;
        let message = answer.error(403, "FORBIDDEN");
        assert!(message.contains(&format!("lacks the scope \"{scope}\"")), "{message}");
    }
    // What it may do fails for other reasons alone.
    let file = send(harness.request_of(key, Method::GET, "/file")).await;
    file.error(400, "INVALID_REQUEST");
    assert_eq!(send(harness.request(Method::GET, "/sessions")).await.status, 200, "{KEY}");
}
