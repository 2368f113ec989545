//! What bodies are taken, and what is said about those that are not.

use reqwest::Method;
use serde_json::json;

use crate::harness::{Harness, SOON, send};

#[tokio::test]
async fn callers_mistakes_are_400_with_words_that_help() {
    let harness = Harness::without_worker(|_| {}).await;
    let bash = |more: serde_json::Value| {
        let mut request = json!({"runtime": "bash", "code": "x"});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "request": request }).to_string()
    };
    for (body, code, words) in [
        ("{".to_owned(), "INVALID_JSON", "not valid JSON"),
        (String::new(), "INVALID_JSON", "not valid JSON"),
        ("{}".into(), "INVALID_REQUEST", "missing field `request`"),
        (r#"{"request":3}"#.into(), "INVALID_REQUEST", "request: expected an object, not the number `3`"),
        (bash(json!({"timeoutMs": "1s"})), "INVALID_REQUEST", "request.timeoutMs: "),
        (
            bash(json!({"runtime": "cobol"})),
            "INVALID_REQUEST",
            "Unknown runtime: \"cobol\". Available:",
        ),
        (bash(json!({"cmd": "ls"})), "INVALID_REQUEST", "mutually exclusive"),
        (bash(json!({"code": " "})), "INVALID_REQUEST", "exactly one of"),
        (bash(json!({"codeHash": "0".repeat(64)})), "INVALID_REQUEST", "the text at codeUrl"),
        (
            r#"{"request":{"runtime":"bash","code":"x"},"options":{"networkFilter":{"blacklist":["("]}}}"#.into(),
            "INVALID_REQUEST",
            "networkFilter.blacklist",
        ),
        (
            bash(json!({"workdir": "/etc"})),
            "INVALID_REQUEST",
            "Working directory must be inside /sandbox",
        ),
        (bash(json!({"timeoutMs": 999_999_999})), "POLICY_VIOLATION", "ceiling of 900000"),
        (
            bash(json!({"codeUrl": "http://x", "code": ""})),
            "POLICY_VIOLATION",
            "Remote code fetching is disabled",
        ),
    ] {
        let error = harness.post(body.clone()).await.error(400, code);
        assert!(error.contains(words), "{body}: {error}");
    }
    // None of them came as far as the queue.
    assert_eq!(harness.metric(r#"isol8_queue_jobs{state="queued"}"#).await, 0.0);
}

#[tokio::test]
async fn the_content_type_does_not_matter() {
    let harness = Harness::start().await;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/json"] {
        let body = r#"{"request":{"runtime":"bash","code":"print hi"},"later":1}"#;
        let request = harness.request(Method::POST, "/execute").header("content-type", kind);
        assert_eq!(send(request.body(body)).await.stdout(), "hi", "{kind}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413() {
    let harness = Harness::without_worker(|config| config.gateway.max_body_bytes = 100_000).await;
    let harness = harness.with_worker().await;
    let program = |length: usize| {
        let code = format!("print {}", "x".repeat(length));
        json!({"request": {"runtime": "bash", "code": code}}).to_string()
    };
    assert_eq!(harness.post(program(99_000)).await.stdout().len(), 99_000);
    for length in [100_000, 10_000_000] {
        let answer = harness.post(program(length)).await;
        assert!(answer.error(413, "PAYLOAD_TOO_LARGE").contains("100000 bytes"));
        let (first, rest) = (program(length), "more");
        let chunks = [first.into_bytes(), rest.into()].map(Ok::<_, std::io::Error>);
        let chunked = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
        harness.post(chunked).await.error(413, "PAYLOAD_TOO_LARGE");
    }
}

#[tokio::test]
async fn every_route_names_the_field_that_is_wrong() {
    let harness = Harness::without_worker(|config| config.auth.enabled = true).await;
    let (bash, schedule) = (r#""request":{"runtime":"bash","code":"x"}"#, r#""cron":"0 0 1 1 *""#);
    let [post, patch] = [Method::POST, Method::PATCH];
    for (method, path, body, words) in [
        (
            &patch,
            "/v1/sessions/s/network",
            r#"{"mode":5}"#.to_owned(),
            "mode: expected one of `none`, `host`, `filtered`, not the number `5`",
        ),
        (
            &patch,
            "/v1/sessions/s/network",
            r#"{"whitelists":[]}"#.into(),
            "`whitelists`; did you mean `whitelist`?",
        ),
        (&patch, "/v1/sessions/s/network", "[null,[]]".into(), "must be a JSON object"),
        (
            &post,
            "/execute",
            format!(r#"{{{bash},"options":{{"networkFilter":[]}}}}"#),
            "options.networkFilter: expected an object, not an array",
        ),
        (
            &post,
            "/execute",
            format!(r#"{{{bash},"options":{{"installPackages":["a"]}}}}"#),
            "it belongs in `request`",
        ),
        (
            &post,
            "/execute/stream",
            format!(r#"{{{bash},"queue":{{"durability":true}}}}"#),
            "queue.durability: ",
        ),
        (&post, "/v1/jobs", format!(r#"{{{bash},"queue":{{"priority":1}}}}"#), "queue.priority: "),
        (
            &post,
            "/v1/jobs",
            format!(r#"{{{bash},"tags":["a"]}}"#),
            "tags: unknown field `tags`; it belongs in `queue`",
        ),
        (&post, "/v1/schedules", format!(r#"{{{bash},{schedule},"missed":7}}"#), "missed: "),
        (
            &post,
            "/v1/schedules",
            format!(r#"{{{bash},{schedule},"overlaps":"skip"}}"#),
            "did you mean `overlap`?",
        ),
        (
            &post,
            "/v1/schedules",
            format!(r#"{{{bash},{schedule},"options":{{"stdin":"a"}}}}"#),
            "options.stdin: unknown field `stdin`; it belongs in `request`",
        ),
        (&patch, "/v1/schedules/x", r#"{"enabled":"no"}"#.into(), "enabled: "),
        (&patch, "/v1/schedules/x", r#"{"enable":false}"#.into(), "did you mean `enabled`?"),
        (
            &post,
            "/v1/batches",
            format!(r#"{{{bash},"options":[],"items":[{{}}]}}"#),
            "the batch: options: ",
        ),
        (
            &post,
            "/v1/batches",
            r#"{"request":{"installPackage":[]},"items":[{}]}"#.into(),
            "the batch: request.installPackage: ",
        ),
        (
            &post,
            "/v1/batches",
            format!(r#"{{{bash},"items":[{{"options":{{"timeout":1}}}}]}}"#),
            "items[0]: options.timeout: ",
        ),
        (
            &post,
            "/v1/batches",
            format!(r#"{{{bash},"items":[{{"code":"x"}}]}}"#),
            "items[0]: code: unknown field `code`; it belongs in `request`",
        ),
        (
            &post,
            "/v1/dead-letters/x/redrive",
            r#"{"options":{"network":1}}"#.into(),
            "options.network: ",
        ),
        (
            &post,
            "/auth/keys",
            r#"{"name":"a","scopes":["job"]}"#.into(),
            "scopes[0]: expected one of `execute`, `sessions`, `files`, `jobs`, not `job`",
        ),
        (&post, "/auth/login", r#"{"tenant":"a"}"#.into(), "did you mean `tenantId`?"),
        (
            &post,
            "/file",
            r#"{"sessionID":"s","path":"a","content":""}"#.into(),
            "did you mean `sessionId`?",
        ),
        (&post, "/cleanup", r#"{"images":1}"#.into(), "images: "),
    ] {
        let request = harness.request(method.clone(), path).body(body.clone());
        let error = send(request).await.error(400, "INVALID_REQUEST");
        assert!(error.contains(words), "{path} {body}: {error}");
    }
}

#[tokio::test]
async fn a_head_over_the_limit_is_431() {
    let harness = Harness::start().await;
    let execute = || {
        let body = json!({"request": {"runtime": "bash", "code": "print hi"}});
        harness.request(Method::POST, "/execute").json(&body)
    };
    let many = |count: usize| {
        (0..count).fold(execute(), |request, number| request.header(format!("x-{number}"), "a"))
    };
    let long = |bytes: usize| execute().header("x-long", "a".repeat(bytes));
    assert_eq!(send(many(80)).await.stdout(), "hi");
    assert_eq!(send(long(30_000)).await.stdout(), "hi");
    let path = format!("/v1/jobs?limit={}", "1".repeat(40_000));
    for request in
        [many(101), many(200), long(33_000), long(300_000), harness.request(Method::GET, &path)]
    {
        let error = send(request.timeout(SOON)).await.error(431, "HEADERS_TOO_LARGE");
        assert!(error.contains("the most is 100, and 32768 bytes"), "{error}");
    }
    // Out of all proportion: without a body, but an answer still.
    assert_eq!(send(many(300)).await.status, 431);
}
