//! A job's way through the queue when nothing goes wrong, and the limits on it.

use std::collections::BTreeMap;
use std::time::Duration;

use shared::config;
use shared::error::ErrorCode;
use shared::id::{GatewayId, JobId, TenantId};
use shared::redis::{Commit, Depth, JobState, Queue, Reply};

use crate::harness::{Fleet, PERMANENT, Redis, SECRET, ending, job, submission};

#[tokio::test]
async fn a_job_is_queued_claimed_finished_and_answered() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = fleet.enqueue().await;
    assert!(matches!(fleet.state(id).await, JobState::Queued));

    let claimed = fleet.claim_one().await;
    assert_eq!((claimed.lease.job, claimed.attempt), (id, 1));
    assert_eq!((&claimed.tenant, &claimed.job), (&fleet.tenant, &job()));
    assert!((0.0..5000.0).contains(&claimed.queued_ms), "{}", claimed.queued_ms);
    assert!(matches!(fleet.state(id).await, JobState::Running));

    let done = fleet.queue.finish(fleet.worker, &claimed.lease, &ending("done")).await.unwrap();
    assert_eq!(done, Commit::Done);
    fleet.expect_reply(id, &ending("done")).await;
}

#[tokio::test]
async fn the_result_can_be_read_by_its_tenant_alone() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = fleet.enqueue().await;
    let claimed = fleet.claim_one().await;
    let done = fleet.queue.finish(fleet.worker, &claimed.lease, &ending("done")).await.unwrap();
    assert_eq!(done, Commit::Done);
    assert_eq!(fleet.failure(id).await.message, "done");

    let stranger = fleet.queue.state(&TenantId::new("other"), id).await.unwrap();
    assert!(matches!(stranger, JobState::Unknown));
    assert!(matches!(fleet.state(JobId::generate()).await, JobState::Unknown));
}

#[tokio::test]
async fn a_plain_job_costs_redis_no_more_than_it_must() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    redis.run::<()>(&["CONFIG", "RESETSTAT"]);
    fleet.enqueue().await;
    let claimed = fleet.claim_one().await;
    fleet.finish(&claimed, "done").await;
    let stats: String = redis.run(&["INFO", "commandstats"]);
    let calls = stats.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let count: u32 = rest.split_once(',')?.0.parse().ok()?;
        // What the test's own connections cost is none of the job's.
        let is_ours = name.starts_with("config") || name.starts_with("client");
        (!is_ours).then_some((name, count))
    });
    let calls: BTreeMap<_, _> = calls.collect();
    let expected = [
        ("evalsha", 3),
        ("exists", 1),
        ("hdel", 1),
        ("hmget", 2),
        ("hset", 3),
        ("pexpire", 1),
        ("publish", 1),
        ("time", 2),
        ("xack", 1),
        ("xadd", 1),
        ("xdel", 1),
        ("xlen", 1),
        ("xpending", 2),
        ("xreadgroup", 1),
    ];
    assert_eq!(calls, BTreeMap::from(expected));
}

#[tokio::test]
async fn secrets_do_not_outlive_the_job() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = fleet.enqueue().await;
    let record = format!("v1:{{s0}}:job:{id}");
    let fields = |redis: &Redis| redis.run::<Vec<String>>(&["HGETALL", &record]).join("\n");
    assert!(fields(&redis).contains(SECRET));

    let claimed = fleet.claim_one().await;
    let _ = fleet.queue.finish(fleet.worker, &claimed.lease, &ending("done")).await.unwrap();
    assert!(!fields(&redis).contains(SECRET));
    let left_ms: i64 = redis.run(&["PTTL", &record]);
    assert!((1..=60_000).contains(&left_ms), "{left_ms}");
}

