//! A worker that speaks the queue's whole protocol but only pretends to run programs. The program
//! text says what to pretend: `print TEXT`, `sleep MS`, `fail CODE`, `big BYTES`, `exit CODE` (which prints the
//! standard input).

use std::time::Duration;

use chrono::Utc;
use serde_json::json;
use shared::execution::{Ending, ExecutionResult, Failure, Job, Outcome, Source, Timings};
use shared::id::{JobId, WorkerId};
use shared::redis::{BatchCache, Claimed, Commit, Queue};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Claims and finishes until it is dropped; tries again if the queue is away.
pub(crate) async fn run(queue: Queue) {
    let worker = WorkerId::generate();
    let mut jobs = JoinSet::new();
    loop {
        let Ok(mut consumer) = queue.consumer(worker).await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        while let Ok(claimed) = queue.claim(&mut consumer, 64, Duration::from_millis(500)).await {
            for claimed in claimed {
                jobs.spawn(pretend(queue.clone(), worker, claimed));
            }
            while jobs.try_join_next().is_some() {}
        }
        sleep(Duration::from_millis(100)).await;
    }
}

async fn pretend(queue: Queue, worker: WorkerId, claimed: Claimed) {
    let ending = ending(&claimed.job, claimed.lease.job).await;
    let commit = loop {
        match queue.finish(worker, &claimed.lease, &ending).await {
            Ok(commit) => break commit,
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    };
    if let (Commit::DoneLow, Some(batch)) = (commit, claimed.lease.batch) {
        // Who tends batches by the clock looks at each of them every two seconds only.
        let _ = queue.advance_batch(batch, &mut BatchCache::default()).await;
    }
}

pub(crate) async fn ending(job: &Job, id: JobId) -> Ending {
    let Source::Code { text, .. } = &job.source else { panic!("tests send code") };
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let stdout = match word {
        "sleep" => {
            sleep(Duration::from_millis(rest.parse().unwrap())).await;
            "slept".to_owned()
        }
        "fail" => {
            let code = serde_json::from_value(json!(rest)).unwrap();
            return Ending::Error(Failure::new(code, format!("pretended {rest}")));
        }
        "exit" => {
            let stdout = job.stdin.clone().unwrap_or_default();
            let result = result(job, id, stdout);
            return Ending::Result(ExecutionResult { exit_code: rest.parse().unwrap(), ..result });
        }
        "big" => "é\n".repeat(rest.parse::<usize>().unwrap() / 3),
        _ => rest.to_owned(),
    };
    Ending::Result(result(job, id, stdout))
}

/// What a program that printed this ends with.
pub(crate) fn result(job: &Job, id: JobId, stdout: String) -> ExecutionResult {
    ExecutionResult {
        stdout,
        stderr: String::new(),
        exit_code: 3,
        duration_ms: 1,
        truncated: false,
        execution_id: id,
        runtime: job.runtime,
        timestamp: Utc::now(),
        container_id: "none".into(),
        isolation: job.isolation,
        resource_usage: None,
        network_logs: Vec::new(),
        network_logs_dropped: 0,
        files: None,
        session: None,
        events: 0,
        outcome: Outcome::Exited,
        timings: Timings { queue_ms: 0.25, ..Timings::default() },
    }
}
