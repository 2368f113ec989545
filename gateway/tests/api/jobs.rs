//! `/v1/jobs`: submit, look, wait, list, cancel, and output during the job and after.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use shared::ErrorCode;
use shared::execution::Failure;
use shared::id::WorkerId;
use shared::redis::{Commit, GiveBack};
use tokio::time::sleep;

use crate::harness::{Answer, Harness, KEY, SOON, send};
use crate::sse::{configured, events, harness, read_until};

async fn submit(harness: &Harness, program: &str) -> String {
    let answer = post(harness, &body(program, &json!({})), None).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.json()["id"].as_str().unwrap().to_owned()
}

fn body(program: &str, queue: &Value) -> String {
    json!({"request": {"runtime": "bash", "code": program}, "queue": queue}).to_string()
}

async fn post(harness: &Harness, body: &str, key: Option<&str>) -> Answer {
    let mut request = harness.request(Method::POST, "/v1/jobs").body(body.to_owned());
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    send(request).await
}

async fn get(harness: &Harness, path: &str) -> Answer {
    send(harness.request(Method::GET, path)).await
}

#[tokio::test]
async fn a_job_is_submitted_waited_for_and_read_from_any_gateway() {
    let mut harness = harness().await;
    let other = harness.add_gateway().await;
    let answer =
        post(&harness, &body("out x;wait 300;end exited 4", &json!({"tags": ["t"]})), None).await;
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!((answer.status, answer.header("location")), (202, &*format!("/v1/jobs/{id}")));
    assert_eq!(answer.json(), json!({"id": id, "state": "queued"}));

    let path = format!("/v1/jobs/{id}?wait=10000");
    let (here, there) =
        tokio::join!(get(&harness, &path), send(harness.request_at(other, KEY, &path)));
    for answer in [here, there] {
        assert_eq!(answer.status, 200, "{answer:?}");
        let job = answer.json();
        assert_eq!((&job["state"], &job["outcome"]), (&json!("finished"), &json!("exited")));
        assert_eq!((&job["exitCode"], &job["attempts"]), (&json!(4), &json!(1)));
        assert_eq!(job["result"]["exitCode"], 4);
        assert_eq!((&job["tags"], &job["tenantId"]), (&json!(["t"]), &json!("default")));
        let times = ["createdAt", "startedAt", "finishedAt", "keptUntil"];
        let times: Vec<_> = times.iter().map(|name| job[*name].as_str().unwrap()).collect();
        assert!(times.is_sorted(), "{times:?}");
    }
    harness.waiting(0.0).await;
}

#[tokio::test]
async fn waiting_ends_when_it_is_over_and_says_where_the_job_stands() {
    let harness = Harness::without_worker(|_| {}).await;
    let id = submit(&harness, "out x").await;
    let answer = get(&harness, &format!("/v1/jobs/{id}?wait=200")).await;
    assert_eq!(answer.json()["state"], "queued");
    assert!(answer.took >= Duration::from_millis(200));
    assert!(answer.json().get("result").is_none());
}