#[tokio::test]
async fn nothing_is_left_but_the_permanent_keys() {
    let redis = Redis::start();
    let config = config::Redis { result_ttl_ms: 50, ..redis.config() };
    let mut fleet = Fleet::new(&config).await;
    let permanent = redis.keys();
    assert_eq!(permanent, PERMANENT);

    for _ in 0..20 {
        fleet.enqueue().await;
    }
    for claimed in fleet.claim(20).await {
        let _ = fleet.queue.finish(fleet.worker, &claimed.lease, &ending("done")).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(redis.keys(), permanent);
    assert_eq!(redis.run::<u64>(&["XLEN", "v1:{s0}:jobs"]), 0);
    assert_eq!(fleet.queue.depth().await.unwrap(), Depth::default());
}

#[tokio::test]
async fn a_full_queue_refuses_and_running_jobs_do_not_count() {
    let redis = Redis::start();
    let config = config::Redis { max_queued: 2, ..redis.config() };
    let mut fleet = Fleet::new(&config).await;
    fleet.enqueue().await;
    fleet.enqueue().await;
    let enqueue = |queue: Queue, gateway: GatewayId| async move {
        let tenant = TenantId::new("acme");
        queue.enqueue(submission(&tenant, JobId::generate(), gateway), &job()).await
    };
    let refused = enqueue(fleet.queue.clone(), fleet.gateway).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::QueueFull);

    let _running = fleet.claim_one().await;
    assert_eq!(fleet.queue.depth().await.unwrap(), Depth { queued: 1, running: 1 });
    enqueue(fleet.queue.clone(), fleet.gateway).await.unwrap();
    let refused = enqueue(fleet.queue.clone(), fleet.gateway).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::QueueFull);
}

#[tokio::test]
async fn queueing_the_same_job_twice_runs_it_once() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = fleet.enqueue().await;
    let again = submission(&fleet.tenant, id, fleet.gateway);
    fleet.queue.enqueue(again, &job()).await.unwrap();
    assert_eq!(fleet.claim(10).await.len(), 1);
}

#[tokio::test]
async fn an_ending_too_big_for_a_message_is_read_by_state() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = fleet.enqueue().await;
    let claimed = fleet.claim_one().await;
    let big = "x".repeat(100_000);
    let _ = fleet.queue.finish(fleet.worker, &claimed.lease, &ending(&big)).await.unwrap();
    match fleet.reply().await {
        Reply::Finished { job, ending: None } => assert_eq!(job, id),
        other => panic!("{other:?}"),
    }
    assert_eq!(fleet.failure(id).await.message, big);
}

#[tokio::test]
async fn tenants_are_spread_over_the_shards_and_all_are_served() {
    let redis = Redis::start();
    let config = config::Redis { shards: 4, ..redis.config() };
    let mut fleet = Fleet::new(&config).await;
    for number in 0..40 {
        fleet.enqueue_for(&TenantId::new(format!("tenant-{number}"))).await;
    }
    for shard in 0..4 {
        let length: u64 = redis.run(&["XLEN", &format!("v1:{{s{shard}}}:jobs")]);
        assert!((1..40).contains(&length), "shard {shard}: {length}");
    }
    let mut served = 0;
    while served < 40 {
        let claimed = fleet.claim(8).await;
        assert!(!claimed.is_empty() && claimed.len() <= 8);
        for it in claimed {
            let done = fleet.queue.finish(fleet.worker, &it.lease, &ending("done")).await.unwrap();
            assert_eq!(done, Commit::Done);
            served += 1;
        }
    }
    assert_eq!(fleet.queue.depth().await.unwrap(), Depth::default());
}

#[tokio::test]
async fn another_number_of_shards_is_refused() {
    let redis = Redis::start();
    Queue::connect(&config::Redis { shards: 2, ..redis.config() }).await.unwrap();
    let refused = Queue::connect(&redis.config()).await.err().unwrap();
    assert_eq!(refused.code(), ErrorCode::InvalidRequest);
    assert!(refused.message().contains("redis.shards to 2"), "{refused}");
}
