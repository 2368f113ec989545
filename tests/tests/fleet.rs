//! Two gateways, two workers, one Redis: whatever happens to a member, each caller gets one result.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::case::{equal, is_error};
use tests::node::START_TIMEOUT;
use tests::{Api, Findings, Reply, Stack, command};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Long enough for any recovery; far above the lease of 3 s.
const PATIENT_MS: u64 = 60_000;

fn patient(line: &str) -> Value {
    json!({"request": {"runtime": "bash", "cmd": line, "timeoutMs": PATIENT_MS}})
}

/// Sends a job in the background.
fn start(api: &Api, body: Value) -> JoinHandle<Result<Reply, String>> {
    let api = api.clone();
    #[expect(clippy::disallowed_methods, reason = "awaited by each test")]
    tokio::spawn(async move { api.post(body.to_string()).await })
}

async fn answer(job: JoinHandle<Result<Reply, String>>) -> Result<Value, String> {
    let reply = job.await.expect("no panic")?;
    equal("status", &reply.status, &200).map_err(|error| format!("{error}: {}", reply.text))?;
    Ok(reply.json())
}

/// Two gateways and two workers; the numbers of the workers' processes.
fn fleet(config: &Value) -> (Stack, [Api; 2], [usize; 2]) {
    let mut stack = Stack::fleet(config);
    let gateways = [stack.gateway(), stack.gateway()];
    let workers = [stack.worker(), stack.worker()];
    (stack, gateways, workers)
}

