//! Jobs that wait by their own terms: priorities, delays, expiry, and programs that are tried again.

use std::time::Duration;

use bytes::Bytes;
use shared::error::ErrorCode;
use shared::execution::{EventKind, Phase, Priority, Stream, Terms};
use shared::id::JobId;
use shared::labels::Labels;
use shared::redis::{
    Cancelled, Claimed, Commit, Depth, GiveBack, JobRecord, JobState, Listing, Quota, Submission,
};

use crate::harness::{Fleet, Redis, ending, failure, job, outlive_lease};

/// Not within a test.
const FAR_MS: u64 = 3_600_000;

/// Long enough for a test, so that what is left behind is seen to expire.
const KEPT: Terms = Terms {
    labels: Labels::new(),
    tags: Vec::new(),
    retention_ms: 60_000,
    priority: Priority::Normal,
    delay_ms: None,
    run_at_ms: None,
    expires_ms: None,
    retry: None,
    webhook: None,
    batch: None,
};

async fn submit(fleet: &Fleet, terms: Terms) -> JobId {
    let id = JobId::generate();
    let quota = Quota { max_active: 1000, ..Quota::default() };
    let submission = Submission { tenant: &fleet.tenant, id, reply_to: None, quota };
    let listing = Listing { terms: &terms, once: None };
    fleet.queue.submit(submission, listing, &job()).await.unwrap();
    id
}

async fn submit_as(fleet: &Fleet, priority: Priority) -> JobId {
    submit(fleet, Terms { priority, ..KEPT }).await
}

async fn record(fleet: &Fleet, id: JobId) -> JobRecord {
    fleet.queue.job(&fleet.tenant, id).await.unwrap().unwrap()
}

/// Moves a job's time in one of the sets of what is due to the past.
fn come_due(redis: &Redis, set: &str, id: JobId) {
    let key = format!("v1:{{s0}}:{set}");
    let added: u64 = redis.run(&["ZADD", &key, "XX", "1", &id.to_string()]);
    assert_eq!(added, 0, "it was there");
    assert_eq!(redis.run::<u64>(&["ZSCORE", &key, &id.to_string()]), 1, "and still is");
}

async fn none_ready(fleet: &mut Fleet) {
    let block = Duration::from_millis(50);
    assert!(fleet.queue.claim(&mut fleet.consumer, 4, block).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_delayed_job_is_not_begun_before_its_time_and_then_is() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let now_ms = JobId::generate().generated_ms();
    let later = submit(&fleet, Terms { delay_ms: Some(FAR_MS), ..KEPT }).await;
    let at = submit(&fleet, Terms { run_at_ms: Some(now_ms + FAR_MS), ..KEPT }).await;
    let past = submit(&fleet, Terms { run_at_ms: Some(now_ms - 400), ..KEPT }).await;
    assert_eq!(fleet.claim_one().await.lease.job, past);
    fleet.queue.housekeep(None).await.unwrap();
    none_ready(&mut fleet).await;
    assert!(record(&fleet, later).await.due_ms >= Some(now_ms + FAR_MS));

    for id in [later, at] {
        let due_ms: u64 = redis.run(&["ZSCORE", "v1:{s0}:delayed", &id.to_string()]);
        assert!(due_ms.abs_diff(now_ms + FAR_MS) < FAR_MS, "{due_ms}");
        come_due(&redis, "delayed", id);
    }
    fleet.queue.housekeep(None).await.unwrap();
    fleet.queue.housekeep(None).await.unwrap();
    let claimed = fleet.claim(4).await;
    let mut names: Vec<JobId> = claimed.iter().map(|it| it.lease.job).collect();
    names.sort();
    assert_eq!(names, [later, at]);
    let age_ms = claimed[0].age.as_secs_f64() * 1000.0;
    // It was looked for in vain for longer than that before its time came.
    assert!(claimed[0].queued_ms + 50.0 <= age_ms, "a delay is no time in line");
    assert_eq!(record(&fleet, later).await.due_ms, None);
}

#[tokio::test]
async fn a_delayed_job_can_be_cancelled() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    let id = submit(&fleet, Terms { delay_ms: Some(50), expires_ms: Some(50), ..KEPT }).await;
    assert!(record(&fleet, id).await.due_ms.is_some());
    assert_eq!(fleet.queue.cancel(&fleet.tenant, id).await.unwrap(), Cancelled::Now);
    assert_eq!(record(&fleet, id).await.due_ms, None, "it waits for nothing");
    tokio::time::sleep(Duration::from_millis(60)).await;
    fleet.queue.housekeep(None).await.unwrap();
    assert_eq!(fleet.failure(id).await.code, ErrorCode::Cancelled);
    for set in ["delayed", "expiring"] {
        assert_eq!(redis.run::<u64>(&["ZCARD", &format!("v1:{{s0}}:{set}")]), 0, "{set}");
    }
    assert_eq!(fleet.queue.depth().await.unwrap(), Depth::default());
}

