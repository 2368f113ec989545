//! A fleet on a Redis Cluster: gateways and workers as processes, real sandboxes.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};
use tests::api::KEY;
use tests::case::equal;
use tests::cluster::RedisCluster;
use tests::node::{Node, START_TIMEOUT};
use tests::{Api, Findings, Stack, docker};

/// Enough for some on every node.
const TENANTS: usize = 24;

fn launch(stack: &Stack, cluster: &RedisCluster, role: &str, arguments: &[&str]) -> Node {
    let (url, password_file) = cluster.access(role);
    let mut command = stack.isol8();
    command.arg(role).args(arguments).args(["--redis", &url]);
    command.env("ISOL8_REDIS__PASSWORD_FILE", password_file);
    Node::start(role, command)
}

fn hello(number: usize) -> Value {
    json!({"request": {"runtime": "bash", "cmd": format!("echo {number}"), "timeoutMs": 60_000}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_runs_everything_on_a_cluster() {
    // Its own Redis is not used; what counts is its configuration.
    let stack = Stack::fleet(&json!({"maxConcurrent": 2}));
    let directory = stack.join("cluster");
    let cluster = RedisCluster::start(&directory);
    let mut findings = Findings::default();
    let mut gateways = [(); 2].map(|()| launch(&stack, &cluster, "gateway", &["--key", KEY]));
    let mut worker = launch(&stack, &cluster, "worker", &[]);
    let apis = [0, 1].map(|number: usize| Api::new(gateways[number].await_port()));
    worker.await_line("isol8 worker ready", START_TIMEOUT);
    let id = worker.worker_id().expect("it got ready");

    // Jobs of tenants on all nodes, through both gateways.
    for number in 0..TENANTS {
        let tenant = format!("tenant-{number}");
        let body = hello(number).to_string();
        let reply = apis[number % 2].post_as(&tenant, "/v1/jobs", body).await;
        let outcome = reply.and_then(|reply| equal("status", &reply.status, &202));
        findings.note(&format!("submission {number}"), outcome);
    }
    for (node, keys) in cluster.keys("v1:*:listed:*").iter().enumerate() {
        findings.check(&format!("node {node} has tenants"), !keys.is_empty(), keys);
    }
    let mut seen = BTreeSet::new();
    for number in 0..TENANTS {
        let body = hello(number).to_string();
        let reply =
            apis[(number + 1) % 2].post_as(&format!("tenant-{number}"), "/execute", body).await;
        if let Some(reply) = findings.note(&format!("job {number}"), reply) {
            seen.insert(reply.json()["stdout"].as_str().unwrap_or_default().to_owned());
        }
    }
    findings.note("outputs", equal("count", &seen.len(), &TENANTS));

    // A session through either gateway, and a file of several windows.
    let call =
        |code: &str| json!({"sessionId": "s", "request": {"runtime": "python", "code": code}});
    apis[0].run(call("x = 20")).await;
    let result = apis[1].run(call("print(x + 1)")).await;
    findings.note("session", equal("stdout", &result["stdout"], &"21"));
    let authorization = format!("Bearer {KEY}");
    let stats = apis[0].send(Method::GET, "/v1/stats", Some(&authorization), "").await;
    if let Some(stats) = findings.note("stats", stats) {
        findings.note("sessions", equal("count", &stats.json()["fleet"]["sessions"], &1));
    }

    for node in gateways.iter_mut().chain([&mut worker]) {
        findings.note("ends well", node.stop());
    }
    findings.note("containers", equal("left", &docker::leftovers(&id).len(), &0));
    findings.note("rights", equal("refusals", &cluster.refusals(), &0));
    findings.report();
    drop(cluster);
    stack.finish();
}