#[tokio::test]
async fn what_is_wrong_is_said_before_anything_is_queued() {
    let harness = Harness::without_worker(|config| config.policy.max_retention_ms = 1000).await;
    let soon = chrono::Utc::now() + chrono::TimeDelta::hours(1);
    for (queue, code, words) in [
        (json!({"tag": ["x"]}), "INVALID_REQUEST", "queue.tag: unknown field"),
        (json!({"tags": [""]}), "INVALID_REQUEST", "queue.tags"),
        (json!({"priority": "urgent"}), "INVALID_REQUEST", "queue.priority"),
        (json!({"delayMs": 1, "runAt": "2026-01-01T00:00:00Z"}), "INVALID_REQUEST", "give one"),
        (json!({"runAt": "9999-01-01T00:00:00Z"}), "INVALID_REQUEST", "queue.runAt"),
        (json!({"runAt": "soon"}), "INVALID_REQUEST", "queue.runAt: expected a time like 2026-"),
        (json!({"expiresMs": 0}), "INVALID_REQUEST", "queue.expiresMs"),
        (json!({"delayMs": 1000, "expiresMs": 1000}), "INVALID_REQUEST", "before it may begin"),
        (json!({"runAt": soon, "expiresMs": 1000}), "INVALID_REQUEST", "queue.runAt"),
        (
            json!({"maxAttempts": 2, "backoffMs": 5, "maxBackoffMs": 4}),
            "INVALID_REQUEST",
            "longest",
        ),
        (json!({"maxAttempts": 101}), "INVALID_REQUEST", "queue.maxAttempts"),
        (json!({"retryOn": ["rain"]}), "INVALID_REQUEST", "queue.retryOn"),
        (json!({"retentionMs": 0}), "INVALID_REQUEST", "queue.retentionMs"),
        (json!({"retentionMs": 1001}), "POLICY_VIOLATION", "policy.maxRetentionMs"),
    ] {
        let answer = post(&harness, &body("out x", &queue), None).await;
        let message = answer.error(400, code);
        assert!(message.contains(words), "{message}");
    }
    let body_text = json!({"request": {"runtime": "bash", "code": "out x"}, "sessionId": "s", "queue": {"delayMs": 1}});
    let message = post(&harness, &body_text.to_string(), None).await.error(400, "INVALID_REQUEST");
    assert!(message.contains("one at a time"), "{message}");
    let answer = post(&harness, &body("out x", &json!({})), Some(&"k".repeat(257))).await;
    answer.error(400, "INVALID_REQUEST");
    assert_eq!(get(&harness, "/v1/jobs").await.json(), json!({"jobs": []}));
    for path in ["/v1/jobs/x", "/v1/jobs/0198c1a0-0000-7000-8000-000000000000"] {
        get(&harness, path).await.error(404, "NOT_FOUND");
        get(&harness, &format!("{path}?wait=1000")).await.error(404, "NOT_FOUND");
        get(&harness, &format!("{path}/output")).await.error(404, "NOT_FOUND");
        send(harness.request(Method::DELETE, path)).await.error(404, "NOT_FOUND");
    }
    for (query, words) in [
        ("state=done", "state must be queued, running or finished"),
        ("since=yesterday", "since must be a time like"),
        ("cursor=x", "cursor must be"),
        ("limit=many", "limit: expected a whole number that is not negative, not \"many\""),
        ("limit=0", "limit: expected 1 to 500, not 0"),
        ("limit=501", "limit: expected 1 to 500, not 501"),
        ("tags=x", "tags: unknown query parameter; did you mean tag?"),
        ("priority=high", "priority: unknown query parameter; this route takes state, tag, since,"),
    ] {
        for list in ["jobs", "batches", "schedules", "dead-letters"] {
            let is_of_all = query.starts_with("limit") || query.starts_with("cursor");
            if list == "jobs" || is_of_all {
                let answer = get(&harness, &format!("/v1/{list}?{query}")).await;
                let message = answer.error(400, "INVALID_REQUEST");
                assert!(message.starts_with(words), "{list}: {message}");
            }
        }
    }
    assert_eq!(get(&harness, "/v1/jobs?limit=500").await.json(), json!({"jobs": []}));
    for (method, path) in [
        (Method::POST, "/v1/jobs"),
        (Method::DELETE, "/v1/jobs/x"),
        (Method::POST, "/v1/batches"),
        (Method::PATCH, "/v1/schedules/x"),
        (Method::POST, "/v1/dead-letters/x/redrive"),
        (Method::GET, "/v1/stats"),
        (Method::GET, "/v1/workers"),
        (Method::DELETE, "/v1/sessions/x"),
    ] {
        let answer = send(harness.request(method, &format!("{path}?priority=high"))).await;
        let message = answer.error(400, "INVALID_REQUEST");
        assert_eq!(message, "priority: unknown query parameter; this route takes none", "{path}");
    }
    // isol8's own routes pass over what they do not know.
    assert_eq!(get(&harness, "/sessions?state=x").await.json(), json!({"sessions": []}));
}

