//! What isol8's own server tests check and what they leave out, where
//! `checklist` and `remote` do not show it already.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tests::api::KEY;
use tests::case::is_error;
use tests::node::START_TIMEOUT;
use tests::{Api, Findings, Stack, code, docker};
use tokio::sync::Notify;

use super::{fleet, settings};

fn in_session(id: &str, text: &str) -> Value {
    let mut body = code("python", text);
    body["sessionId"] = json!(id);
    body
}

async fn sessions(api: &Api) -> Vec<Value> {
    let reply = api.send(Method::GET, "/sessions", Some(KEY), "").await.expect("an answer");
    reply.json()["sessions"].as_array().cloned().unwrap_or_default()
}

/// The process of the worker that owns the only session container.
fn owner(stack: &Stack, container: &str) -> usize {
    stack.process_of(&docker::worker_of(container))
}

/// A worker that dies takes its sessions along, and says so: never an empty sandbox.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_session_is_announced() {
    let (mut stack, [first, second]) = fleet(&settings());
    let opened = first.run(in_session("s", "x = 42")).await;
    let idle = second.run(in_session("idle", "y = 1")).await;
    let containers =
        [&opened, &idle].map(|it| it["containerId"].as_str().unwrap_or_default().to_owned());
    let owners = containers.each_ref().map(|container| owner(&stack, container));
    // A call that is under way, and one that waits behind it.
    let worker = docker::worker_of(&containers[0]);
    let program = "import subprocess; subprocess.run(['sleep', '61'])";
    let running = first.post(in_session("s", program).to_string());
    let begun = Notify::new();
    let waiting = async {
        begun.notified().await;
        second.post(in_session("s", "print(x)").to_string()).await
    };
    let killing = async {
        while !docker::processes(&worker).iter().any(|line| line.contains("sleep 61")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        begun.notify_one();
        while stack.queue().waiting_calls("s") == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stack.node(owners[0]).kill();
    };
    let (running, waiting, ()) = tokio::join!(running, waiting, killing);
    let mut findings = Findings::default();
    for (name, reply) in [("running", running), ("waiting", waiting)] {
        findings.note(name, reply.and_then(|it| is_error(&it, 410, "SESSION_LOST", "lost")));
    }
    // Whoever waited was told; the name is free again, for a new session.
    let again = second.run(in_session("s", "print('x' in globals())")).await;
    findings.check("a new one under the same name", again["stdout"] == "False", &again);
    if owners[1] == owners[0] {
        // Nobody waited on this one: its next caller is told, once.
        let told = first.post(in_session("idle", "print(y)").to_string()).await;
        findings
            .note("next caller", told.and_then(|it| is_error(&it, 410, "SESSION_LOST", "lost")));
    }
    let after = first.run(in_session("idle", "print('y' in globals())")).await;
    let expected = if owners[1] == owners[0] { "False" } else { "True" };
    findings.check("then it is open again", after["stdout"] == expected, &after);
    for session in sessions(&first).await {
        let path = format!("/session/{}", session["id"].as_str().unwrap_or_default());
        first.send(Method::DELETE, &path, Some(KEY), "").await.expect("an answer");
    }
    findings.report();
    // The dead worker's sandboxes end by themselves: nobody holds their input open any more.
    for container in containers {
        docker::await_gone(&container);
    }
    stack.finish();
}

/// Two callers, one session: one at a time, in order, on whatever gateway.
#[tokio::test(flavor = "multi_thread")]
async fn calls_of_one_session_take_turns() {
    let (stack, gateways) = fleet(&settings());
    // At once, and each may be the one that opens it.
    let calls = (0..8).map(|number| {
        let api = &gateways[number % 2];
        let text = format!(
            "seen = globals().get('seen', []); before = len(seen); import time\n\
             time.sleep(0.05); seen.append({number}); print(before, len(seen))"
        );
        async move { api.run(in_session("shared", &text)).await }
    });
    let mut counts = Vec::new();
    let mut containers = Vec::new();
    for result in futures_util::future::join_all(calls).await {
        let out = result["stdout"].as_str().unwrap_or_default();
        let numbers: Vec<usize> = out.split(' ').filter_map(|it| it.parse().ok()).collect();
        assert!(matches!(numbers[..], [before, after] if after == before + 1), "{result}");
        counts.push(numbers[1]);
        containers.push(result["containerId"].clone());
    }
    counts.sort_unstable();
    containers.dedup();
    assert_eq!(counts, (1..=8).collect::<Vec<_>>());
    assert_eq!(containers.len(), 1);
    let end = gateways[0].send(Method::DELETE, "/session/shared", Some(KEY), "").await;
    assert_eq!(end.expect("an answer").status, 200);
    stack.finish();
}

/// Idle sessions expire; one in use does not.
#[tokio::test(flavor = "multi_thread")]
async fn idle_sessions_expire() {
    let mut changes = settings();
    changes["cleanup"] = json!({"autoPrune": true, "maxContainerAgeMs": 2000});
    let (stack, [first, second]) = fleet(&changes);
    let opened = first.run(in_session("short", "z = 1")).await;
    let busy = second.run(in_session("busy", "import time; time.sleep(3); print('whole')")).await;
    assert_eq!(busy["stdout"], "whole");
    docker::await_gone(opened["containerId"].as_str().unwrap_or_default());
    let deadline = Instant::now() + START_TIMEOUT;
    while !sessions(&first).await.is_empty() {
        assert!(Instant::now() < deadline, "it does not expire");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stack.finish();
}
