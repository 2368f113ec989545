//! Sessions over HTTP: seen and closed by their own tenant alone.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Harness, send};

async fn with_sessions() -> Harness {
    let mut harness = Harness::without_worker(|config| config.auth.enabled = true).await;
    harness.add_keeper().await;
    harness
}

async fn execute(harness: &Harness, key: &str, session: &str, program: &str) -> Answer {
    let body = json!({"request": {"runtime": "bash", "code": program}, "sessionId": session});
    send(harness.request_of(key, Method::POST, "/execute").json(&body)).await
}

async fn sessions(harness: &Harness, key: &str) -> Vec<Value> {
    let answer = send(harness.request_of(key, Method::GET, "/sessions")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["sessions"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_session_is_listed_until_it_is_closed() {
    let harness = with_sessions().await;
    let key = harness.key_of("acme").await;
    let empty = send(harness.request_of(&key, Method::GET, "/sessions")).await;
    assert_eq!(empty.json(), json!({"sessions": []}));
    for name in ["one", "two"] {
        assert_eq!(execute(&harness, &key, name, "print hi").await.stdout(), "hi");
    }
    let listed = sessions(&harness, &key).await;
    let names: Vec<_> = listed.iter().map(|session| session["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["one", "two"]);
    let first = listed[0].as_object().unwrap();
    assert_eq!(first.len(), 5, "{first:?}");
    assert_eq!((&first["isActive"], &first["runtime"]), (&json!(false), &json!("bash")));
    for field in ["lastAccessedAt", "createdAt"] {
        let time = first[field].as_str().unwrap();
        assert_eq!(time.len(), "2026-03-04T10:11:12.345Z".len(), "{time}");
        assert!(chrono::DateTime::parse_from_rfc3339(time).is_ok());
    }

    let one = send(harness.request_of(&key, Method::GET, "/v1/sessions/one")).await;
    assert_eq!(one.json(), listed[0]);
    for _ in 0..2 {
        let closed = send(harness.request_of(&key, Method::DELETE, "/session/one")).await;
        assert_eq!((closed.status, closed.json()), (200, json!({"ok": true})));
    }
    assert_eq!(sessions(&harness, &key).await.len(), 1);
    let gone = send(harness.request_of(&key, Method::GET, "/v1/sessions/one")).await;
    assert_eq!(gone.error(404, "SESSION_NOT_FOUND"), "Session not found");
    let closed = send(harness.request_of(&key, Method::DELETE, "/v1/sessions/two")).await;
    assert_eq!((closed.status, closed.json()), (200, json!({"ok": true})));
    assert!(sessions(&harness, &key).await.is_empty());
}

#[tokio::test]
async fn odd_names_reach_their_session() {
    let harness = with_sessions().await;
    let key = harness.key_of("acme").await;
    for (name, path) in
        [("a/b c", "/session/a%2Fb%20c"), ("x/y", "/session/x/y"), ("ü:1", "/session/%C3%BC:1")]
    {
        assert_eq!(execute(&harness, &key, name, "print hi").await.status, 200, "{name}");
        let closed = send(harness.request_of(&key, Method::DELETE, path)).await;
        assert_eq!((closed.status, closed.json()), (200, json!({"ok": true})), "{path}");
        assert!(sessions(&harness, &key).await.is_empty(), "{path} did not close {name}");
    }
    let never = format!("/session/{}", "x".repeat(300));
    assert_eq!(send(harness.request_of(&key, Method::DELETE, &never)).await.status, 200);
    let broken = send(harness.request_of(&key, Method::DELETE, "/session/%ff")).await;
    broken.error(400, "INVALID_REQUEST");
}

#[tokio::test]
async fn a_tenant_sees_and_touches_only_its_own() {
    let harness = with_sessions().await;
    let (ours, theirs) = (harness.key_of("ours").await, harness.key_of("theirs").await);
    assert_eq!(execute(&harness, &ours, "shared-name", "print ours").await.stdout(), "ours");
    assert!(sessions(&harness, &theirs).await.is_empty());
    let seen = send(harness.request_of(&theirs, Method::GET, "/v1/sessions/shared-name")).await;
    seen.error(404, "SESSION_NOT_FOUND");
    let closed = send(harness.request_of(&theirs, Method::DELETE, "/session/shared-name")).await;
    assert_eq!(closed.status, 200);
    assert_eq!(sessions(&harness, &ours).await.len(), 1, "closed by another tenant");
    // The same name is another session.
    assert_eq!(execute(&harness, &theirs, "shared-name", "print x").await.status, 200);
    assert_eq!(sessions(&harness, &ours).await.len(), 1);

    let path = "/sessions?tenantId=ours";
    let peek = send(harness.request_of(&theirs, Method::GET, path)).await;
    assert_eq!(peek.error(403, "FORBIDDEN"), "Master key required for this operation");
    let pretend = harness.request_of(&theirs, Method::GET, "/sessions");
    let pretend = send(pretend.header("x-isol8-tenant", "ours")).await;
    pretend.error(403, "FORBIDDEN");
}

#[tokio::test]
async fn the_master_may_act_for_a_tenant() {
    let harness = with_sessions().await;
    let key = harness.key_of("acme").await;
    assert_eq!(execute(&harness, &key, "one", "print hi").await.status, 200);
    let own = send(harness.request(Method::GET, "/sessions")).await;
    assert_eq!(own.json(), json!({"sessions": []}));
    let listed = send(harness.request(Method::GET, "/sessions?tenantId=acme")).await;
    assert_eq!(listed.json()["sessions"][0]["id"], "one");
    let bad = harness.request(Method::GET, "/sessions").header("x-isol8-tenant", "a/b");
    send(bad).await.error(400, "INVALID_REQUEST");
    let close = harness.request(Method::DELETE, "/session/one").header("x-isol8-tenant", "acme");
    assert_eq!(send(close).await.status, 200);
    assert!(sessions(&harness, &key).await.is_empty());
}

#[tokio::test]
async fn a_tenants_quotas_answer_429_with_a_time_to_come_back() {
    let mut harness = Harness::without_worker(|config| {
        config.auth.enabled = true;
        let policy = |limit: fn(&mut shared::config::TenantPolicy)| {
            let mut policy = shared::config::TenantPolicy::default();
            limit(&mut policy);
            policy
        };
        let tenants = &mut config.policy.tenants;
        tenants.insert("small".into(), policy(|policy| policy.max_sessions = Some(1)));
        tenants.insert("slow".into(), policy(|policy| policy.max_requests_per_second = Some(1)));
        tenants.insert("few".into(), policy(|policy| policy.max_concurrent_jobs = Some(1)));
    })
    .await;
    harness.add_keeper().await;
    let refused = |answer: Answer, code: &str| {
        answer.error(429, code);
        assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1, "{answer:?}");
    };

    let small = harness.key_of("small").await;
    assert_eq!(execute(&harness, &small, "one", "print hi").await.status, 200);
    refused(execute(&harness, &small, "two", "print hi").await, "SESSION_LIMIT");
    assert_eq!(execute(&harness, &small, "one", "print hi").await.status, 200);

    let slow = harness.key_of("slow").await;
    assert_eq!(execute(&harness, &slow, "", "print hi").await.status, 200);
    refused(execute(&harness, &slow, "", "print hi").await, "RATE_LIMITED");

    let few = harness.key_of("few").await;
    let running = execute(&harness, &few, "", "sleep 3000");
    let second = async {
        harness.waiting(1.0).await;
        execute(&harness, &few, "", "print hi").await
    };
    let (first, second) = tokio::join!(running, second);
    assert_eq!(first.stdout(), "slept");
    refused(second, "TOO_MANY_JOBS");
    assert_eq!(execute(&harness, &few, "", "print hi").await.status, 200);
    // Nobody else is held to that.
    let others = harness.key_of("others").await;
    assert_eq!(execute(&harness, &others, "", "print hi").await.status, 200);
}

#[tokio::test]
async fn what_is_refused_is_in_the_audit_log() {
    let folder = tempfile::tempdir().unwrap();
    let log_dir = folder.path().to_str().unwrap().to_owned();
    let harness = Harness::without_worker(|config| {
        config.auth.enabled = true;
        config.audit.enabled = true;
        config.audit.log_dir = Some(log_dir);
        config.redis.max_queued = 0;
    })
    .await;
    let key = harness.key_of("acme").await;
    let body = json!({
        "request": {"runtime": "bash", "code": "true", "timeoutMs": 1_000_000_000},
        "options": {"secrets": {"TOKEN": "hunter2"}},
        "sessionId": "one",
    });
    let answer = send(harness.request_of(&key, Method::POST, "/execute").json(&body)).await;
    answer.error(400, "POLICY_VIOLATION");
    // Let in by admission, refused by the queue.
    let body = json!({"request": {"runtime": "bash", "code": "true"}});
    let answer = send(harness.request_of(&key, Method::POST, "/execute").json(&body)).await;
    answer.error(429, "QUEUE_FULL");
    let path = folder.path().join("executions.log");
    let started = std::time::Instant::now();
    let log = loop {
        let log = std::fs::read_to_string(&path).unwrap_or_default();
        if log.lines().count() == 2 {
            break log;
        }
        assert!(started.elapsed() < crate::harness::SOON, "not all in the log: {log}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    for (line, code) in log.lines().zip(["POLICY_VIOLATION", "QUEUE_FULL"]) {
        let record: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&record["errorCode"], &record["outcome"]), (&json!(code), &json!("refused")));
        assert!(line.contains("acme") && !line.contains("hunter2"), "{line}");
    }
}
