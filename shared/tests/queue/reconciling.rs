//! What was lost behind the queue's back is found and put right; what fits together is left alone.

use std::time::Duration;

use shared::error::ErrorCode;
use shared::execution::{Priority, Terms};
use shared::id::{JobId, SessionId, WorkerId};
use shared::labels::Labels;
use shared::redis::{Commit, Depth, JobState, Listing, Quota, SessionNews, Submission, ToSession};

use crate::harness::{Fleet, Redis, ending, execute, job};

async fn submit(fleet: &Fleet, max_active: u32, terms: Terms) -> JobId {
    let id = JobId::generate();
    let terms = Terms { retention_ms: 60_000, ..terms };
    let quota = Quota { max_active, ..Quota::default() };
    let submission = Submission { tenant: &fleet.tenant, id, reply_to: None, quota };
    let listing = Listing { terms: &terms, once: None };
    fleet.queue.submit(submission, listing, &job()).await.unwrap();
    id
}

/// A listed call of session `s`.
async fn call(fleet: &Fleet) -> JobId {
    let (id, session) = (JobId::generate(), SessionId::new("s").unwrap());
    let to = ToSession { id: &session, may_open: false, max_sessions: 1, labels: Labels::none() };
    let terms = Terms { retention_ms: 60_000, ..Terms::default() };
    let quota = Quota::default();
    let submission = Submission { tenant: &fleet.tenant, id, reply_to: None, quota };
    let listing = Listing { terms: &terms, once: None };
    fleet.queue.submit_call(submission, to, listing, &execute()).await.unwrap();
    id
}

/// What was put right, over all tenants.
async fn reconcile(fleet: &Fleet, redis: &Redis) -> Vec<(String, String)> {
    let mut repaired = Vec::new();
    loop {
        repaired.extend(fleet.queue.reconcile(fleet.worker).await.unwrap());
        if redis.run::<String>(&["HGET", "v1:{s0}:reconciler", "tenant"]).is_empty() {
            return repaired;
        }
    }
}

/// Entry of a job.
fn entry(redis: &Redis, id: JobId) -> String {
    redis.run(&["HGET", &format!("v1:{{s0}}:job:{id}"), "entry"])
}

/// Asserts that all these jobs can be run to their ends, and that nothing is open then.
async fn all_run(fleet: &mut Fleet, redis: &Redis, mut jobs: Vec<JobId>) {
    while !jobs.is_empty() {
        let claimed = fleet.claim_one().await;
        let place = jobs.iter().position(|id| *id == claimed.lease.job).expect("it is one of them");
        jobs.remove(place);
        fleet.finish(&claimed, "done").await;
    }
    assert_eq!(fleet.queue.depth().await.unwrap(), Depth::default());
    assert_eq!(reconcile(fleet, redis).await, []);
    let open: Vec<u64> = redis.run(&["HMGET", "v1:{s0}:usage", "jobs", "bytes"]);
    assert_eq!(open, [0, 0]);
}

#[tokio::test]
async fn where_one_worker_comes_by_rarely_another_goes_on() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    let lost = submit(&fleet, 3, Terms::default()).await;
    assert_eq!(reconcile(&fleet, &redis).await, [], "all is well");
    redis.run::<u64>(&["XDEL", "v1:{s0}:jobs", &entry(&redis, lost)]);
    let other = WorkerId::generate();
    assert_eq!(fleet.queue.reconcile(other).await.unwrap(), [], "it is the first one's turn");
    let repaired = async {
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let repaired = fleet.queue.reconcile(other).await.unwrap();
            if !repaired.is_empty() {
                return repaired;
            }
        }
    };
    let repaired = tokio::time::timeout(Duration::from_secs(5), repaired).await.unwrap();
    assert_eq!(repaired, [("queued".to_owned(), lost.to_string())]);
}

