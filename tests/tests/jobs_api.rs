//! Jobs that outlive their request, through real gateways, workers and sandboxes.

use std::process::Command;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tests::api::KEY;
use tests::{Api, Stack, code, docker};

async fn call(api: &Api, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
    let body = body.map(ToString::to_string).unwrap_or_default();
    let reply = api.send(method, path, Some(&format!("Bearer {KEY}")), body).await;
    let reply = reply.expect("there is an answer");
    (reply.status, reply.json())
}

async fn submit(api: &Api, body: &Value) -> String {
    let (status, job) = call(api, Method::POST, "/v1/jobs", Some(body)).await;
    assert_eq!(status, 202, "{job}");
    job["id"].as_str().expect("it has an id").to_owned()
}

async fn ended(api: &Api, id: &str) -> Value {
    let (status, job) = call(api, Method::GET, &format!("/v1/jobs/{id}?wait=60000"), None).await;
    assert_eq!((status, &job["state"]), (200, &json!("finished")), "{job}");
    job
}

/// Waits until a job runs.
async fn await_running(api: &Api, id: &str) {
    let begun = Instant::now();
    while call(api, Method::GET, &format!("/v1/jobs/{id}"), None).await.1["state"] != "running" {
        assert!(begun.elapsed() < Duration::from_secs(60), "{id} never begins");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until so many events of a job are there to be read.
async fn await_events(stack: &Stack, id: &str, count: u64) {
    let begun = Instant::now();
    while stack.queue().run::<u64>(&["XLEN", &format!("v1:{{s0}}:out:{id}")]).unwrap_or(0) < count {
        assert!(begun.elapsed() < Duration::from_secs(60), "not {count} events of {id}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_run_are_followed_and_cancelled_on_a_fleet() {
    let mut stack = Stack::fleet(&json!({}));
    let (first, second) = (stack.gateway(), stack.gateway());
    stack.worker();

    let text = "echo one; sleep 0.3; echo two >&2; exit 3";
    let id = submit(&first, &code("bash", text)).await;
    let path = format!("/v1/jobs/{id}/output");
    let authorization = format!("Bearer {KEY}");
    let live = second.send(Method::GET, &path, Some(&authorization), "").await;
    let live = live.expect("there is an answer").text;
    let job = ended(&second, &id).await;
    assert_eq!((&job["outcome"], &job["exitCode"]), (&json!("exited"), &json!(3)), "{job}");
    assert_eq!(
        (&job["result"]["stdout"], &job["result"]["stderr"]),
        (&json!("one"), &json!("two"))
    );
    let after = first.send(Method::GET, &path, Some(&authorization), "").await;
    assert_eq!(after.expect("there is an answer").text, live, "replayed as it was seen");
    assert!(live.contains(r#""stdoutBytes":4,"stderrBytes":4"#), "{live}");

    let id = submit(&first, &code("bash", "echo begun; sleep 300")).await;
    await_running(&second, &id).await;
    let (status, job) = call(&second, Method::DELETE, &format!("/v1/jobs/{id}"), None).await;
    assert_eq!((status, &job["outcome"]), (200, &json!("cancelled")), "{job}");
    let running = docker::processes(&stack.worker_id(2));
    assert!(!running.iter().any(|line| line.contains("sleep 300")), "{running:?}");
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_tried_again_by_their_terms_and_outlive_their_workers() {
    let mut stack = Stack::fleet(&json!({}));
    let api = stack.gateway();
    let first = stack.worker();

    let mut body = code("bash", "echo told; exit 7");
    body["queue"] = json!({"maxAttempts": 3, "backoffMs": 10, "delayMs": 200, "priority": "high"});
    let id = submit(&api, &body).await;
    let job = ended(&api, &id).await;
    assert_eq!((&job["attempts"], &job["exitCode"]), (&json!(3), &json!(7)), "{job}");
    let earlier = job["earlierAttempts"].as_array().expect("there were some");
    let told: Vec<_> = earlier.iter().map(|it| (&it["exitCode"], &it["stdout"])).collect();
    assert_eq!(told, [(&json!(7), &json!("told")); 2]);

    // It ends in the second worker's sandbox alone, where the file appears.
    let text = "echo begun; until [ -e /tmp/go ]; do sleep 0.05; done; echo ended";
    let mut body = code("bash", text);
    body["options"] = json!({"timeoutMs": 300_000});
    let id = submit(&api, &body).await;
    let path = format!("/v1/jobs/{id}/output");
    let authorization = format!("Bearer {KEY}");
    let follow = api.send(Method::GET, &path, Some(&authorization), "");
    let kill = async {
        await_events(&stack, &id, 1).await;
        stack.node(first).kill();
        let second = stack.worker();
        await_events(&stack, &id, 3).await;
        let label = format!("isol8.worker={}", stack.worker_id(second));
        // Those that are being made or removed meanwhile are not the job's.
        for sandbox in docker::containers(&label) {
            let touch = ["exec", "--user", "sandbox", &sandbox, "touch", "/tmp/go"];
            Command::new("docker").args(touch).output().expect("docker can be started");
        }
    };
    let (seen, ()) = tokio::join!(follow, kill);
    let seen = seen.expect("there is an answer").text;
    let types: Vec<&str> = seen
        .lines()
        .filter_map(|line| line.strip_prefix("data: {\"type\":\"")?.split('"').next())
        .collect();
    assert_eq!(types, ["stdout", "restarted", "stdout", "stdout", "end"], "{seen}");
    let job = ended(&api, &id).await;
    assert_eq!((&job["attempts"], &job["result"]["stdout"]), (&json!(2), &json!("begun\nended")));
    assert_eq!(job["earlierAttempts"][0]["outcome"], "worker_lost");
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_worker_ends_what_it_runs_and_takes_no_more_jobs_until_it_may() {
    let mut stack = Stack::fleet(&json!({}));
    let api = stack.gateway();
    let first = stack.worker();
    let drained = stack.worker_id(first);
    let text = "until [ -e /tmp/go ]; do sleep 0.05; done; echo ended";
    let mut body = code("bash", text);
    body["options"] = json!({"timeoutMs": 300_000});
    let running = submit(&api, &body).await;
    let state = |state: &'static str| await_worker(&api, &drained, state);
    await_running(&api, &running).await;
    state("active").await;
    let path = format!("/v1/workers/{drained}/drain");
    assert_eq!(call(&api, Method::POST, &path, None).await, (202, json!({"ok": true})));
    state("draining").await;

    let second = stack.worker();
    let second = stack.worker_id(second);
    for _ in 0..8 {
        let id = submit(&api, &code("bash", "echo here")).await;
        ended(&api, &id).await;
        assert_eq!(stack.queue().job_field(&id, "worker").as_deref(), Some(second.as_str()));
    }
    for sandbox in docker::containers(&format!("isol8.worker={drained}")) {
        let touch = ["exec", "--user", "sandbox", &sandbox, "touch", "/tmp/go"];
        Command::new("docker").args(touch).output().expect("docker can be started");
    }
    let job = ended(&api, &running).await;
    assert_eq!((&job["attempts"], &job["result"]["stdout"]), (&json!(1), &json!("ended")), "{job}");
    state("drained").await;

    // Taken back, it is there again for whatever comes; the other one has gone.
    assert_eq!(call(&api, Method::DELETE, &path, None).await, (202, json!({"ok": true})));
    state("active").await;
    let other = format!("/v1/workers/{second}/drain");
    assert_eq!(call(&api, Method::POST, &other, None).await.0, 202);
    await_worker(&api, &second, "drained").await;
    let id = submit(&api, &code("bash", "echo back")).await;
    let job = ended(&api, &id).await;
    assert_eq!(job["result"]["stdout"], "back", "{job}");
    assert_eq!(stack.queue().job_field(&id, "worker").as_deref(), Some(drained.as_str()));
    stack.finish();
}

/// Waits until the list of workers has this one in this state.
async fn await_worker(api: &Api, id: &str, state: &str) {
    let begun = Instant::now();
    loop {
        let (_, list) = call(api, Method::GET, "/v1/workers", None).await;
        let workers = list["workers"].as_array().expect("it is a list");
        let found = workers.iter().find(|worker| worker["id"] == id);
        if found.is_some_and(|worker| worker["state"] == state) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{id} is not {state}: {list}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