/// Whether a job that both workers can take works through each gateway.
async fn is_well(gateways: &[Api], findings: &mut Findings, when: &str) {
    let jobs: Vec<_> = gateways
        .iter()
        .flat_map(|api| {
            (0..4).map(|number| (number, start(api, patient(&format!("echo {number}")))))
        })
        .collect();
    for (number, job) in jobs {
        let outcome = answer(job)
            .await
            .and_then(|result| equal("stdout", &result["stdout"], &number.to_string().as_str()));
        findings.note(when, outcome);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_is_shared_and_answers_find_their_callers() {
    let (stack, gateways, workers) = fleet(&json!({"maxConcurrent": 2}));
    let mut findings = Findings::default();
    let jobs: Vec<_> = (0..40)
        .map(|number| {
            (number, start(&gateways[number % 2], patient(&format!("sleep 0.1; echo {number}"))))
        })
        .collect();
    let (mut ids, mut took_part) = (BTreeSet::new(), BTreeSet::new());
    for (number, job) in jobs {
        let outcome = answer(job).await;
        let Some(result) = findings.note(&format!("job {number}"), outcome) else { continue };
        let stdout = equal("stdout", &result["stdout"], &number.to_string().as_str());
        findings.note(&format!("job {number}"), stdout);
        let id = result["executionId"].as_str().unwrap_or_default().to_owned();
        took_part.extend(stack.queue().job_field(&id, "worker"));
        ids.insert(id);
    }
    findings.note("ids", equal("count", &ids.len(), &40));
    let both: BTreeSet<_> = workers.iter().map(|index| stack.worker_id(*index)).collect();
    findings.note("workers", equal("those who took part", &took_part, &both));
    findings.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_killed_under_its_job() {
    let (mut stack, gateways, _) = fleet(&json!({}));
    let mut findings = Findings::default();
    let job = start(&gateways[0], patient("sleep 4; echo done"));
    let (id, worker) = stack.queue().await_running();
    let victim = stack.process_of(&worker);
    stack.node(victim).kill();
    if let Some(result) = findings.note("result", answer(job).await) {
        findings.note("output", equal("stdout", &result["stdout"], &"done"));
        findings.note("same job", equal("id", &result["executionId"], &id.as_str()));
        let other = stack.queue().job_field(&id, "worker");
        findings.check("another worker ran it", other.is_some_and(|it| it != worker), &worker);
    }
    let attempt = stack.queue().job_field(&id, "attempt");
    findings.check("second attempt", attempt.as_deref() == Some("2"), attempt);
    is_well(&gateways, &mut findings, "with one worker left").await;
    stack.worker();
    is_well(&gateways, &mut findings, "with a new worker").await;
    findings.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_worker_is_killed_and_started_again() {
    let mut stack = Stack::fleet(&json!({}));
    let api = stack.gateway();
    let victim = stack.worker();
    let mut findings = Findings::default();
    let job = start(&api, patient("sleep 1; echo done"));
    let _ = stack.queue().await_running();
    stack.node(victim).kill();
    stack.worker();
    if let Some(result) = findings.note("result", answer(job).await) {
        findings.note("output", equal("stdout", &result["stdout"], &"done"));
    }
    findings.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_its_workers_do_not_survive_is_given_up() {
    let mut stack = Stack::fleet(&json!({}));
    let api = stack.gateway();
    let job = start(&api, patient("sleep 30"));
    for _ in 0..3 {
        let index = stack.worker();
        let (_, worker) = loop {
            let running = stack.queue().await_running();
            if running.1 == stack.worker_id(index) {
                break running;
            }
            // Still the entry of the one that died.
            sleep(Duration::from_millis(50)).await;
        };
        let victim = stack.process_of(&worker);
        stack.node(victim).kill();
    }
    stack.worker();
    let reply = job.await.expect("no panic").expect("there is an answer");
    is_error(&reply, 500, "WORKER_LOST", "").expect("it is given up");
    let mut findings = Findings::default();
    is_well(&[api], &mut findings, "afterwards").await;
    findings.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_slept_past_its_lease_is_fenced() {
    let (mut stack, gateways, _) = fleet(&json!({}));
    let mut findings = Findings::default();
    let job = start(&gateways[1], patient("sleep 4; echo done"));
    let (id, worker) = stack.queue().await_running();
    let sleeper = stack.process_of(&worker);
    stack.node(sleeper).signal(Signal::SIGSTOP);
    if let Some(result) = findings.note("result", answer(job).await) {
        findings.note("output", equal("stdout", &result["stdout"], &"done"));
        let other = stack.queue().job_field(&id, "worker");
        findings.check("another worker ran it", other.is_some_and(|it| it != worker), &worker);
    }
    let before = stack.queue().job_field(&id, "result");
    stack.node(sleeper).signal(Signal::SIGCONT);
    // It wakes with a result of its own, which nobody may take.
    stack.node(sleeper).await_line("lost the lease; result dropped", START_TIMEOUT);
    let after = stack.queue().job_field(&id, "result");
    findings.check("the result stands", before.is_some() && before == after, after);
    is_well(&gateways, &mut findings, "afterwards").await;
    findings.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn members_leave_in_good_order() {
    let (mut stack, gateways, _) = fleet(&json!({"worker": {"shutdownGraceMs": 6000}}));
    let mut findings = Findings::default();

    // A worker that is asked to stop finishes its job, without anyone else running it.
    let job = start(&gateways[0], patient("sleep 1.5; echo done"));
    let (id, worker) = stack.queue().await_running();
    let leaving = stack.process_of(&worker);
    findings.note("worker ends well", stack.node(leaving).stop());
    if let Some(result) = findings.note("its job", answer(job).await) {
        findings.note("output", equal("stdout", &result["stdout"], &"done"));
    }
    let attempt = stack.queue().job_field(&id, "attempt");
    findings.check("one attempt", attempt.as_deref() == Some("1"), attempt);

    // One whose job takes longer than its grace hands it back.
    stack.worker();
    let job = start(&gateways[1], patient("sleep 11; echo done"));
    let (id, worker) = stack.queue().await_running();
    let leaving = stack.process_of(&worker);
    findings.note("worker ends well", stack.node(leaving).stop());
    if let Some(result) = findings.note("the job handed back", answer(job).await) {
        findings.note("output", equal("stdout", &result["stdout"], &"done"));
        let other = stack.queue().job_field(&id, "worker");
        findings.check("another worker ran it", other.is_some_and(|it| it != worker), &worker);
    }

    // A gateway that is asked to stop answers its callers first.
    let job = start(&gateways[0], patient("sleep 1; echo done"));
    let _ = stack.queue().await_running();
    findings.note("gateway ends well", stack.node(0).stop());
    if let Some(result) = findings.note("its caller", answer(job).await) {
        findings.note("output", equal("stdout", &result["stdout"], &"done"));
    }
    is_well(&gateways[1..], &mut findings, "through the other gateway").await;
    findings.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_restarts_under_load() {
    let (mut stack, gateways, _) = fleet(&json!({"maxConcurrent": 2}));
    let mut findings = Findings::default();
    let jobs: Vec<_> = (0..16)
        .map(|number| {
            (number, start(&gateways[number % 2], patient(&format!("sleep 0.4; echo {number}"))))
        })
        .collect();
    let _ = stack.queue().await_running();
    sleep(Duration::from_millis(300)).await;
    stack.redis().stop();
    sleep(Duration::from_millis(500)).await;
    stack.redis().start_again();
    for (number, job) in jobs {
        let outcome = match job.await.expect("no panic") {
            Ok(reply) if reply.status == 200 => {
                equal("stdout", &reply.json()["stdout"], &number.to_string().as_str())
            }
            // Not taken in: said so at once, and nothing of it is left.
            Ok(reply) => is_error(&reply, 503, "QUEUE_UNAVAILABLE", ""),
            Err(error) => Err(error),
        };
        findings.note(&format!("job {number}"), outcome);
    }
    is_well(&gateways, &mut findings, "afterwards").await;
    findings.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_killed_goes_on_where_it_was() {
    let (mut stack, api) = Stack::serve(&json!({}));
    let mut findings = Findings::default();
    let caller = start(&api, patient("sleep 6; echo done"));
    let (id, _) = stack.queue().await_running();
    // The queue's file is synced every second; a job younger than that may be forgotten.
    sleep(Duration::from_millis(1200)).await;
    stack.node(0).kill();
    findings.check("the caller hears of it", caller.await.expect("no panic").is_err(), "an answer");
    let api = stack.serve_again();
    let mut ended = None;
    for _ in 0..600 {
        ended = stack.queue().job_field(&id, "result");
        if ended.is_some() {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    findings.check(
        "the job was run",
        ended.as_deref().is_some_and(|text| text.contains("done")),
        &ended,
    );
    let result = api.run(command("bash", "echo next")).await;
    findings.note("the next job", equal("stdout", &result["stdout"], &"next"));
    findings.report();
    stack.finish();
}
