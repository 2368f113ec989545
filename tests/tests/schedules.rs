//! Schedules on a fleet: each run is submitted once, whichever of the workers sees it due.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use chrono::Utc;
use reqwest::Method;
use serde_json::{Value, json};
use tests::api::KEY;
use tests::{Api, Stack, code};

const SOON: Duration = Duration::from_secs(90);

async fn call(api: &Api, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let (authorization, body) = (format!("Bearer {KEY}"), body.to_string());
    let reply = api.send(method, path, Some(&authorization), body).await;
    let reply = reply.expect("there is an answer");
    (reply.status, reply.json())
}

async fn create(api: &Api, tag: &str, when: &Value) -> String {
    let mut body = code("bash", "echo hello");
    body["queue"] = json!({"tags": [tag]});
    for (name, value) in when.as_object().expect("it is an object") {
        body[name] = value.clone();
    }
    let (status, schedule) = call(api, Method::POST, "/v1/schedules", &body).await;
    assert_eq!(status, 201, "{schedule}");
    schedule["id"].as_str().expect("it has an id").to_owned()
}

/// Waits until a schedule has run so often.
async fn runs(api: &Api, id: &str, count: usize) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let (_, schedule) =
            call(api, Method::GET, &format!("/v1/schedules/{id}"), &json!({})).await;
        let runs = schedule["runs"].as_array().expect("they are listed");
        if runs.len() >= count {
            return runs.clone();
        }
        assert!(begun.elapsed() < SOON, "not {count} runs: {schedule}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn jobs(api: &Api, tag: &str) -> BTreeSet<String> {
    let path = format!("/v1/jobs?limit=500&tag={tag}");
    let (_, list) = call(api, Method::GET, &path, &json!({})).await;
    let jobs = list["jobs"].as_array().expect("they are listed").iter();
    jobs.map(|job| job["id"].as_str().expect("it has an id").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_submit_each_run_once() {
    let config = json!({"worker": {"noOp": true, "prewarm": []}});
    let mut stack = Stack::fleet(&config);
    let api = stack.gateway();
    stack.worker();
    stack.worker();

    // Far enough ahead to be so still when it is asked for.
    let at = (Utc::now() + Duration::from_secs(20)).format("%Y-%m-%dT%H:%M:%S.000Z").to_string();
    let once = create(&api, "once", &json!({"at": at})).await;
    let often = create(&api, "often", &json!({"cron": "* * * * * *"})).await;
    let seen = runs(&api, &often, 5).await;
    let (status, _) =
        call(&api, Method::PATCH, &format!("/v1/schedules/{often}"), &json!({"enabled": false}))
            .await;
    assert_eq!(status, 200);
    let one = runs(&api, &once, 1).await;
    assert_eq!(one[0]["dueAt"], json!(at));
    let (_, over) = call(&api, Method::GET, &format!("/v1/schedules/{once}"), &json!({})).await;
    assert_eq!((over.get("nextRunAt"), &over["enabled"]), (None, &json!(true)));

    // Paused: what it ran is all there is.
    let seen = runs(&api, &often, seen.len()).await;
    let due: BTreeSet<_> = seen.iter().map(|run| run["dueAt"].to_string()).collect();
    assert_eq!(due.len(), seen.len(), "no run twice: {seen:?}");
    let submitted: BTreeSet<String> = seen
        .iter()
        .map(|run| run["jobId"].as_str().expect("it was submitted").to_owned())
        .collect();
    assert_eq!(jobs(&api, "often").await, submitted);
    let only = BTreeSet::from([one[0]["jobId"].as_str().expect("it was submitted").to_owned()]);
    assert_eq!(jobs(&api, "once").await, only);
    for id in submitted.union(&only) {
        let (_, job) =
            call(&api, Method::GET, &format!("/v1/jobs/{id}?wait=60000"), &json!({})).await;
        assert_eq!(job["outcome"], "exited", "{job}");
    }
    for id in [once, often] {
        let (status, _) =
            call(&api, Method::DELETE, &format!("/v1/schedules/{id}"), &json!({})).await;
        assert_eq!(status, 200);
    }
    stack.finish();
}