#[tokio::test]
async fn a_job_that_does_not_begin_in_time_ends_as_expired() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let in_time = submit(&fleet, Terms { expires_ms: Some(FAR_MS), ..KEPT }).await;
    let claimed = fleet.claim_one().await;
    let _: u64 = redis.run(&["HSET", &format!("v1:{{s0}}:job:{in_time}"), "expires_ms", "1"]);
    let terms = Terms { expires_ms: Some(1), ..KEPT };
    let (noticed, delayed) = (
        submit(&fleet, terms.clone()).await,
        submit(&fleet, Terms { delay_ms: Some(FAR_MS), ..terms.clone() }).await,
    );
    tokio::time::sleep(Duration::from_millis(5)).await;
    fleet.queue.housekeep(None).await.unwrap();
    for id in [noticed, delayed] {
        assert_eq!(fleet.failure(id).await.code, ErrorCode::Expired);
    }
    // Nobody keeps house here: whoever takes it notices.
    let taken = submit(&fleet, terms).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    none_ready(&mut fleet).await;
    assert_eq!(fleet.failure(taken).await.code, ErrorCode::Expired);
    assert_eq!(record(&fleet, taken).await.summary.unwrap().outcome, "expired");

    let why = GiveBack::Failed(failure("broken"));
    let back = fleet.queue.give_back(fleet.worker, &claimed.lease, why).await.unwrap();
    assert_eq!(back, Commit::Done);
    let again = fleet.claim_one().await;
    assert_eq!(again.lease.job, in_time, "what has begun once does not expire");
    fleet.finish(&again, "done").await;
    assert_eq!(fleet.queue.depth().await.unwrap(), Depth::default());
}

#[tokio::test]
async fn urgent_jobs_begin_first_and_no_priority_starves() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    // From now on the worker knows that there are priorities.
    submit_as(&fleet, Priority::Low).await;
    let claimed = fleet.claim_one().await;
    fleet.finish(&claimed, "done").await;
    for _ in 0..32 {
        for priority in [Priority::Low, Priority::Normal, Priority::High] {
            submit_as(&fleet, priority).await;
        }
    }
    let mut begun = Vec::new();
    for size in [1, 1, 1, 1, 1, 1, 1, 1, 8, 16].into_iter().chain([32; 3]) {
        let claimed = fleet.claim(size).await;
        assert!(claimed.len() <= size);
        for it in claimed {
            begun.push(it.terms.as_ref().unwrap().priority);
            fleet.finish(&it, "done").await;
        }
    }
    let count = |range: std::ops::Range<usize>, priority| {
        begun[range].iter().filter(|it| **it == priority).count()
    };
    assert_eq!(begun.len(), 96);
    for range in [0..8, 8..16, 16..32] {
        let eighths = range.len() / 8;
        assert_eq!(count(range.clone(), Priority::High), 5 * eighths, "{begun:?}");
        assert_eq!(count(range.clone(), Priority::Low), eighths, "{begun:?}");
    }
    assert_eq!(fleet.queue.depth().await.unwrap(), Depth::default());
}

