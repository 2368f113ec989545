//! Who gets which job: never more than asked for, never one job twice, none lost on the way.

use std::collections::HashSet;
use std::time::Duration;

use shared::config;
use shared::error::ErrorCode;
use shared::id::TenantId;
use shared::redis::{Commit, Depth, JobState};

use crate::harness::{Fleet, Redis, SOON, ending, job, submission};

#[tokio::test]
async fn a_claim_waits_for_a_job_and_no_longer_than_asked() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let started = std::time::Instant::now();
    let none = fleet.queue.claim(&mut fleet.consumer, 4, Duration::from_millis(700)).await;
    assert!(none.unwrap().is_empty());
    let waited = started.elapsed();
    // Longer than the Redis library's default response timeout of 500 ms.
    assert!(waited.as_millis() >= 650, "{waited:?}");

    let queue = fleet.queue.clone();
    let (tenant, gateway) = (fleet.tenant.clone(), fleet.gateway);
    let later = async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let id = shared::id::JobId::generate();
        queue.enqueue(submission(&tenant, id, gateway), &job()).await.unwrap();
    };
    // It does not sit out its time: that would be too long for the whole test.
    let (claimed, ()) = tokio::join!(fleet.claim_one(), later);
    assert_eq!(claimed.attempt, 1);
}

#[tokio::test]
async fn no_more_is_claimed_than_there_is_room_for() {
    let redis = Redis::start();
    let config = config::Redis { shards: 8, ..redis.config() };
    let mut fleet = Fleet::new(&config).await;
    for number in 0..60 {
        fleet.enqueue_for(&TenantId::new(format!("tenant-{number}"))).await;
    }
    let mut seen = HashSet::new();
    for max in [1, 3, 0, 10, 2, 60, 60, 60, 60, 60, 60] {
        let claimed = fleet.claim(max).await;
        assert!(claimed.len() <= max, "{} of {max}", claimed.len());
        for it in claimed {
            assert_eq!(it.attempt, 1, "being read without room for it is no delivery");
            assert!(seen.insert(it.lease.job));
        }
    }
    assert_eq!(seen.len(), 60);
    assert_eq!(fleet.queue.depth().await.unwrap(), Depth { queued: 0, running: 60 });
}

#[tokio::test]
async fn two_workers_never_get_the_same_job() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let mut expected = HashSet::new();
    for _ in 0..300 {
        expected.insert(fleet.enqueue().await);
    }
    let (other, mut second) = fleet.second_worker().await;
    let (worker, queue) = (fleet.worker, fleet.queue.clone());
    let drain = async |worker, consumer: &mut _| {
        let mut jobs = Vec::new();
        loop {
            let block = Duration::from_millis(100);
            let claimed = queue.claim(consumer, 7, block).await.unwrap();
            if claimed.is_empty() {
                return jobs;
            }
            for it in claimed {
                let done = queue.finish(worker, &it.lease, &ending("done")).await.unwrap();
                assert_eq!(done, Commit::Done);
                jobs.push(it.lease.job);
            }
        }
    };
    let (mut first, second) =
        tokio::join!(drain(worker, &mut fleet.consumer), drain(other, &mut second));
    assert!(!first.is_empty() && !second.is_empty());
    first.extend(second);
    assert_eq!(first.len(), 300);
    assert_eq!(first.into_iter().collect::<HashSet<_>>(), expected);
}

#[tokio::test]
async fn a_dropped_claim_loses_no_job() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    for round in 0..40 {
        // Dropped at ever other moments: while it blocks, while it reads, while it starts the job.
        let delay = Duration::from_micros(round * 50);
        let claim = fleet.queue.claim(&mut fleet.consumer, 1, SOON);
        let early = tokio::time::timeout(Duration::from_micros(300), claim).await;
        assert!(early.is_err(), "there was nothing to claim");

        let id = fleet.enqueue().await;
        let claim = fleet.queue.claim(&mut fleet.consumer, 1, SOON);
        let mut claimed = match tokio::time::timeout(delay, claim).await {
            Ok(claimed) => claimed.unwrap(),
            Err(_) => fleet.claim(1).await,
        };
        let claimed = claimed.remove(0);
        assert_eq!((claimed.lease.job, claimed.attempt), (id, 1));
        let done = fleet.queue.finish(fleet.worker, &claimed.lease, &ending("done")).await;
        assert_eq!(done.unwrap(), Commit::Done);
        fleet.expect_reply(id, &ending("done")).await;
    }
}

#[tokio::test]
async fn an_entry_without_a_record_is_dropped() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let _: String = redis.run(&["XADD", "v1:{s0}:jobs", "*", "job", "nobody"]);
    let _: String = redis.run(&["XADD", "v1:{s0}:jobs", "*", "else", "entirely"]);
    let id = fleet.enqueue().await;
    let gone = fleet.enqueue().await;
    let _: u64 = redis.run(&["DEL", &format!("v1:{{s0}}:job:{gone}")]);
    let claimed = fleet.claim(10).await;
    assert_eq!(claimed.iter().map(|it| it.lease.job).collect::<Vec<_>>(), [id]);
    assert_eq!(fleet.queue.depth().await.unwrap(), Depth { queued: 0, running: 1 });
}

#[tokio::test]
async fn a_job_that_no_worker_could_read_is_ended() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = fleet.enqueue().await;
    let record = format!("v1:{{s0}}:job:{id}");
    let _: u64 = redis.run(&["HSET", &record, "payload", "{\"from\":\"the future\"}"]);
    fleet.pass_on_unread().await;
    assert_eq!(fleet.failure(id).await.code, ErrorCode::NoWorker);
}

#[tokio::test]
async fn a_consumer_leaves_only_when_it_holds_nothing() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = fleet.enqueue().await;
    let claimed = fleet.claim_one().await;
    let consumers = || -> usize {
        let found: redis::streams::StreamInfoConsumersReply =
            redis.run(&["XINFO", "CONSUMERS", "v1:{s0}:jobs", "workers"]);
        found.consumers.len()
    };
    fleet.queue.leave(fleet.worker).await.unwrap();
    assert_eq!(consumers(), 1);
    assert!(matches!(fleet.state(id).await, JobState::Running));

    let _ = fleet.queue.finish(fleet.worker, &claimed.lease, &ending("done")).await.unwrap();
    fleet.queue.leave(fleet.worker).await.unwrap();
    assert_eq!(consumers(), 0);
}

#[tokio::test]
async fn a_job_with_what_a_worker_does_not_know_is_refused_rather_than_run_without() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    for within in ["", "limits"] {
        let id = fleet.enqueue().await;
        let record = format!("v1:{{s0}}:job:{id}");
        let mut payload: serde_json::Value =
            serde_json::from_str(&redis.run::<String>(&["HGET", &record, "payload"])).unwrap();
        let place = if within.is_empty() { &mut payload } else { &mut payload[within] };
        place["ofANewerGateway"] = true.into();
        let _: u64 = redis.run(&["HSET", &record, "payload", &payload.to_string()]);
        fleet.pass_on_unread().await;
        let failure = fleet.failure(id).await;
        assert_eq!(failure.code, ErrorCode::NoWorker);
        assert!(failure.message.contains("Upgrade workers before gateways"), "{failure:?}");
    }
    assert_eq!(fleet.queue.depth().await.unwrap(), Depth::default());
}