#[tokio::test]
async fn jobs_that_wait_nowhere_wait_again() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let high = Terms { priority: Priority::High, ..Terms::default() };
    let later = Terms { delay_ms: Some(3_600_000), ..Terms::default() };
    let expiring = Terms { expires_ms: Some(3_600_000), ..Terms::default() };
    let deleted = submit(&fleet, 3, high).await;
    let acknowledged = submit(&fleet, 3, expiring).await;
    let untouched = submit(&fleet, 3, Terms::default()).await;
    let backlogged = submit(&fleet, 3, Terms::default()).await;
    let delayed = submit(&fleet, 3, later).await;
    assert_eq!(reconcile(&fleet, &redis).await, [], "all is well");

    let _: u64 = redis.run(&["XDEL", "v1:{s0}:jobs-high", &entry(&redis, deleted)]);
    let _: u64 = redis.run(&["ZREM", "v1:{s0}:expiring", &acknowledged.to_string()]);
    let _: u64 = redis.run(&["ZREM", "v1:{s0}:backlog:acme", &backlogged.to_string()]);
    let _: u64 = redis.run(&["ZREM", "v1:{s0}:delayed", &delayed.to_string()]);
    // As if somebody had read it, and had said that it was done.
    let last = entry(&redis, acknowledged);
    let _: String = redis.run(&["XGROUP", "SETID", "v1:{s0}:jobs", "workers", &last]);
    let mut repaired = reconcile(&fleet, &redis).await;
    repaired.sort();
    let named = |what: &str, id: JobId| (what.to_owned(), id.to_string());
    let mut expected = vec![
        named("queued", deleted),
        named("queued", acknowledged),
        named("expiring", acknowledged),
        named("queued", backlogged),
        named("queued", delayed),
    ];
    expected.sort();
    assert_eq!(repaired, expected);
    assert_eq!(reconcile(&fleet, &redis).await, [], "once is enough");
    let _: u64 = redis.run(&["ZADD", "v1:{s0}:delayed", "XX", "1", &delayed.to_string()]);
    fleet.queue.housekeep(None).await.unwrap();
    let jobs = vec![deleted, acknowledged, untouched, backlogged, delayed];
    all_run(&mut fleet, &redis, jobs).await;
}

#[tokio::test]
async fn jobs_that_nobody_could_end_begin_anew_or_end() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let listed = submit(&fleet, 0, Terms::default()).await;
    let cancelled = submit(&fleet, 0, Terms::default()).await;
    let claimed = fleet.claim(2).await;
    assert_eq!(claimed.len(), 2);
    fleet.queue.cancel(&fleet.tenant, cancelled).await.unwrap();
    assert_eq!(reconcile(&fleet, &redis).await, []);
    for claimed in &claimed {
        let _: u64 = redis.run(&["XDEL", "v1:{s0}:jobs", &entry(&redis, claimed.lease.job)]);
    }
    assert_eq!(reconcile(&fleet, &redis).await.len(), 2);
    assert_eq!(fleet.failure(cancelled).await.code, ErrorCode::Cancelled);
    let late = fleet.queue.finish(fleet.worker, &claimed[0].lease, &ending("late")).await;
    assert_eq!(late.unwrap(), Commit::Fenced);
    all_run(&mut fleet, &redis, vec![listed]).await;
}

#[tokio::test]
async fn calls_of_a_session_that_is_gone_end() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let opened = fleet.open("s").await;
    let (running, waiting) = (call(&fleet).await, call(&fleet).await);
    assert_eq!(fleet.next_call(&opened).await.id, running);
    assert_eq!(reconcile(&fleet, &redis).await, []);
    for key in ["v1:{s0}:session:acme:s", "v1:{s0}:calls:acme:s"] {
        assert_eq!(redis.run::<u64>(&["DEL", key]), 1);
    }
    assert_eq!(reconcile(&fleet, &redis).await.len(), 2);
    for id in [running, waiting] {
        assert_eq!(fleet.failure(id).await.code, ErrorCode::SessionLost);
    }
    let news =
        fleet.queue.renew_sessions(fleet.worker, std::slice::from_ref(&opened)).await.unwrap();
    assert_eq!(news, [(opened, SessionNews::Lost)]);
}