#[tokio::test]
async fn a_request_that_is_sent_again_is_the_same_job() {
    let harness = Harness::without_worker(|_| {}).await;
    let body_text = body("out x", &json!({}));
    let first = post(&harness, &body_text, Some("k")).await;
    assert_eq!(first.header("idempotency-replayed"), "");
    let again = post(&harness, &body_text, Some("k")).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (202, "true"));
    assert_eq!(again.json(), first.json());
    let other = post(&harness, &body("out y", &json!({})), Some("k")).await;
    other.error(422, "IDEMPOTENCY_MISMATCH");
    assert_ne!(post(&harness, &body_text, Some("l")).await.json()["id"], first.json()["id"]);
}

#[tokio::test]
async fn a_tenant_sees_and_cancels_its_own_jobs_alone() {
    let harness = Harness::without_worker(|config| config.auth.enabled = true).await;
    let (ours, theirs) = (harness.key_of("ours").await, harness.key_of("theirs").await);
    let request = harness.request_of(&ours, Method::POST, "/v1/jobs");
    let answer = send(request.body(body("out x", &json!({})))).await;
    let path = format!("/v1/jobs/{}", answer.json()["id"].as_str().unwrap());
    for method in [Method::GET, Method::DELETE] {
        send(harness.request_of(&theirs, method, &path)).await.error(404, "NOT_FOUND");
    }
    let list = |key: &str, query: &str| {
        send(harness.request_of(key, Method::GET, &format!("/v1/jobs{query}")))
    };
    assert_eq!(list(&theirs, "").await.json()["jobs"], json!([]));
    assert_eq!(list(&ours, "").await.json()["jobs"].as_array().unwrap().len(), 1);
    list(&theirs, "?tenantId=ours").await.error(403, "FORBIDDEN");
    assert_eq!(list(KEY, "?tenantId=ours").await.json()["jobs"].as_array().unwrap().len(), 1);
    assert_eq!(list(KEY, "").await.json()["jobs"], json!([]));
}

#[tokio::test]
async fn a_cancelled_job_is_answered_once_it_has_ended() {
    let harness = harness().await;
    let id = submit(&harness, "out x;hang").await;
    let path = format!("/v1/jobs/{id}");
    until(&harness, &path, "running").await;
    let answer = send(harness.request(Method::DELETE, &path)).await;
    let job = answer.json();
    assert_eq!(
        (answer.status, &job["state"], &job["outcome"]),
        (200, &json!("finished"), &json!("cancelled"))
    );
    let again = send(harness.request(Method::DELETE, &path)).await;
    assert_eq!(again.json(), job, "cancelling what has ended changes nothing");
}

#[tokio::test]
async fn a_job_that_waits_is_cancelled_and_never_runs() {
    let mut harness = Harness::without_worker(|_| {}).await;
    let id = submit(&harness, "out x").await;
    let path = format!("/v1/jobs/{id}");
    let job = send(harness.request(Method::DELETE, &path)).await.json();
    assert_eq!(
        (&job["outcome"], &job["error"]["code"]),
        (&json!("cancelled"), &json!("CANCELLED"))
    );
    harness.add_streamer().await;
    let later = submit(&harness, "out x").await;
    get(&harness, &format!("/v1/jobs/{later}?wait=10000")).await;
    assert_eq!(get(&harness, &path).await.json()["attempts"], 0);
}

