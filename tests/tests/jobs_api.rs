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
    assert_eq!(job["earlierAttempts"][0]["stdout"], "begun\n");
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

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_require_labels_run_on_workers_that_have_them() {
    let mut stack = Stack::fleet(&json!({}));
    let api = stack.gateway();
    let plain = stack.worker();
    let plain = stack.worker_id(plain);
    let labelled = |text: &str| {
        let mut body = code("bash", text);
        body["queue"] = json!({"labels": {"pool": "gpu"}});
        body
    };
    await_worker(&api, &plain, "active").await;
    let refused = api.post(labelled("echo here").to_string()).await.expect("there is an answer");
    assert_eq!(
        (refused.status, &refused.json()["code"]),
        (503, &json!("NO_WORKER")),
        "{refused:?}"
    );
    assert!(refused.text.contains("pool=gpu") && !refused.header("retry-after").is_empty());
    let waiting = submit(&api, &labelled("echo waited")).await;
    let (_, job) = call(&api, Method::GET, &format!("/v1/jobs/{waiting}"), None).await;
    assert_eq!(job["waiting"]["reason"], "no_worker", "{job}");
    assert_eq!(job["waiting"]["message"], "No live worker has the labels pool=gpu");

    let labels = [
        ("ISOL8_WORKER__LABELS", r#"{"pool": "gpu", "zone": "a"}"#),
        ("ISOL8_WORKER__ONLY_LABELLED", "true"),
    ];
    let gpu = stack.worker_with(&labels);
    let gpu = stack.worker_id(gpu);
    let worker_of = |id: &str| stack.queue().job_field(id, "worker").expect("a worker had it");
    ended(&api, &waiting).await;
    assert_eq!(worker_of(&waiting), gpu);
    await_worker(&api, &gpu, "active").await;
    for _ in 0..4 {
        let result = api.run(labelled("echo here")).await;
        assert_eq!(worker_of(result["executionId"].as_str().expect("it has an id")), gpu);
        let result = api.run(code("bash", "echo there")).await;
        assert_eq!(worker_of(result["executionId"].as_str().expect("it has an id")), plain);
    }
    // A new combination of labels is heard of while the worker waits for others.
    let mut body = labelled("echo both");
    body["queue"]["labels"]["zone"] = json!("a");
    let id = submit(&api, &body).await;
    ended(&api, &id).await;
    assert_eq!(worker_of(&id), gpu);
    // A session lives where its first call was placed.
    let mut body = labelled("kept=1");
    body["sessionId"] = json!("s");
    api.run(body.clone()).await;
    body["request"]["code"] = json!("echo kept=$kept");
    assert_eq!(api.run(body).await["stdout"], "kept=1");
    call(&api, Method::DELETE, "/session/s", None).await;

    let mut list = stack.isol8();
    list.args(["workers", "list", "--host", api.address(), "--key", KEY]);
    let list = String::from_utf8_lossy(&list.output().expect("it runs").stdout).into_owned();
    assert!(list.contains("pool=gpu,zone=a (only)"), "{list}");
    let mut submit = stack.isol8();
    submit.args(["jobs", "submit", "-r", "bash", "-e", "echo cli", "--label", "pool=gpu"]);
    submit.args(["--host", api.address(), "--key", KEY]);
    let submitted = submit.output().expect("it runs");
    let id = String::from_utf8_lossy(&submitted.stdout).trim().to_owned();
    ended(&api, &id).await;
    assert_eq!(worker_of(&id), gpu);
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_a_later_version_is_handed_on_and_ends_where_nobody_can_read_it() {
    let mut stack = Stack::fleet(&json!({}));
    let api = stack.gateway();
    let id = submit(&api, &code("bash", "echo never")).await;
    let record = format!("v1:{{s0}}:job:{id}");
    let payload = stack.queue().job_field(&id, "payload").expect("it waits");
    let mut payload: Value = serde_json::from_str(&payload).expect("it is JSON");
    payload["gpus"] = json!(2);
    let write = ["HSET", &record, "payload", &payload.to_string()];
    let _: u64 = stack.queue().run(&write).expect("redis answers");
    let workers = [stack.worker(), stack.worker()].map(|index| stack.worker_id(index));
    let job = ended(&api, &id).await;
    assert_eq!((&job["error"]["code"], &job["deadLetter"]), (&json!("NO_WORKER"), &json!(true)));
    let told = job["error"]["message"].as_str().unwrap_or_default();
    assert!(told.contains("Upgrade workers before gateways"), "{job}");
    let begun = Instant::now();
    loop {
        let (_, list) = call(&api, Method::GET, "/v1/workers", None).await;
        let unread = |worker: &Value| worker["unread"].as_u64().unwrap_or_default();
        let all: u64 = list["workers"].as_array().into_iter().flatten().map(unread).sum();
        if all >= 1 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "nobody says so: {list} {workers:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let forget = format!("/v1/dead-letters/{id}");
    assert_eq!(call(&api, Method::DELETE, &forget, None).await.0, 200);
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
