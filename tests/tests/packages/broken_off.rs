//! Installations that come to no end of their own: given up by a run without a server, without a source to
//! fetch from, or begun by a worker that was killed. None leaves anything behind.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::id as process_id;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use tests::api::KEY;
use tests::case::is_error;
use tests::docker::{await_gone, await_process, containers};
use tests::node::{Node, START_TIMEOUT, STOP_TIMEOUT};
use tests::registry::{Package, Registry, full_name};
use tests::{Findings, Stack, binary};
use tokio::task::JoinSet;

use crate::{docker, is_made_for, untagged, volumes, with_packages};

/// Takes connections and never answers: who fetches by way of it waits.
fn silence() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it has one");
    (listener, format!("http://{address}"))
}

/// A package that no other test and no other run asks for.
fn own_name(purpose: &str) -> String {
    format!("isol8-{purpose}-{}", process_id())
}

/// Steps of builds that were to have a package, of those that were not there before.
fn left_of(package: &str, before: &BTreeSet<String>) -> Vec<String> {
    untagged().difference(before).filter(|image| is_made_for(image, package)).cloned().collect()
}

/// Waits until a build has got as far as its first step.
fn await_step(package: &str, before: &BTreeSet<String>) {
    let deadline = Instant::now() + START_TIMEOUT;
    while left_of(package, before).is_empty() {
        assert!(Instant::now() < deadline, "no build of {package} has begun");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What is left when the engine has had time to end what was broken off.
fn left_in_the_end(package: &str, before: &BTreeSet<String>) -> Vec<String> {
    let deadline = Instant::now() + STOP_TIMEOUT;
    loop {
        let left = left_of(package, before);
        if left.is_empty() || Instant::now() > deadline {
            return left;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_run_that_gives_its_packages_up_says_so_and_takes_them_away() {
    let (_listener, proxy) = silence();
    let here = tempfile::tempdir().expect("a directory can be made");
    let mut findings = Findings::default();
    let before = untagged();
    let start = |name: &str, timeout: &str| {
        let mut command = binary::command(here.path());
        command.args(["run", "-r", "bash", "-e", "true", "--timeout", timeout, "--install", name]);
        command.env("http_proxy", &proxy).env("https_proxy", &proxy);
        Node::start("run", command)
    };
    // By the job's own limit, and by a signal.
    let name = own_name("given-up");
    let mut run = start(&name, "4000");
    let ended = run.wait(STOP_TIMEOUT).map(|status| status.code());
    findings.check("exit code", ended == Ok(Some(1)), &ended);
    let told = run.log().text();
    let words = "PACKAGE INSTALL TIMED OUT after 4000 ms. It was broken off";
    findings.check("told", told.contains(words) && !told.contains("goes on"), &told);
    let left = left_of(&name, &before);
    findings.check("nothing is left of its build", left.is_empty(), &left);
    // While the engine is between two steps: the one that it is at may come to be after all.
    for timeout in ["400", "500", "600", "700", "800"] {
        let name = own_name(&format!("given-up-{timeout}"));
        let mut run = start(&name, timeout);
        let ended = run.wait(STOP_TIMEOUT).map(|status| status.code());
        findings.check("exit code", ended == Ok(Some(1)), &ended);
        let label = format!("label=org.isol8.unfinished=run-{}", run.pid());
        let left = docker(&["images", "--all", "--quiet", "--filter", &label]);
        findings.check(&format!("nothing is left after {timeout} ms"), left.is_empty(), &left);
    }
    let name = own_name("interrupted");
    let mut run = start(&name, "600000");
    await_step(&name, &before);
    findings.note("the signal", run.stop());
    let left = left_of(&name, &before);
    findings.check("nothing is left of the second", left.is_empty(), &left);
    let left = containers(&format!("isol8.owner=run-{}", run.pid()));
    findings.check("no container", left.is_empty(), &left);
    findings.report();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_of_debian_that_is_down_is_named() {
    let proxy = ("http_proxy", "http://127.0.0.1:1");
    let config = json!({"worker": {"prewarm": []}});
    let (stack, api) = Stack::serve_with(&config, &[proxy, ("https_proxy", proxy.1)]);
    let mut findings = Findings::default();
    let (name, before) = (own_name("no-source"), untagged());
    let reply = api.post(with_packages("bash", &[&name], "true").to_string()).await;
    let text = "could not connect to 127.0.0.1:1 (connection refused)\n";
    findings.note("told", reply.and_then(|it| is_error(&it, 422, "INSTALL_FAILED", text)));
    let left = left_of(&name, &before);
    findings.check("nothing is left of its build", left.is_empty(), &left);
    stack.finish();
    findings.report();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_worker_was_installing_goes_with_the_next_start() {
    let (_listener, proxy) = silence();
    let registry = Registry::start([Package::new("endless").with_script("sleep 600")]).await;
    let place = tempfile::tempdir().expect("a directory can be made");
    let settings = place.path().join("npmrc");
    registry.write_settings(&settings);
    let settings = settings.to_str().expect("a path of ours is text");
    let environment = [
        ("http_proxy", proxy.as_str()),
        ("https_proxy", proxy.as_str()),
        ("NPM_CONFIG_USERCONFIG", settings),
    ];
    // A name that no other test takes in the meantime.
    let config = json!({"worker": {"prewarm": [], "name": own_name("worker")}});
    let mut stack = Stack::fleet(&config);
    let api = stack.gateway();
    let index = stack.worker_with(&environment);
    let worker = stack.worker_id(index);
    let mut findings = Findings::default();
    let (name, before) = (own_name("killed"), untagged());
    let key = format!("Bearer {KEY}");
    let mut jobs = Vec::new();
    for body in [
        with_packages("bash", &[&name], "true"),
        with_packages("node", &[&full_name("endless")], "1"),
    ] {
        let sent = api.send(Method::POST, "/v1/jobs", Some(&key), body.to_string()).await;
        let sent = sent.expect("the gateway answers");
        findings.check("sent", sent.status == 202, &sent.text);
        jobs.push(sent.json()["id"].as_str().unwrap_or_default().to_owned());
    }
    tokio::task::block_in_place(|| {
        await_step(&name, &before);
        await_process(&worker, "sleep 600");
        stack.node(index).kill();
    });
    // Or the next one would begin them again. It is also who tells that they are cancelled.
    let mut cancelling = JoinSet::new();
    for job in jobs {
        let (api, key) = (api.clone(), key.clone());
        cancelling.spawn(async move {
            let path = format!("/v1/jobs/{job}");
            api.send(Method::DELETE, &path, Some(&key), "").await.map(|reply| reply.status)
        });
    }
    let _next = tokio::task::block_in_place(|| stack.worker());
    for ended in cancelling.join_all().await {
        findings.check("cancelled", ended.as_ref().is_ok_and(|status| *status < 300), &ended);
    }
    tokio::task::block_in_place(|| {
        let left = left_in_the_end(&name, &before);
        findings.check("nothing is left of the build", left.is_empty(), &left);
        containers(&format!("isol8.worker={worker}")).iter().for_each(|it| await_gone(it));
    });
    let left = volumes(&worker);
    findings.check("no volume", left.is_empty(), &left);
    stack.finish();
    findings.report();
}