async fn until(harness: &Harness, path: &str, state: &str) {
    let started = Instant::now();
    while get(harness, path).await.json()["state"] != state {
        assert!(started.elapsed() < SOON, "{path} is never {state}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn output_is_the_same_live_resumed_and_after_the_end() {
    let harness = harness().await;
    let id = submit(&harness, "setup s;ready;out a;err b;wait 300;out c;end exited 2").await;
    let path = format!("/v1/jobs/{id}/output");
    let live = get(&harness, &path).await;
    let expected = [
        json!({"type": "stdout", "data": "s", "phase": "setup", "offset": 0}),
        json!({"type": "setup-ended"}),
        json!({"type": "stdout", "data": "a", "phase": "code", "offset": 0}),
        json!({"type": "stderr", "data": "b", "phase": "code", "offset": 0}),
        json!({"type": "stdout", "data": "c", "phase": "code", "offset": 0}),
        json!({"type": "end", "outcome": "exited", "exitCode": 2,
               "totals": {"events": 5, "stdoutBytes": 1, "stderrBytes": 1}}),
    ];
    assert_eq!(events(&live.text), expected);
    let ids: Vec<&str> = live.text.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids, ["0", "1", "2", "3", "4"]);
    assert_eq!(events(&get(&harness, &path).await.text), expected, "after the end");
    let resumed = harness.request(Method::GET, &path).header("last-event-id", "1");
    assert_eq!(events(&send(resumed).await.text), expected[2..]);
    // Whatever a reader has had before counts towards the totals, were it all there is.
    for from in 3..=5 {
        let resumed = get(&harness, &format!("{path}?from={from}")).await;
        assert_eq!(events(&resumed.text), expected[from..], "from {from}");
    }
    harness.becomes("isol8_streams_open", 0.0).await;
}

#[tokio::test]
async fn output_that_is_gone_is_announced_and_a_reader_that_leaves_ends_nothing() {
    let harness = configured(|_| {}).await;
    let id = submit(&harness, "out a;lose 3;out b;wait 400;end exited 0").await;
    let path = format!("/v1/jobs/{id}/output");
    let mut reader = harness.request(Method::GET, &path).send().await.unwrap();
    read_until(&mut reader, "\"a\"").await;
    drop(reader);
    let told = events(&get(&harness, &path).await.text);
    assert_eq!(told[1], json!({"type": "gap", "from": 1, "count": 3}), "{told:?}");
    assert_eq!(told.last().unwrap()["outcome"], "exited");
}

#[tokio::test]
async fn a_delayed_job_says_until_when_it_waits_and_one_that_expired_how_it_ended() {
    let harness = Harness::without_worker(|_| {}).await;
    let queue = json!({"delayMs": 60_000, "priority": "low"});
    let id = post(&harness, &body("out x", &queue), None).await.json()["id"].clone();
    let path = format!("/v1/jobs/{}", id.as_str().unwrap());
    let job = get(&harness, &path).await.json();
    assert_eq!((&job["state"], &job["priority"]), (&json!("queued"), &json!("low")));
    assert!(job["waitsUntil"].as_str() > job["createdAt"].as_str(), "{job}");
    assert_eq!(job["waiting"], json!({"reason": "time"}));

    let queue = json!({"expiresMs": 1});
    let id = post(&harness, &body("out x", &queue), None).await.json()["id"].clone();
    // There is no worker that would notice.
    let job = get(&harness, &format!("/v1/jobs/{}?wait=10000", id.as_str().unwrap())).await.json();
    assert_eq!((&job["outcome"], &job["error"]["code"]), (&json!("expired"), &json!("EXPIRED")));
}

#[tokio::test]
async fn a_tenant_past_its_cap_waits_apart_and_is_told_why() {
    let harness = Harness::without_worker(|config| {
        config.policy.max_concurrent_jobs = 1;
        config.policy.max_queued_jobs = 2;
    })
    .await;
    let first = submit(&harness, "out x").await;
    let second = submit(&harness, "out x").await;
    let refused = post(&harness, &body("out x", &json!({})), None).await;
    assert!(refused.error(429, "TOO_MANY_JOBS").contains("policy.maxQueuedJobs"));
    assert_eq!(refused.header("retry-after"), "1");
    let waiting =
        async |id: &str| get(&harness, &format!("/v1/jobs/{id}")).await.json()["waiting"].clone();
    assert_eq!(waiting(&first).await, json!({"reason": "no_worker", "position": 1}));
    assert_eq!(waiting(&second).await, json!({"reason": "tenant_limit", "position": 1}));
}

#[tokio::test]
async fn dead_letters_are_listed_shown_driven_again_and_forgotten() {
    let harness = Harness::without_worker(|config| {
        config.redis.max_deliveries = 1;
        config.policy.max_memory = "1g".into();
    })
    .await;
    let queue = shared::redis::Queue::connect(&harness.queue_config()).await.unwrap();
    let worker = WorkerId::generate();
    let mut consumer = queue.consumer(worker).await.unwrap();
    let mut give_up = async || {
        let claimed =
            queue.claim(&mut consumer, 1, Duration::from_secs(5)).await.unwrap().remove(0);
        let why = GiveBack::Failed(Failure::new(ErrorCode::SandboxFailed, "no sandbox"));
        let done = queue.give_back(worker, &claimed.lease, why).await.unwrap();
        assert_eq!(done, Commit::Done);
        claimed.job.limits.memory_bytes
    };
    let id = submit(&harness, "out x").await;
    let path = format!("/v1/dead-letters/{id}");
    get(&harness, &path).await.error(404, "NOT_FOUND");
    let before = give_up().await;

    let listed = get(&harness, "/v1/dead-letters").await.json();
    assert_eq!(
        (&listed["jobs"][0]["id"], &listed["jobs"][0]["deadLetter"]),
        (&json!(id), &json!(true))
    );
    let letter = get(&harness, &path).await.json();
    assert_eq!(
        (&letter["outcome"], &letter["error"]["code"]),
        (&json!("failed"), &json!("SANDBOX_FAILED"))
    );
    let evidence = &letter["earlierAttempts"][0];
    assert_eq!(
        (&evidence["worker"], &evidence["message"]),
        (&json!(worker.to_string()), &json!("no sandbox"))
    );
    assert!(!letter.to_string().contains("out x"), "what it would run is nobody's to read");

    let redrive = async |body: Value| {
        send(harness.request(Method::POST, &format!("{path}/redrive")).body(body.to_string())).await
    };
    redrive(json!({"options": {"memoryLimit": "2g"}})).await.error(400, "POLICY_VIOLATION");
    // What else a job can have stays as it is, and whoever wants it otherwise is told so.
    for (body, name) in [
        (json!({"options": {"memoryLimit": "1g", "network": "host"}}), "options.network"),
        (json!({"options": {"poolStrategy": "secure"}}), "options.poolStrategy"),
        (json!({"queue": {"priority": "high"}}), "queue"),
        (json!({"memoryLimit": "1g"}), "memoryLimit"),
        (json!({"options": {"memoryLimit": 5}}), "options.memoryLimit"),
        (json!({"options": "big"}), "options"),
    ] {
        let message = redrive(body).await.error(400, "INVALID_REQUEST");
        assert!(message.starts_with(&format!("{name}: ")), "{message}");
    }
    let message =
        redrive(json!({"options": {"image": "other"}})).await.error(400, "INVALID_REQUEST");
    assert!(message.contains("memoryLimit, cpuLimit,"), "{message}");
    let again = redrive(json!({"options": {"memoryLimit": "1g"}})).await;
    assert_eq!((again.status, &again.json()["state"]), (202, &json!("queued")));
    redrive(json!({})).await.error(404, "NOT_FOUND");
    assert_eq!([before, give_up().await], [512 << 20, 1 << 30]);
    assert_eq!(send(harness.request(Method::DELETE, &path)).await.json(), json!({"ok": true}));
    get(&harness, &format!("/v1/jobs/{id}")).await.error(404, "NOT_FOUND");
    assert_eq!(get(&harness, "/v1/dead-letters").await.json(), json!({"jobs": []}));
}