#[tokio::test]
async fn whoever_waits_for_a_job_that_was_lost_finds_it_again() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let lose = |id: JobId| redis.run::<u64>(&["XDEL", "v1:{s0}:jobs", &entry(&redis, id)]);
    let id = fleet.enqueue().await;
    assert_eq!(lose(id), 1);
    assert!(matches!(fleet.state(id).await, JobState::Queued));
    let first = fleet.claim_one().await;
    assert_eq!(first.lease.job, id);
    assert!(matches!(fleet.state(id).await, JobState::Running), "all is well");

    assert_eq!(lose(id), 1);
    assert!(matches!(fleet.state(id).await, JobState::Queued));
    let second = fleet.claim_one().await;
    assert_eq!((second.lease.job, second.attempt), (id, 2));
    let late = fleet.queue.finish(fleet.worker, &first.lease, &ending("late")).await.unwrap();
    assert_eq!(late, Commit::Fenced);
    // What a caller has seen is not to be shown a second time.
    let _: u64 = redis.run(&["HSET", &format!("v1:{{s0}}:job:{id}"), "shown", "1"]);
    assert_eq!(lose(id), 1);
    assert_eq!(fleet.failure(id).await.code, ErrorCode::WorkerLost);
    redis.assert_nothing_left();
}

#[tokio::test]
async fn counters_that_drifted_are_counted_anew() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let first = submit(&fleet, 1, Terms::default()).await;
    let second = submit(&fleet, 1, Terms::default()).await;
    let claimed = fleet.claim_one().await;
    fleet.finish(&claimed, "done").await;
    let usage: Vec<u64> = redis.run(&["HMGET", "v1:{s0}:usage:acme", "jobs", "bytes"]);
    let kept: u64 = redis.run(&["GET", "v1:{s0}:kept:acme"]);
    assert_eq!(reconcile(&fleet, &redis).await, []);

    for key in ["v1:{s0}:usage:acme", "v1:{s0}:usage"] {
        let _: u64 = redis.run(&["HINCRBY", key, "jobs", "5"]);
    }
    let _: u64 = redis.run(&["INCRBY", "v1:{s0}:kept:acme", "7"]);
    let _: u64 = redis.run(&["SADD", "v1:{s0}:active:acme", &JobId::generate().to_string()]);
    let _: u64 = redis.run(&["SREM", "v1:{s0}:active:acme", &second.to_string()]);
    for name in redis.run::<Vec<String>>(&["ZRANGE", "v1:{s0}:retained", "0", "-1"]) {
        let _: u64 = redis.run(&["ZREM", "v1:{s0}:retained", &name]);
    }
    let whats: std::collections::BTreeSet<String> =
        reconcile(&fleet, &redis).await.into_iter().map(|(what, _)| what).collect();
    assert_eq!(whats, ["active", "counted", "kept", "retained", "usage"].map(String::from).into());
    assert_eq!(redis.run::<Vec<u64>>(&["HMGET", "v1:{s0}:usage:acme", "jobs", "bytes"]), usage);
    assert_eq!(redis.run::<Vec<u64>>(&["HMGET", "v1:{s0}:usage", "jobs", "bytes"]), usage);
    assert_eq!(redis.run::<u64>(&["GET", "v1:{s0}:kept:acme"]), kept);
    assert!(matches!(fleet.state(first).await, JobState::Finished(_)));
    all_run(&mut fleet, &redis, vec![second]).await;
}

#[tokio::test]
async fn one_worker_at_a_time_looks_and_another_when_it_is_gone() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    assert_eq!(reconcile(&fleet, &redis).await, []);
    let id = submit(&fleet, 0, Terms::default()).await;
    let _: u64 = redis.run(&["XDEL", "v1:{s0}:jobs", &entry(&redis, id)]);
    let other = WorkerId::generate();
    for _ in 0..3 {
        assert_eq!(fleet.queue.reconcile(other).await.unwrap(), [], "it is not its turn");
    }
    let _: u64 = redis.run(&["HSET", "v1:{s0}:reconciler", "until_ms", "1"]);
    let mut repaired = Vec::new();
    for _ in 0..3 {
        repaired.extend(fleet.queue.reconcile(other).await.unwrap());
    }
    assert_eq!(repaired, [("queued".to_owned(), id.to_string())]);
}
