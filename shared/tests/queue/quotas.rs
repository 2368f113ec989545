//! What a tenant may have at once, and per second: exact, and given back however a job ends.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use shared::config;
use shared::error::{Error, ErrorCode};
use shared::id::{JobId, TenantId};
use shared::redis::{Cancelled, Commit, GiveBack, Quota, Submission};

use crate::harness::{Fleet, Redis, ending, failure, job, outlive_lease};

async fn enqueue(fleet: &Fleet, tenant: &TenantId, quota: Quota) -> Result<JobId, Error> {
    let id = JobId::generate();
    let submission = Submission { tenant, id, reply_to: Some(fleet.gateway), quota };
    fleet.queue.enqueue(submission, &job()).await.map(|()| id)
}

fn at_most(max_active: u32) -> Quota {
    Quota { max_active, ..Quota::default() }
}

#[tokio::test]
async fn a_tenants_jobs_are_capped_exactly_under_concurrency() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let tenant = fleet.tenant.clone();
    let asked = join_all((0..40).map(|_| enqueue(&fleet, &tenant, at_most(7)))).await;
    assert_eq!(asked.iter().filter(|it| it.is_ok()).count(), 7);
    for refused in asked.into_iter().filter_map(Result::err) {
        assert_eq!(refused.code(), ErrorCode::TooManyJobs);
        assert!(refused.retry_after().is_some());
    }
    enqueue(&fleet, &TenantId::new("other"), at_most(7)).await.unwrap();
    for claimed in fleet.claim(10).await {
        fleet.finish(&claimed, "done").await;
    }
    redis.assert_nothing_left();
    enqueue(&fleet, &tenant, at_most(1)).await.unwrap();
}

#[tokio::test]
async fn every_way_to_end_gives_the_place_back() {
    let redis = Redis::start();
    let config = config::Redis { max_deliveries: 1, ..redis.short_lease() };
    let mut fleet = Fleet::new(&config).await;
    let tenant = fleet.tenant.clone();
    let one = at_most(1);

    let id = enqueue(&fleet, &tenant, one).await.unwrap();
    assert_eq!(fleet.queue.cancel(&tenant, id).await.unwrap(), Cancelled::Now);

    enqueue(&fleet, &tenant, one).await.unwrap();
    let claimed = fleet.claim_one().await;
    let back = fleet.queue.give_back(fleet.worker, &claimed.lease, GiveBack::Shutdown).await;
    assert_eq!(back.unwrap(), Commit::Done);
    let refused = enqueue(&fleet, &tenant, one).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::TooManyJobs, "given back is not ended");
    let claimed = fleet.claim_one().await;
    let why = GiveBack::Failed(failure("broken"));
    let ended = fleet.queue.give_back(fleet.worker, &claimed.lease, why).await.unwrap();
    assert_eq!(ended, Commit::Done);

    enqueue(&fleet, &tenant, one).await.unwrap();
    fleet.claim_one().await;
    outlive_lease().await;
    assert!(fleet.queue.reclaim(&mut fleet.consumer, 1).await.unwrap().is_empty());

    let id = enqueue(&fleet, &tenant, one).await.unwrap();
    let record = format!("v1:{{s0}}:job:{id}");
    let _: u64 = redis.run(&["HSET", &record, "payload", "unreadable"]);
    fleet.pass_on_unread().await;

    enqueue(&fleet, &tenant, one).await.unwrap();
    let claimed = fleet.claim_one().await;
    for _ in 0..2 {
        let done = fleet.queue.finish(fleet.worker, &claimed.lease, &ending("done")).await;
        assert_eq!(done.unwrap(), Commit::Done);
    }
    redis.assert_nothing_left();
}

#[tokio::test]
async fn queueing_the_same_job_twice_counts_it_once() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let tenant = fleet.tenant.clone();
    let quota = Quota { max_active: 1, per_second: 1, ..Quota::default() };
    let id = JobId::generate();
    for _ in 0..3 {
        let submission = Submission { tenant: &tenant, id, reply_to: Some(fleet.gateway), quota };
        fleet.queue.enqueue(submission, &job()).await.unwrap();
    }
    let claimed = fleet.claim_one().await;
    fleet.finish(&claimed, "done").await;
    redis.assert_nothing_left();
}

#[tokio::test]
async fn one_seconds_worth_may_come_at_once_and_the_rest_is_told_when() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    let quota = Quota { max_active: 0, per_second: 6, ..Quota::default() };
    let tenant = &fleet.tenant;
    let started = Instant::now();
    let asked = join_all((0..30).map(|_| enqueue(&fleet, tenant, quota))).await;
    let accepted = asked.iter().filter(|it| it.is_ok()).count();
    let earned = (started.elapsed().as_secs_f64() * 6.0).ceil();
    assert!(accepted >= 6 && accepted as f64 <= 6.0 + earned, "{accepted}");
    let refused = asked.into_iter().find_map(Result::err).unwrap();
    assert_eq!(refused.code(), ErrorCode::RateLimited);
    let wait = refused.retry_after().unwrap();
    assert!(wait > Duration::ZERO && wait <= Duration::from_millis(167), "{wait:?}");
    tokio::time::sleep(wait).await;
    enqueue(&fleet, tenant, quota).await.unwrap();
    enqueue(&fleet, &TenantId::new("other"), quota).await.unwrap();
}

#[tokio::test]
async fn a_job_refused_for_one_limit_does_not_use_up_the_other() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let tenant = fleet.tenant.clone();
    let quota = Quota { max_active: 1, per_second: 2, ..Quota::default() };
    enqueue(&fleet, &tenant, quota).await.unwrap();
    for _ in 0..5 {
        let refused = enqueue(&fleet, &tenant, quota).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::TooManyJobs);
    }
    let claimed = fleet.claim_one().await;
    fleet.finish(&claimed, "done").await;
    enqueue(&fleet, &tenant, quota).await.unwrap();
    let claimed = fleet.claim_one().await;
    fleet.finish(&claimed, "done").await;
    redis.assert_nothing_left();
}
