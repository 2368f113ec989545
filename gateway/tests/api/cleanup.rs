//! `POST /cleanup`: everything of the caller's tenant, or of everybody for the master.

use std::sync::atomic::Ordering;
use std::time::Instant;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{Harness, SOON, send};

/// Two tenants with a session each.
async fn start() -> (Harness, String, String) {
    let mut harness = Harness::without_worker(|config| config.auth.enabled = true).await;
    harness.add_keeper().await;
    let (ours, theirs) = (harness.key_of("ours").await, harness.key_of("theirs").await);
    for key in [&ours, &theirs] {
        let body = json!({"request": {"runtime": "bash", "code": "print hi"}, "sessionId": "one"});
        let opened = send(harness.request_of(key, Method::POST, "/execute").json(&body)).await;
        assert_eq!(opened.status, 200, "{opened:?}");
    }
    (harness, ours, theirs)
}

async fn clean_up(request: RequestBuilder) -> Value {
    let answer = send(request).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    answer.json()
}

async fn sessions(harness: &Harness, key: &str) -> usize {
    let answer = send(harness.request_of(key, Method::GET, "/sessions")).await;
    answer.json()["sessions"].as_array().unwrap().len()
}

fn removed(count: u64) -> Value {
    json!({"removed": count, "failed": 0, "errors": []})
}

#[tokio::test]
async fn a_tenant_cleans_up_after_itself_alone() {
    let (harness, ours, theirs) = start().await;
    let request = harness.request_of(&ours, Method::POST, "/cleanup");
    let report = clean_up(request.json(&json!({"images": false}))).await;
    let stuck = json!({"removed": 0, "failed": 1, "errors": ["ours: is stuck"]});
    assert_eq!(report, json!({"ok": true, "sessions": removed(1), "containers": stuck}));
    assert_eq!((sessions(&harness, &ours).await, sessions(&harness, &theirs).await), (0, 1));
    // Images are asked for, but they are nobody's but the master's.
    let report = clean_up(harness.request_of(&ours, Method::POST, "/cleanup")).await;
    let expected =
        json!({"ok": true, "sessions": removed(0), "containers": stuck, "images": removed(0)});
    assert_eq!(report, expected);
}

#[tokio::test]
async fn the_master_cleans_up_after_everybody() {
    let (harness, ours, theirs) = start().await;
    // What keeps images is not misread as their end.
    for (body, words) in [
        (r#"{"images":"false"}"#, "images: expected a boolean, not the text"),
        (r#"{"image":false}"#, "did you mean `images`?"),
        ("[]", "must be a JSON object"),
    ] {
        let refused = send(harness.request(Method::POST, "/cleanup").body(body)).await;
        assert!(refused.error(400, "INVALID_REQUEST").contains(words), "{refused:?}");
    }
    for (body, sessions) in [("", 2), ("not json", 0), (r#"{"images":null}"#, 0)] {
        let report = clean_up(harness.request(Method::POST, "/cleanup").body(body)).await;
        let expected = json!({
            "ok": true, "sessions": removed(sessions), "containers": removed(3), "images": removed(1),
        });
        assert_eq!(report, expected, "{body}");
    }
    assert_eq!((sessions(&harness, &ours).await, sessions(&harness, &theirs).await), (0, 0));
}

#[tokio::test]
async fn the_master_may_clean_up_after_one() {
    let (harness, ours, theirs) = start().await;
    let request = harness.request(Method::POST, "/cleanup").header("x-isol8-tenant", "theirs");
    assert_eq!(clean_up(request).await["sessions"], removed(1));
    assert_eq!((sessions(&harness, &ours).await, sessions(&harness, &theirs).await), (1, 0));
}

#[tokio::test]
async fn those_who_ask_at_once_share_one_run() {
    let (harness, ours, _) = start().await;
    // The session ends with the call that it is at: until then the first run is not over.
    let body = json!({"request": {"runtime": "bash", "code": "sleep 3000"}, "sessionId": "one"});
    let mut busy = JoinSet::new();
    busy.spawn(send(harness.request_of(&ours, Method::POST, "/execute").json(&body)));
    let listed = || send(harness.request_of(&ours, Method::GET, "/sessions"));
    let started = Instant::now();
    while listed().await.json()["sessions"][0]["isActive"] != true {
        assert!(started.elapsed() < SOON, "the session is never busy");
    }
    let ask = || clean_up(harness.request_of(&ours, Method::POST, "/cleanup"));
    let reports = tokio::join!(ask(), ask(), ask());
    assert_eq!(harness.clean_ups.load(Ordering::Relaxed), 1);
    for report in [&reports.0, &reports.1, &reports.2] {
        assert_eq!(report["sessions"], removed(1), "{report}");
    }
    assert_eq!(sessions(&harness, &ours).await, 0);
    busy.join_next().await.unwrap().unwrap().error(409, "CANCELLED");
    // Whoever comes after it has one of his own.
    assert_eq!(ask().await["sessions"], removed(0));
    assert_eq!(harness.clean_ups.load(Ordering::Relaxed), 2);
}
