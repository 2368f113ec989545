//! `queue.webhook` and `/v1/jobs/{id}/deliveries`, and the same of batches: what is let in, what is shown, and
//! what never is.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};
use shared::redis::{DeliveryAttempt, DeliveryState, Queue};
use shared::webhook::WebhookEvent;

use crate::harness::{Answer, Harness, send};
use crate::sse::harness;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

async fn post(harness: &Harness, webhook: &Value) -> Answer {
    let body = json!({"request": {"runtime": "bash", "code": "out x;end exited 0"},
        "queue": {"webhook": webhook}});
    send(harness.request(Method::POST, "/v1/jobs").body(body.to_string())).await
}

async fn get(harness: &Harness, path: &str) -> Answer {
    send(harness.request(Method::GET, path)).await
}

#[tokio::test]
async fn what_a_webhook_may_not_be_is_said_before_anything_is_queued() {
    let harness = Harness::without_worker(|_| {}).await;
    for (webhook, code, words) in [
        (json!({}), "INVALID_REQUEST", "queue.webhook"),
        (json!({"url": "nowhere", "secret": SECRET}), "INVALID_REQUEST", "queue.webhook.url"),
        (json!({"url": "http://a.example", "secret": SECRET}), "POLICY_VIOLATION", "allowHttp"),
        (json!({"url": "https://127.0.0.1", "secret": SECRET}), "POLICY_VIOLATION", "loopback"),
        (json!({"url": "https://10.0.0.1", "secret": SECRET}), "POLICY_VIOLATION", "private"),
        (json!({"url": "https://[fd00::1]", "secret": SECRET}), "POLICY_VIOLATION", "unique local"),
        (json!({"url": "https://a.example"}), "INVALID_REQUEST", "policy.webhookSecretFile"),
        (json!({"url": "https://a.example", "secret": "hunter2"}), "INVALID_REQUEST", "whsec_"),
        (json!({"url": "https://a.example", "events": ["x"]}), "INVALID_REQUEST", "events"),
        (
            json!({"url": "https://a.example", "secret": SECRET, "events": ["completed"]}),
            "INVALID_REQUEST",
            "a job never ends as completed",
        ),
        (json!({"url": "https://a.example", "to": 1}), "INVALID_REQUEST", "to"),
    ] {
        let answer = post(&harness, &webhook).await;
        let message = answer.error(400, code);
        assert!(message.contains(words) && !message.contains("hunter2"), "{message}");
    }
    assert_eq!(get(&harness, "/v1/jobs").await.json(), json!({"jobs": []}));
}

#[tokio::test]
async fn deliveries_are_listed_and_had_again_without_their_secrets() {
    let harness = harness().await;
    let answer =
        post(&harness, &json!({"url": "https://a.example/in?token=hush", "secret": SECRET})).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let job = get(&harness, &format!("/v1/jobs/{id}?wait=60000")).await;
    let path = format!("/v1/jobs/{id}/deliveries");
    let list = get(&harness, &path).await;
    let delivery = format!("msg_{id}_1");
    assert_eq!(
        list.json(),
        json!({"deliveries": [{"id": delivery, "state": "pending", "url": "https://a.example/in",
            "tries": 0, "attempts": []}]})
    );
    for text in [&job.text, &list.text, &get(&harness, "/v1/jobs").await.text] {
        assert!(
            !text.contains("whsec_") && !text.contains("MfKQ9") && !text.contains("hush"),
            "{text}"
        );
    }

    // What a worker notes.
    let queue = Queue::connect(&harness.queue_config()).await.unwrap();
    let none = BTreeMap::new();
    let claimed = queue.claim_webhooks(1, 60_000, 1, &none).await.unwrap().0.remove(0);
    let mut log = claimed.log.clone();
    log.state = DeliveryState::Failed;
    log.note(DeliveryAttempt {
        at_ms: 1_772_619_072_345,
        took_ms: 7,
        worker: "w".into(),
        status: Some(410),
        error: Some("no more".into()),
    });
    assert!(queue.settle_webhook(&claimed, &log, None).await.unwrap());
    let seen = get(&harness, &path).await.json()["deliveries"][0].clone();
    assert_eq!((&seen["state"], &seen["tries"]), (&json!("failed"), &json!(1)));
    assert_eq!(
        seen["attempts"],
        json!([{"at": "2026-03-04T10:11:12.345Z", "tookMs": 7, "worker": "w", "status": 410,
            "error": "no more"}])
    );

    let retry = format!("{path}/{delivery}/retry");
    let again = send(harness.request(Method::POST, &retry)).await;
    assert_eq!((again.status, again.json()), (202, json!({"ok": true})));
    assert_eq!(get(&harness, &path).await.json()["deliveries"][0]["state"], "pending");
    assert_eq!(queue.claim_webhooks(1, 60_000, 1, &none).await.unwrap().0.len(), 1);
    for path in [
        format!("{path}/msg_{id}_2/retry"),
        format!("{path}/1/retry"),
        "/v1/jobs/0198c1a0-0000-7000-8000-000000000000/deliveries/x/retry".to_owned(),
    ] {
        send(harness.request(Method::POST, &path)).await.error(404, "NOT_FOUND");
    }
    get(&harness, "/v1/jobs/0198c1a0-0000-7000-8000-000000000000/deliveries")
        .await
        .error(404, "NOT_FOUND");
}

