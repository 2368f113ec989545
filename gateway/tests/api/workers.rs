//! The fleet's workers: listed, and told to drain.

use http::Method;
use serde_json::json;
use shared::id::WorkerId;
use shared::redis::{Queue, WorkerFacts, WorkerOrder};

use crate::harness::{Harness, send};

fn facts(running: usize, is_draining: bool) -> WorkerFacts {
    WorkerFacts {
        version: "1.2.3".into(),
        protocol: 1,
        running,
        sandboxes: 3,
        ended: 9,
        failed: 1,
        is_draining,
        labels: "pool=gpu".parse().unwrap(),
        secrets_keys: vec!["01ab".into(), "02cd".into()],
        ..WorkerFacts::new(WorkerId::generate(), "host-0".into(), 4)
    }
}

#[tokio::test]
async fn workers_are_listed_and_drained_by_the_master_alone() {
    let harness = Harness::without_worker(|config| config.auth.enabled = true).await;
    let queue = Queue::connect(&harness.queue_config()).await.unwrap();
    let list = async || {
        let answer = send(harness.request(Method::GET, "/v1/workers")).await.json();
        answer["workers"].as_array().unwrap().clone()
    };
    assert!(list().await.is_empty());
    let worker = facts(2, false);
    queue.housekeep(Some((worker.id, worker.slots))).await.unwrap();
    assert!(list().await.is_empty(), "nothing is known of it yet");
    assert!(!queue.announce(&worker).await.unwrap());
    let id = worker.id.to_string();
    assert_eq!(
        list().await,
        [json!({
            "id": id, "name": "host-0", "state": "active", "version": "1.2.3", "slots": 4,
            "protocol": 1, "unread": 0,
            "startedAt": "1970-01-01T00:00:00.000Z", "running": 2, "sessions": 0,
            "sandboxes": 3, "ended": 9, "failed": 1,
            "labels": {"pool": "gpu"}, "onlyLabelled": false,
            "secretsKeys": ["01ab", "02cd"],
        })]
    );

    let drain = format!("/v1/workers/{id}/drain");
    let path = "/v1/workers/0198c1a0-0000-7000-8000-000000000000/drain";
    for unknown in [path, "/v1/workers/x/drain"] {
        send(harness.request(Method::POST, unknown)).await.error(404, "NOT_FOUND");
    }
    let key = harness.key_of("acme").await;
    for unknown in [path, "/v1/workers/x/drain"] {
        send(harness.request(Method::DELETE, unknown)).await.error(404, "NOT_FOUND");
    }
    for (method, path) in [
        (Method::GET, "/v1/workers"),
        (Method::POST, drain.as_str()),
        (Method::DELETE, drain.as_str()),
    ] {
        send(harness.request_of(&key, method, path)).await.error(403, "FORBIDDEN");
    }
    let mut orders = queue.orders(worker.id).await.unwrap();
    let told = send(harness.request(Method::POST, &drain)).await;
    assert_eq!((told.status, told.json()), (202, json!({"ok": true})));
    assert_eq!(orders.next().await, WorkerOrder::Drain);
    // Also if it did not listen just then.
    assert!(queue.announce(&worker).await.unwrap());
    for (running, state) in [(1, "draining"), (0, "drained")] {
        queue.announce(&WorkerFacts { id: worker.id, ..facts(running, true) }).await.unwrap();
        assert_eq!(list().await[0]["state"], state);
    }
    // Taken back, once or twice.
    for _ in 0..2 {
        let told = send(harness.request(Method::DELETE, &drain)).await;
        assert_eq!((told.status, told.json()), (202, json!({"ok": true})));
        assert_eq!(orders.next().await, WorkerOrder::Undrain);
        assert!(!queue.announce(&worker).await.unwrap());
    }
    assert_eq!(list().await[0]["state"], "active");
    queue.leave(worker.id).await.unwrap();
    assert!(list().await.is_empty());
}
