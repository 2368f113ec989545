//! `/v1/schedules`: made, looked at, paused, resumed, run and deleted.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Harness, send};
use crate::sse::harness;

fn body(changes: &Value) -> String {
    let mut body = json!({"request": {"runtime": "bash", "code": "out x;end exited 0",
        "env": {"TOKEN": "hush"}}, "cron": "30 9 * * MON-FRI", "timezone": "Europe/Berlin"});
    for (name, value) in changes.as_object().unwrap() {
        body[name] = value.clone();
    }
    body.to_string()
}

async fn call(harness: &Harness, method: Method, path: &str, body: &str) -> Answer {
    send(harness.request(method, path).body(body.to_owned())).await
}

async fn create(harness: &Harness, changes: &Value) -> Answer {
    call(harness, Method::POST, "/v1/schedules", &body(changes)).await
}

#[tokio::test]
async fn what_is_wrong_is_said_when_it_is_made() {
    let harness = Harness::without_worker(|config| {
        config.policy.max_schedules = 1;
        config.policy.max_timeout_ms = 1000;
        config.defaults.timeout_ms = 1000;
    })
    .await;
    for (changes, code, words) in [
        (json!({"cron": "often"}), "INVALID_REQUEST", "cron \"often\""),
        (json!({"cron": null}), "INVALID_REQUEST", "cron or at"),
        (json!({"at": "2099-01-01T00:00:00Z"}), "INVALID_REQUEST", "cron or at"),
        (json!({"cron": null, "at": "2001-01-01T00:00:00Z"}), "INVALID_REQUEST", "never run"),
        (json!({"cron": "0 0 30 2 *"}), "INVALID_REQUEST", "never run"),
        (json!({"timezone": "Mars"}), "INVALID_REQUEST", "timezone \"Mars\""),
        (json!({"missed": "maybe"}), "INVALID_REQUEST", "missed"),
        (json!({"overlap": "maybe"}), "INVALID_REQUEST", "overlap"),
        (json!({"crom": 1}), "INVALID_REQUEST", "crom"),
        (json!({"name": "n".repeat(129)}), "INVALID_REQUEST", "name"),
        (json!({"queue": {"delayMs": 1}}), "INVALID_REQUEST", "delayMs"),
        (json!({"queue": {"tags": [""]}}), "INVALID_REQUEST", "queue.tags"),
        (json!({"queue": {"webhook": {"url": "https://10.0.0.1"}}}), "POLICY_VIOLATION", "private"),
        (
            json!({"request": {"runtime": "bash", "code": "x", "timeoutMs": 2000}}),
            "POLICY_VIOLATION",
            "policy.maxTimeoutMs",
        ),
    ] {
        let answer = create(&harness, &changes).await;
        let message = answer.error(400, code);
        assert!(message.contains(words), "{changes}: {message}");
    }
    let large = json!({"request": {"runtime": "bash", "code": "x".repeat(2 << 20)}});
    create(&harness, &large).await.error(413, "PAYLOAD_TOO_LARGE");
    assert_eq!(create(&harness, &json!({})).await.status, 201);
    let full = create(&harness, &json!({})).await.error(429, "TOO_MANY_JOBS");
    assert!(full.contains("policy.maxSchedules"), "{full}");
}

#[tokio::test]
async fn a_schedule_is_made_paused_resumed_run_and_deleted() {
    let harness = harness().await;
    let made = create(&harness, &json!({"name": "report", "queue": {"tags": ["nightly"]}})).await;
    assert_eq!(made.status, 201, "{made:?}");
    let schedule = made.json();
    let id = schedule["id"].as_str().unwrap();
    let path = format!("/v1/schedules/{id}");
    assert_eq!(made.header("location"), path);
    for (name, expected) in [
        ("name", json!("report")),
        ("enabled", json!(true)),
        ("cron", json!("30 9 * * MON-FRI")),
        ("timezone", json!("Europe/Berlin")),
        ("missed", json!("once")),
        ("overlap", json!("allow")),
        ("runtime", json!("bash")),
        ("tags", json!(["nightly"])),
        ("runs", json!([])),
    ] {
        assert_eq!(schedule[name], expected, "{schedule}");
    }
    let next = schedule["nextRunAt"].as_str().unwrap();
    assert!(next.ends_with("07:30:00.000Z") || next.ends_with("08:30:00.000Z"), "{next}");
    assert!(!made.text.contains("hush"), "{made:?}");

    let paused = call(&harness, Method::PATCH, &path, r#"{"enabled": false}"#).await.json();
    assert_eq!((&paused["enabled"], paused.get("nextRunAt")), (&json!(false), None));
    let ran = call(&harness, Method::POST, &format!("{path}/run"), "").await;
    let job = ran.json()["jobId"].as_str().unwrap().to_owned();
    assert_eq!((ran.status, ran.header("location")), (202, &*format!("/v1/jobs/{job}")));
    let ended = call(&harness, Method::GET, &format!("/v1/jobs/{job}?wait=60000"), "").await.json();
    assert_eq!((&ended["outcome"], &ended["tags"]), (&json!("exited"), &json!(["nightly"])));
    let seen = call(&harness, Method::GET, &path, "").await.json();
    assert_eq!(
        (&seen["runs"][0]["outcome"], &seen["runs"][0]["jobId"]),
        (&json!("submitted"), &json!(job))
    );
    let resumed = call(&harness, Method::PATCH, &path, r#"{"enabled": true}"#).await.json();
    assert_eq!((&resumed["enabled"], resumed["nextRunAt"].as_str()), (&json!(true), Some(next)));
    let wrong = call(&harness, Method::PATCH, &path, r#"{"cron": "* * * * *"}"#).await;
    wrong.error(400, "INVALID_REQUEST");

    let list = call(&harness, Method::GET, "/v1/schedules?limit=1", "").await.json();
    assert_eq!((&list["schedules"][0]["id"], list.get("nextCursor")), (&json!(id), None));
    let stranger = "/v1/schedules?tenantId=stranger";
    assert_eq!(call(&harness, Method::GET, stranger, "").await.json(), json!({"schedules": []}));
    let gone = call(&harness, Method::DELETE, &path, "").await;
    assert_eq!((gone.status, gone.json()), (200, json!({"ok": true})));
    for (method, path) in [
        (Method::GET, path.clone()),
        (Method::DELETE, path.clone()),
        (Method::POST, format!("{path}/run")),
        (Method::GET, "/v1/schedules/x".to_owned()),
    ] {
        call(&harness, method, &path, "").await.error(404, "NOT_FOUND");
    }
    call(&harness, Method::PATCH, &path, r#"{"enabled": true}"#).await.error(404, "NOT_FOUND");
}
