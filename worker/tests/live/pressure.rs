//! Workers without a slot to spare, and workers that the queue is lost to or that lost the queue.

use std::time::{Duration, Instant};

use bytes::Bytes;
use shared::ErrorCode;
use shared::execution::{Call, Content, Ending, Job, Outcome};
use shared::id::{JobId, SessionId, TransferId};
use shared::redis::{Cancelled, JobState};

use crate::harness::{Choices, Fleet, SOON, await_silence};
use crate::programs::{failure, python, result};

fn one_slot() -> Choices {
    Choices { max_concurrent: 1, ..Choices::default() }
}

/// A program that runs until it is stopped.
fn endless() -> Job {
    let mut job = python("import time\nwhile True: time.sleep(1)");
    job.timeout_ms = 120_000;
    job
}

async fn cancel(fleet: &Fleet, id: JobId) {
    assert_eq!(fleet.queue.cancel(&fleet.tenant, id).await.unwrap(), Cancelled::Asked);
    // Its program may not have begun yet.
    let was_cancelled = match fleet.ending(id).await {
        Ending::Result(result) => result.outcome == Outcome::Cancelled,
        Ending::Error(failure) => failure.code == ErrorCode::Cancelled,
        Ending::File(_) => false,
    };
    assert!(was_cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_comes_back_to_its_own_worker_is_run_once_more_and_once_only() {
    let fleet = Fleet::start().await;
    let id = fleet.enqueue(&endless()).await;
    fleet.await_running(id).await;
    // As if the worker had not renewed its lease in time.
    let mut stream: Vec<String> = fleet.redis(&["KEYS", "*:jobs"]);
    stream.retain(|stream| fleet.redis::<u64>(&["XLEN", stream]) > 0);
    let (stream, record) = (&stream[0], stream[0].replace(":jobs", &format!(":job:{id}")));
    let worker = fleet.worker().id.to_string();
    let entry: String = fleet.redis(&["HGET", &record, "entry"]);
    let deadline = Instant::now() + SOON;
    while fleet.redis::<u32>(&["HGET", &record, "attempt"]) < 2 {
        assert!(Instant::now() < deadline, "nobody takes it over");
        let age = ["IDLE", "60000", "JUSTID"];
        let claim = ["XCLAIM", stream, "workers", &worker, "0", &entry];
        let _: redis::Value = fleet.redis(&[&claim[..], &age[..]].concat());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // The first run was stopped: its slot is free.
    let other = fleet.enqueue(&python("print(1)")).await;
    assert_eq!(result(fleet.ending(other).await).stdout, "1");
    // The second one's lease is still held and renewed.
    let state = fleet.queue.state(&fleet.tenant, id).await.unwrap();
    assert!(matches!(state, JobState::Running), "{state:?}");
    cancel(&fleet, id).await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_does_not_keep_a_slot_from_jobs() {
    let fleet = Fleet::start_with(one_slot()).await;
    fleet.python("s", "pass").await;
    let transfer = TransferId::generate();
    let content = Content::Transfer(transfer);
    let call = Call::Write { path: "f".into(), mode: 0o644, content };
    let writing = fleet.call("s", &call).await.unwrap();
    let mut sender = fleet.queue.transfer(&fleet.tenant, transfer).sender(SOON).await.unwrap();
    sender.send(Bytes::from_static(b"half")).await.unwrap();
    let job = fleet.enqueue(&python("print(1)")).await;
    assert_eq!(result(fleet.ending(job).await).stdout, "1");
    sender.finish().await.unwrap();
    fleet.reply(writing).await.unwrap();
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_while_a_job_has_the_only_slot() {
    let idle = Some(Duration::from_secs(10));
    let fleet = Fleet::start_with(Choices { session_idle: idle, ..one_slot() }).await;
    fleet.python("closed", "pass").await;
    fleet.python("expired", "pass").await;
    let job = fleet.enqueue(&endless()).await;
    fleet.await_running(job).await;
    // A call waits for the slot; whoever closes the session does not.
    let waiting = fleet.call("closed", &Call::Execute { job: python("pass") }).await.unwrap();
    let id = SessionId::new("closed").unwrap();
    assert!(fleet.queue.close_session(&fleet.tenant, &id).await.unwrap());
    assert_eq!(failure(fleet.ending(waiting).await).code, ErrorCode::Cancelled);
    fleet.await_sessions(0).await;
    cancel(&fleet, job).await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_worker_tells_the_callers_of_a_lost_one() {
    let mut fleet = Fleet::start().await;
    fleet.python("s", "pass").await;
    let running = fleet.call("s", &Call::Execute { job: endless() }).await.unwrap();
    fleet.await_running(running).await;
    let killed = fleet.kill_worker();
    fleet.add_worker(one_slot()).await;
    let job = fleet.enqueue(&endless()).await;
    fleet.await_running(job).await;
    assert_eq!(failure(fleet.ending(running).await).code, ErrorCode::SessionLost);
    cancel(&fleet, job).await;
    await_silence(killed).await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stops_without_a_queue_to_tell() {
    let grace = Duration::from_millis(200);
    let mut fleet = Fleet::start_with(Choices { grace, ..Choices::default() }).await;
    fleet.python("s", "pass").await;
    let job = fleet.enqueue(&endless()).await;
    fleet.await_running(job).await;
    fleet.signal_redis("STOP");
    let stopped = tokio::time::timeout(SOON, fleet.stop_worker()).await;
    fleet.signal_redis("CONT");
    assert!(stopped.is_ok(), "it waits for the queue");
    // What it could not tell, others find out.
    fleet.add_worker(Choices::default()).await;
    fleet.await_sessions(0).await;
    let record = fleet.redis::<Vec<String>>(&["KEYS", &format!("*:job:{job}")]).remove(0);
    let new = fleet.worker().id.to_string();
    let deadline = Instant::now() + SOON;
    while fleet.redis::<Option<String>>(&["HGET", &record, "worker"]).as_ref() != Some(&new) {
        assert!(Instant::now() < deadline, "nobody takes it over");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cancel(&fleet, job).await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_its_sessions_end_cut_short_is_recorded() {
    let fleet = Fleet::start().await;
    fleet.python("s", "pass").await;
    let running = fleet.call("s", &Call::Execute { job: endless() }).await.unwrap();
    let opening = fleet.call("new", &Call::Execute { job: endless() }).await.unwrap();
    for (session, call) in [("s", running), ("new", opening)] {
        fleet.await_running(call).await;
        let id = SessionId::new(session).unwrap();
        assert!(fleet.queue.close_session(&fleet.tenant, &id).await.unwrap());
        let deadline = Instant::now() + SOON;
        let is_recorded = |log: &str| {
            let mut lines = log.lines().filter(|line| line.contains(&call.to_string()));
            lines.any(|line| line.contains("\"outcome\":\"cancelled\""))
        };
        while !is_recorded(&fleet.audit_log()) {
            assert!(Instant::now() < deadline, "{}", fleet.audit_log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    fleet.finish().await;
}
