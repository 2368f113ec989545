//! The fleet in numbers.

use http::Method;
use serde_json::json;
use shared::id::WorkerId;
use shared::redis::{Commit, Queue};

use crate::harness::{Harness, SOON, send};

const STATS: &str = "/v1/stats";

#[tokio::test]
async fn the_master_sees_the_fleet_and_a_key_its_own_tenant() {
    let harness = Harness::without_worker(|config| config.auth.enabled = true).await;
    let queue = Queue::connect(&harness.queue_config()).await.unwrap();
    let nothing = send(harness.request(Method::GET, STATS)).await.json();
    let fleet = json!({
        "waiting": 0, "running": 0, "delayed": 0, "backlogged": 0, "oldestWaitMs": null,
        "sessions": 0, "tenants": 0,
    });
    assert_eq!(nothing, json!({"fleet": fleet, "tenants": []}));

    let key = harness.key_of("acme").await;
    let submit = async |key: &str, delay_ms: u64| {
        let body = json!({
            "request": {"runtime": "bash", "code": "x"}, "queue": {"delayMs": delay_ms},
        });
        let request = harness.request_of(key, Method::POST, "/v1/jobs").body(body.to_string());
        assert_eq!(send(request).await.status, 202);
    };
    for delay_ms in [0, 0, 0, 3_600_000] {
        submit(&key, delay_ms).await;
    }
    let other = harness.key_of("other").await;
    submit(&other, 0).await;
    let worker = WorkerId::generate();
    let mut consumer = queue.consumer(worker).await.unwrap();
    let claimed = queue.claim(&mut consumer, 1, SOON).await.unwrap();

    let all = send(harness.request(Method::GET, STATS)).await.json();
    let fleet = &all["fleet"];
    let numbers = ["waiting", "running", "delayed", "backlogged", "tenants"];
    assert_eq!(numbers.map(|name| fleet[name].as_u64().unwrap()), [3, 1, 1, 0, 2], "{fleet}");
    assert!(fleet["oldestWaitMs"].is_u64(), "{fleet}");
    let names: Vec<_> =
        all["tenants"].as_array().unwrap().iter().map(|it| it["tenantId"].clone()).collect();
    assert_eq!(names, ["acme", "other"], "those with most first");

    let own = send(harness.request_of(&key, Method::GET, STATS)).await.json();
    assert!(own.get("fleet").is_none(), "{own}");
    assert_eq!(own["tenants"].as_array().unwrap().len(), 1);
    let tenant = &own["tenants"][0];
    assert_eq!(tenant, &all["tenants"][0]);
    assert_eq!((&tenant["active"], &tenant["open"]), (&json!(3), &json!(4)));
    assert!(tenant["openBytes"].as_u64().unwrap() > 0);

    let ending = shared::execution::Ending::Error(shared::execution::Failure::new(
        shared::ErrorCode::SandboxFailed,
        "no",
    ));
    let done = queue.finish(worker, &claimed[0].lease, &ending).await.unwrap();
    assert_eq!(done, Commit::Done);
    let after = send(harness.request(Method::GET, STATS)).await.json();
    assert_eq!((&after["fleet"]["running"], &after["fleet"]["waiting"]), (&json!(0), &json!(3)));
}