#[tokio::test]
async fn priorities_are_held_by_leases_given_back_and_taken_over_like_others() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    let id = submit_as(&fleet, Priority::High).await;
    let first = fleet.claim_one().await;
    let back = fleet.queue.give_back(fleet.worker, &first.lease, GiveBack::Shutdown).await;
    assert_eq!(back.unwrap(), Commit::Done);
    let second = fleet.claim_one().await;
    assert_eq!((second.lease.job, second.attempt), (id, 1));
    outlive_lease().await;
    let (thief, mut consumer) = fleet.second_worker().await;
    let stolen = fleet.queue.reclaim(&mut consumer, 1).await.unwrap().remove(0);
    assert_eq!((stolen.lease.job, stolen.attempt), (id, 2));
    assert!(
        fleet.queue.renew(thief, std::slice::from_ref(&stolen.lease)).await.unwrap().is_empty()
    );
    let late = fleet.queue.finish(fleet.worker, &second.lease, &ending("late")).await.unwrap();
    assert_eq!(late, Commit::Fenced);
    let done = fleet.queue.finish(thief, &stolen.lease, &ending("done")).await.unwrap();
    assert_eq!(done, Commit::Done);
    let lost = fleet.queue.attempts(&fleet.tenant, id).await.unwrap().remove(0);
    assert_eq!((lost.outcome.as_str(), lost.worker), ("worker_lost", fleet.worker.to_string()));
    assert!(lost.started_ms > 0 && lost.started_ms <= lost.ended_ms);
    assert_eq!(fleet.queue.depth().await.unwrap(), Depth::default());
}

/// From when on a job counts as waiting, in microseconds since the epoch.
fn waits_since(redis: &Redis, id: JobId) -> u64 {
    redis.run(&["HGET", &format!("v1:{{s0}}:job:{id}"), "queued_us"])
}

/// Has it have waited an hour longer.
fn wait_an_hour(redis: &Redis, id: JobId) {
    let _: i64 =
        redis.run(&["HINCRBY", &format!("v1:{{s0}}:job:{id}"), "queued_us", "-3600000000"]);
}

#[tokio::test]
async fn a_job_waits_from_when_it_might_have_begun_in_the_backlog_too() {
    const HOUR_MS: f64 = 3_600_000.0;
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let quota = Quota { max_active: 1, ..Quota::default() };
    let mut ids = Vec::new();
    for _ in 0..2 {
        let submission =
            Submission { tenant: &fleet.tenant, id: JobId::generate(), reply_to: None, quota };
        let listing = Listing { terms: &KEPT, once: None };
        ids.push(fleet.queue.submit(submission, listing, &job()).await.unwrap().id);
    }
    wait_an_hour(&redis, ids[1]);
    let first = fleet.claim_one().await;
    none_ready(&mut fleet).await;
    fleet.finish(&first, "done").await;
    let second = fleet.claim_one().await;
    assert_eq!(second.lease.job, ids[1]);
    assert!(first.queued_ms < HOUR_MS && second.queued_ms >= HOUR_MS, "{}", second.queued_ms);

    // What is tried again waits from the end of the pause on.
    wait_an_hour(&redis, ids[1]);
    assert_eq!(retry(&fleet, &second, Duration::ZERO).await, Commit::Done);
    let third = fleet.claim_one().await;
    assert!(third.queued_ms < HOUR_MS, "{}", third.queued_ms);
    assert_eq!(retry(&fleet, &third, Duration::from_millis(FAR_MS)).await, Commit::Done);
    let due_ms = record(&fleet, ids[1]).await.due_ms.unwrap();
    assert!(waits_since(&redis, ids[1]).abs_diff(due_ms * 1000) <= 1000);

    // So does what is given back.
    come_due(&redis, "delayed", ids[1]);
    fleet.queue.housekeep(None).await.unwrap();
    let fourth = fleet.claim_one().await;
    wait_an_hour(&redis, ids[1]);
    let back = fleet.queue.give_back(fleet.worker, &fourth.lease, GiveBack::Shutdown).await;
    assert_eq!(back.unwrap(), Commit::Done);
    assert!(fleet.claim_one().await.queued_ms < HOUR_MS);

    // And what is not to begin yet from its time on.
    let delayed = submit(&fleet, Terms { delay_ms: Some(FAR_MS), ..KEPT }).await;
    let due_ms = record(&fleet, delayed).await.due_ms.unwrap();
    assert_eq!(waits_since(&redis, delayed), due_ms * 1000);
}