async fn post_batch(harness: &Harness, webhook: &Value) -> Answer {
    let head = json!({"request": {"runtime": "bash", "code": "end exited 0"},
        "queue": {"webhook": webhook}});
    let request = harness.request(Method::POST, "/v1/batches");
    let request = request.header("content-type", "application/x-ndjson");
    send(request.body(format!("{head}\n{{}}\n{{}}\n"))).await
}

#[tokio::test]
async fn a_batch_may_have_what_a_job_may_and_its_own_deliveries() {
    let harness = Harness::without_worker(|_| {}).await;
    for (webhook, code, words) in [
        (json!({"url": "nowhere", "secret": SECRET}), "INVALID_REQUEST", "queue.webhook.url"),
        (json!({"url": "https://127.0.0.1", "secret": SECRET}), "POLICY_VIOLATION", "loopback"),
        (json!({"url": "https://a.example"}), "INVALID_REQUEST", "policy.webhookSecretFile"),
        (json!({"url": "https://a.example", "secret": "hunter2"}), "INVALID_REQUEST", "whsec_"),
        (
            json!({"url": "https://a.example", "secret": SECRET, "events": ["dead_letter"]}),
            "INVALID_REQUEST",
            "a batch never ends as dead_letter",
        ),
    ] {
        let message = post_batch(&harness, &webhook).await.error(400, code);
        assert!(message.contains(words) && !message.contains("hunter2"), "{message}");
        assert!(message.starts_with("line 1: "), "{message}");
    }
    assert_eq!(get(&harness, "/v1/batches").await.json(), json!({"batches": []}));

    let webhook = json!({"url": "https://a.example/in?token=hush", "secret": SECRET});
    let answer = post_batch(&harness, &webhook).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/batches/{id}/deliveries");
    assert_eq!(get(&harness, &path).await.json(), json!({"deliveries": []}), "it has not ended");
    let stopped = send(harness.request(Method::DELETE, &format!("/v1/batches/{id}"))).await;
    assert_eq!(stopped.json()["outcome"], "cancelled", "{stopped:?}");
    let list = get(&harness, &path).await;
    let delivery = format!("msg_{id}_1");
    assert_eq!(
        list.json(),
        json!({"deliveries": [{"id": delivery, "state": "pending", "url": "https://a.example/in",
            "tries": 0, "attempts": []}]})
    );
    for text in [&stopped.text, &list.text, &get(&harness, "/v1/batches").await.text] {
        assert!(!text.contains("MfKQ9") && !text.contains("hush"), "{text}");
    }

    // What a worker notes.
    let queue = Queue::connect(&harness.queue_config()).await.unwrap();
    let claimed = queue.claim_webhooks(1, 60_000, 1, &BTreeMap::new()).await.unwrap().0.remove(0);
    let mut log = claimed.log.clone();
    (log.state, log.event) = (DeliveryState::Failed, Some(WebhookEvent::Cancelled));
    assert!(queue.settle_webhook(&claimed, &log, None).await.unwrap());
    let seen = get(&harness, &path).await.json()["deliveries"][0].clone();
    assert_eq!((&seen["state"], &seen["type"]), (&json!("failed"), &json!("batch.cancelled")));
    let retry = format!("{path}/{delivery}/retry");
    let again = send(harness.request(Method::POST, &retry)).await;
    assert_eq!((again.status, again.json()), (202, json!({"ok": true})));
    assert_eq!(get(&harness, &path).await.json()["deliveries"][0]["state"], "pending");
    for path in [
        format!("{path}/msg_{id}_2/retry"),
        format!("{path}/1/retry"),
        // It is no job.
        format!("/v1/jobs/{id}/deliveries/{delivery}/retry"),
    ] {
        send(harness.request(Method::POST, &path)).await.error(404, "NOT_FOUND");
    }
    for path in [format!("/v1/jobs/{id}/deliveries"), "/v1/batches/x/deliveries".to_owned()] {
        get(&harness, &path).await.error(404, "NOT_FOUND");
    }
}
