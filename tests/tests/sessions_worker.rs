//! Sessions under the real signals: whatever happens to the process that owns one, its callers are told,
//! and nothing of it stays behind.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use tests::api::KEY;
use tests::docker::{await_gone, docker, worker_of};
use tests::node::START_TIMEOUT;
use tests::{Api, Stack};
use tokio::task::JoinHandle;

fn call(session: &str, code: &str) -> Value {
    json!({"request": {"runtime": "python", "code": code, "timeoutMs": 30_000}, "sessionId": session})
}

/// Sends a call in the background.
fn start(api: &Api, body: &Value) -> JoinHandle<tests::Reply> {
    let (api, body) = (api.clone(), body.to_string());
    #[expect(clippy::disallowed_methods, reason = "awaited by each test")]
    tokio::spawn(async move { api.post(body).await.expect("there is an answer") })
}

/// Two gateways, a worker with the sessions `busy` and `idle`, and a second worker that is empty.
async fn fleet() -> (Stack, [Api; 2], usize, Value) {
    let mut stack =
        Stack::fleet(&json!({"worker": {"prewarm": ["python"], "shutdownGraceMs": 3000}}));
    let gateways = [stack.gateway(), stack.gateway()];
    let owner = stack.worker();
    let busy = gateways[0].run(call("busy", "x = 42")).await;
    gateways[0].run(call("idle", "x = 42")).await;
    stack.worker();
    (stack, gateways, owner, busy)
}

/// Waits until a call of `session` runs, by what it leaves in its container.
async fn await_started(container: &str) {
    let deadline = Instant::now() + START_TIMEOUT;
    while !docker(&["exec", container, "sh", "-c", "ls /sandbox"]).contains("started") {
        assert!(Instant::now() < deadline, "the call does not run");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn assert_lost(reply: &tests::Reply) {
    assert_eq!(reply.status, 410, "{}", reply.text);
    assert_eq!(reply.json()["code"], "SESSION_LOST");
}

const SLOW: &str = "import time; open('started', 'w').close(); time.sleep(25)";

#[tokio::test(flavor = "multi_thread")]
async fn a_session_answers_through_every_gateway_and_its_killed_owner_is_told_of() {
    let (mut stack, [one, other], owner, busy) = fleet().await;
    let again = other.run(call("busy", "print(x)")).await;
    assert_eq!((&again["stdout"], &again["containerId"]), (&json!("42"), &busy["containerId"]));
    let container = busy["containerId"].as_str().expect("results name their container").to_owned();
    assert_eq!(worker_of(&container), stack.worker_id(owner));
    let running = start(&one, &call("busy", SLOW));
    await_started(&container).await;
    let waiting = start(&other, &call("busy", "print(x)"));
    stack.node(owner).kill();
    for call in [running, waiting] {
        assert_lost(&call.await.expect("no panic"));
    }
    let idle = other.post(call("idle", "print(x)").to_string()).await.expect("an answer");
    assert_lost(&idle);
    let anew = one.run(call("idle", "print('x' in globals())")).await;
    assert_eq!((&anew["stdout"], &anew["session"]["opened"]), (&json!("False"), &json!(true)));
    let key = format!("Bearer {KEY}");
    let closed = other.send(Method::DELETE, "/session/idle", Some(&key), "").await;
    assert_eq!(closed.expect("an answer").status, 200);
    await_gone(&container);
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_is_asked_to_stop_tells_its_callers_and_removes_its_containers() {
    let (mut stack, [one, other], owner, busy) = fleet().await;
    let container = busy["containerId"].as_str().expect("results name their container").to_owned();
    let running = start(&one, &call("busy", SLOW));
    await_started(&container).await;
    let waiting = start(&other, &call("busy", "print(x)"));
    stack.node(owner).signal(Signal::SIGTERM);
    for call in [running, waiting] {
        assert_lost(&call.await.expect("no panic"));
    }
    await_gone(&container);
    assert_lost(&one.post(call("idle", "pass").to_string()).await.expect("an answer"));
    stack.finish();
}