async fn retry(fleet: &Fleet, claimed: &Claimed, pause: Duration) -> Commit {
    let (worker, lease) = (fleet.worker, &claimed.lease);
    fleet.queue.retry(worker, lease, pause, &ending("tried")).await.unwrap()
}

#[tokio::test]
async fn a_program_that_is_tried_again_waits_keeps_evidence_and_is_fenced() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = submit(&fleet, KEPT).await;
    let first = fleet.claim_one().await;
    assert_eq!(retry(&fleet, &first, Duration::from_millis(FAR_MS)).await, Commit::Done);
    assert_eq!(retry(&fleet, &first, Duration::ZERO).await, Commit::Fenced);
    let late = fleet.queue.finish(fleet.worker, &first.lease, &ending("late")).await.unwrap();
    assert_eq!(late, Commit::Fenced);
    fleet.queue.housekeep(None).await.unwrap();
    none_ready(&mut fleet).await;
    let waiting = record(&fleet, id).await;
    assert!(matches!(waiting.state, JobState::Queued) && waiting.due_ms.is_some());

    come_due(&redis, "delayed", id);
    fleet.queue.housekeep(None).await.unwrap();
    let second = fleet.claim_one().await;
    assert_eq!((second.tries, second.attempt), (1, 1), "its workers' deaths are counted anew");
    assert_eq!(retry(&fleet, &second, Duration::ZERO).await, Commit::Done);
    let third = fleet.claim_one().await;
    fleet.finish(&third, "done").await;
    let done = record(&fleet, id).await;
    assert_eq!((done.attempts, done.has_attempts), (3, true));
    let attempts = fleet.queue.attempts(&fleet.tenant, id).await.unwrap();
    assert_eq!(attempts.len(), 2);
    assert_eq!(attempts[0].message.as_deref(), Some("tried"));
    let left_ms: i64 = redis.run(&["PTTL", &format!("v1:{{s0}}:attempts:{id}")]);
    assert!((1..=60_000).contains(&left_ms), "{left_ms}");
}

#[tokio::test]
async fn a_job_that_was_cancelled_is_not_tried_again() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = submit(&fleet, KEPT).await;
    let claimed = fleet.claim_one().await;
    assert_eq!(fleet.queue.cancel(&fleet.tenant, id).await.unwrap(), Cancelled::Asked);
    assert_eq!(retry(&fleet, &claimed, Duration::ZERO).await, Commit::Done);
    assert_eq!(fleet.failure(id).await.code, ErrorCode::Cancelled);
    assert_eq!(fleet.queue.depth().await.unwrap(), Depth::default());
}

#[tokio::test]
async fn a_listed_job_is_begun_anew_after_its_output_was_seen_and_numbers_go_on() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    let id = submit(&fleet, KEPT).await;
    let first = fleet.claim_one().await;
    let publication = fleet.queue.publication_from(fleet.worker, &first, 1000);
    let data = Bytes::from_static(b"seen");
    let written = (Phase::Code, EventKind::Output { stream: Stream::Stdout, offset: 0, data });
    let events = [written.clone(), written.clone()];
    assert!(fleet.queue.publish(&publication, publication.first(), &events).await.unwrap());
    outlive_lease().await;
    let (thief, mut consumer) = fleet.second_worker().await;
    let second = fleet.queue.reclaim(&mut consumer, 1).await.unwrap().remove(0);
    assert_eq!((second.lease.job, second.first_event), (id, 2));
    assert!(!fleet.queue.publish(&publication, 2, &events).await.unwrap(), "it is fenced");
    let publication = fleet.queue.publication_from(thief, &second, 1000);
    let anew = [(Phase::Setup, EventKind::Restarted), written];
    assert!(fleet.queue.publish(&publication, publication.first(), &anew).await.unwrap());
    let told = fleet.queue.events(&fleet.tenant, id, 0).await.unwrap();
    let numbers: Vec<u64> = told.iter().map(|event| event.number).collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
    assert_eq!(told[2].kind, EventKind::Restarted);
}
