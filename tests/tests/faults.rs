//! Redis and Docker going away and coming back: callers get a typed answer in time, jobs under way
//! are not lost, and service resumes by itself.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tests::case::{equal, is_error};
use tests::gate::Gate;
use tests::node::{Node, START_TIMEOUT};
use tests::{Api, Case, Findings, Stack, command, docker};
use tokio::time::sleep;

/// How long coming back may take.
const RECOVERY: Duration = Duration::from_secs(60);
/// How long a refusal may take on a busy machine: what hangs takes longer.
const SOON: Duration = Duration::from_secs(40);
const UNAVAILABLE: (u16, &str) = (503, "QUEUE_UNAVAILABLE");

fn limited(line: &str, timeout_ms: u64) -> Value {
    json!({"request": {"runtime": "bash", "cmd": line, "timeoutMs": timeout_ms}})
}

/// Sends a job in the background.
fn start(api: &Api, body: Value) -> tokio::task::JoinHandle<Result<tests::Reply, String>> {
    let api = api.clone();
    #[expect(clippy::disallowed_methods, reason = "awaited by each test")]
    tokio::spawn(async move { api.post(body.to_string()).await })
}

/// Sends jobs until one succeeds.
async fn resumes(api: &Api) -> Result<(), String> {
    let deadline = Instant::now() + RECOVERY;
    loop {
        let outcome = Case::new("", &command("bash", "echo back")).prints("back").run(api).await;
        match outcome {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

fn in_time(reply: &tests::Reply) -> Result<(), String> {
    if reply.took < SOON { Ok(()) } else { Err(format!("took {:?}", reply.took)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_not_there_at_the_start() {
    let mut stack = Stack::fleet(&json!({}));
    stack.redis().stop();
    let (gateway, worker) = (stack.launch_gateway(), stack.launch_worker());
    stack.node(worker).await_line("the queue is not there yet", START_TIMEOUT);
    let api = Api::new(stack.node(gateway).await_port());
    let reply = api.post(limited("echo x", 1000).to_string()).await.expect("there is an answer");
    is_error(&reply, UNAVAILABLE.0, UNAVAILABLE.1, "").expect("it says so");
    stack.redis().start_again();
    stack.node(worker).await_line("isol8 worker ready", START_TIMEOUT);
    resumes(&api).await.expect("it starts when redis does");
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_goes_away_and_comes_back() {
    let mut stack = Stack::fleet(&json!({}));
    let api = stack.gateway();
    stack.worker();
    let mut findings = Findings::default();
    resumes(&api).await.expect("it works to begin with");

    // While nothing runs.
    stack.redis().stop();
    for turn in 0..2 {
        let reply = api.post(limited("echo x", 1000).to_string()).await;
        let outcome = reply.and_then(|reply| {
            is_error(&reply, UNAVAILABLE.0, UNAVAILABLE.1, "")?;
            equal("retry-after", &reply.header("retry-after").is_empty(), &false)?;
            in_time(&reply)
        });
        findings.note(&format!("refused while redis is down, {turn}"), outcome);
    }
    let health = api.send(Method::GET, "/health", None, "").await;
    findings.note("health", health.and_then(|reply| equal("status", &reply.status, &200)));
    let ready = api.send(Method::GET, "/readyz", None, "").await;
    findings.note("readiness", ready.and_then(|reply| equal("status", &reply.status, &503)));
    stack.redis().start_again();
    findings.note("resumes", resumes(&api).await);
    let ready = api.send(Method::GET, "/readyz", None, "").await;
    findings.note("readiness again", ready.and_then(|reply| equal("status", &reply.status, &200)));

    // While a job runs: it is not lost, and answered once.
    let job = start(&api, limited("sleep 2; echo done", 20_000));
    let _ = stack.queue().await_running();
    stack.redis().stop();
    sleep(Duration::from_millis(800)).await;
    stack.redis().start_again();
    let reply = job.await.expect("no panic");
    let outcome = reply.and_then(|reply| equal("answer", &reply.json()["stdout"], &"done"));
    findings.note("a job during a restart", outcome);
    findings.note("resumes", resumes(&api).await);

    // While a job runs, and for longer than it may take.
    let job = start(&api, limited("sleep 4; echo done", 5000));
    let _ = stack.queue().await_running();
    stack.redis().stop();
    let reply = job.await.expect("no panic");
    let outcome = reply.and_then(|reply| {
        is_error(&reply, UNAVAILABLE.0, UNAVAILABLE.1, "")?;
        in_time(&reply)
    });
    findings.note("a job whose result cannot be fetched", outcome);
    stack.redis().start_again();
    findings.note("resumes", resumes(&api).await);
    findings.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_own_redis_is_killed() {
    let (mut stack, api) = Stack::serve(&json!({}));
    resumes(&api).await.expect("it works to begin with");
    let pid = i32::try_from(stack.queue().server_pid()).expect("process numbers fit");
    let killed =
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    killed.expect("it ran");
    // The server is to supervise it: either it starts it again, or it ends so that its own
    // supervisor can. A server that stays up without a queue is neither.
    let deadline = Instant::now() + RECOVERY;
    let mut outcome = Err(String::new());
    while outcome.is_err() && Instant::now() < deadline && stack.node(0).try_wait().is_none() {
        outcome =
            Case::new("", &command("bash", "echo back")).prints("back").run(&api).await.map(|_| ());
        sleep(Duration::from_millis(200)).await;
    }
    if let Some(status) = stack.node(0).try_wait() {
        assert!(!status.success(), "a server that lost its queue must not end as if all was well");
        assert_eq!(status.code().map(|_| ()), Some(()), "it must not crash: {status}");
        return;
    }
    outcome.expect("its redis is back");
    stack.renew_own_redis();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_is_not_there_at_the_start() {
    let gate = Gate::open();
    gate.shut();
    let stack = Stack::fleet(&json!({}));
    let mut command = stack.isol8();
    command.args(["serve", "--key", "k", "--data-dir", "data"]).env("DOCKER_HOST", gate.address());
    let mut node = Node::start("serve", command);
    let status = node.wait(START_TIMEOUT).expect("it gives up");
    let log = node.log().text();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("[ERR]") && log.contains("cannot reach the Docker engine"), "{log}");
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_goes_away_and_comes_back() {
    let gate = Gate::open();
    let (stack, api) = Stack::serve_with(&json!({}), &[("DOCKER_HOST", &gate.address())]);
    let mut findings = Findings::default();
    resumes(&api).await.expect("it works to begin with");

    // While nothing runs: an answer that says so, in time.
    gate.shut();
    let reply = api.post(limited("echo x", 5000).to_string()).await;
    let outcome = reply.and_then(|reply| {
        is_error(&reply, 500, "SANDBOX_FAILED", "")?;
        in_time(&reply)
    });
    findings.note("refused while docker is down", outcome);
    gate.reopen();
    findings.note("resumes", resumes(&api).await);

    // While a job runs: it is run again.
    let job = start(&api, limited("sleep 4; echo done", 30_000));
    let (id, worker) = stack.queue().await_running();
    docker::await_process(&worker, "sleep 4");
    // Every connection is cut, and nobody is refused a new one: the next attempt finds the engine.
    gate.shut();
    gate.reopen();
    let reply = job.await.expect("no panic");
    let outcome = reply.and_then(|reply| {
        equal("answer", &reply.json()["stdout"], &"done")
            .map_err(|error| format!("{error}: {}", reply.text))
    });
    findings.note("a job whose sandbox was lost", outcome);
    let attempt = stack.queue().job_field(&id, "attempt");
    let was_run_again = attempt.as_deref().is_some_and(|attempt| attempt != "1");
    findings.check("it was run again", was_run_again, attempt);
    findings.note("resumes", resumes(&api).await);
    findings.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_does_not_answer() {
    // Three attempts, each bounded by the engine's patience, and what lies between them.
    const PATIENCE: Duration = Duration::from_secs(80);
    let gate = Gate::open();
    let (stack, api) = Stack::serve_with(&json!({}), &[("DOCKER_HOST", &gate.address())]);
    let mut findings = Findings::default();
    resumes(&api).await.expect("it works to begin with");
    gate.hold(true);
    let reply = tokio::time::timeout(PATIENCE, api.post(limited("echo x", 1000).to_string())).await;
    gate.hold(false);
    let outcome = reply.map_err(|_| format!("no answer within {PATIENCE:?}")).flatten();
    let outcome = outcome.and_then(|reply| is_error(&reply, 500, "SANDBOX_FAILED", ""));
    findings.note("a job while the engine is silent", outcome);
    findings.note("resumes", resumes(&api).await);
    findings.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_go_away() {
    let (stack, api) = Stack::serve(&json!({"maxConcurrent": 2}));
    let jobs: Vec<_> = (0..4).map(|_| start(&api, limited("sleep 1", 5000))).collect();
    let _ = stack.queue().await_running();
    for job in jobs {
        job.abort();
    }
    // The jobs go on; the next waits its turn.
    resumes(&api).await.expect("the server is not disturbed");
    stack.finish();
}
