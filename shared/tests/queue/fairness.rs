//! Listed jobs of many tenants: caps, backlogs, weights, limits on what waits, and why a job does.

use std::time::Duration;

use shared::error::{Error, ErrorCode};
use shared::execution::{Priority, Terms};
use shared::id::{JobId, TenantId};
use shared::redis::{Cancelled, Commit, Depth, Listing, Quota, Standing, Submission, WaitsFor};

use crate::harness::{Fleet, Redis, ending, job, outlive_lease};

const KEPT_MS: u64 = 60_000;

async fn submit_with(
    fleet: &Fleet,
    tenant: &TenantId,
    quota: Quota,
    terms: Terms,
) -> Result<JobId, Error> {
    let id = JobId::generate();
    let terms = Terms { retention_ms: KEPT_MS, ..terms };
    let submission = Submission { tenant, id, reply_to: None, quota };
    let listing = Listing { terms: &terms, once: None };
    fleet.queue.submit(submission, listing, &job()).await.map(|_| id)
}

async fn submit(fleet: &Fleet, tenant: &TenantId, quota: Quota) -> JobId {
    submit_with(fleet, tenant, quota, Terms::default()).await.unwrap()
}

fn at_most(max_active: u32) -> Quota {
    Quota { max_active, ..Quota::default() }
}

async fn standing(fleet: &Fleet, id: JobId) -> Option<Standing> {
    fleet.queue.standing(&fleet.tenant, id).await.unwrap()
}

/// Asserts that nothing counts any more, waits or runs.
async fn at_rest(fleet: &Fleet, redis: &Redis) {
    assert_eq!(fleet.queue.depth().await.unwrap(), Depth::default());
    for key in redis.keys() {
        let kind = key.split(':').nth(2).unwrap_or_default();
        let is_open = ["active", "backlog", "backlog-high", "backlog-low", "delayed", "expiring"]
            .contains(&kind);
        assert!(!is_open && !key.contains(":usage:"), "{key} is left");
    }
    let open: Vec<u64> = redis.run(&["HMGET", "v1:{s0}:usage", "jobs", "bytes"]);
    assert_eq!(open, [0, 0]);
}

#[tokio::test]
async fn a_flood_puts_no_more_than_its_tenants_cap_ahead_of_others() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let (greedy, modest) = (TenantId::new("greedy"), TenantId::new("modest"));
    for _ in 0..50 {
        submit(&fleet, &greedy, at_most(3)).await;
    }
    assert_eq!(fleet.queue.depth().await.unwrap().queued, 3, "the others wait apart");
    let theirs = submit(&fleet, &modest, at_most(3)).await;
    let mut ahead = 0;
    loop {
        let claimed = fleet.claim_one().await;
        fleet.finish(&claimed, "done").await;
        if claimed.lease.job == theirs {
            break;
        }
        ahead += 1;
    }
    assert_eq!(ahead, 3);
    for left in (1..=47).rev() {
        let depth = fleet.queue.depth().await.unwrap();
        assert_eq!(depth.queued + depth.running, left.min(3), "the end of one lets the next in");
        let claimed = fleet.claim_one().await;
        fleet.finish(&claimed, "done").await;
    }
    fleet.queue.housekeep(None).await.unwrap();
    at_rest(&fleet, &redis).await;
}

#[tokio::test]
async fn every_way_to_leave_the_line_lets_the_next_in() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let tenant = fleet.tenant.clone();
    let (first, second, third) = (
        submit(&fleet, &tenant, at_most(1)).await,
        submit(&fleet, &tenant, at_most(1)).await,
        submit(&fleet, &tenant, at_most(1)).await,
    );
    let fourth = submit(&fleet, &tenant, at_most(1)).await;
    // Cancelled in the backlog, cancelled in line, tried again after a pause, finished.
    assert_eq!(fleet.queue.cancel(&tenant, third).await.unwrap(), Cancelled::Now);
    assert_eq!(fleet.queue.cancel(&tenant, first).await.unwrap(), Cancelled::Now);
    let claimed = fleet.claim_one().await;
    assert_eq!(claimed.lease.job, second);
    let pause = Duration::from_millis(50);
    let tried = fleet.queue.retry(fleet.worker, &claimed.lease, pause, &ending("x")).await;
    assert_eq!(tried.unwrap(), Commit::Done);
    let claimed = fleet.claim_one().await;
    assert_eq!(claimed.lease.job, fourth);
    tokio::time::sleep(pause * 2).await;
    fleet.queue.housekeep(None).await.unwrap();
    assert_eq!(standing(&fleet, second).await.unwrap().waits_for, WaitsFor::Tenant);
    fleet.finish(&claimed, "done").await;
    let claimed = fleet.claim_one().await;
    assert_eq!((claimed.lease.job, claimed.tries), (second, 1));
    fleet.finish(&claimed, "done").await;
    fleet.queue.housekeep(None).await.unwrap();
    at_rest(&fleet, &redis).await;
}

#[tokio::test]
async fn without_a_cap_a_tenant_fills_all_of_the_fleet_but_a_place_by_its_weight() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    let (heavy, light) = (TenantId::new("heavy"), TenantId::new("light"));
    fleet.queue.housekeep(Some((fleet.worker, 4))).await.unwrap();
    for _ in 0..40 {
        submit(&fleet, &heavy, Quota { weight: 2.0, ..Quota::default() }).await;
        submit(&fleet, &light, Quota::default()).await;
    }
    let in_line =
        |tenant: &TenantId| redis.run::<u64>(&["SCARD", &format!("v1:{{s0}}:active:{tenant}")]);
    assert_eq!([in_line(&heavy), in_line(&light)], [6, 3]);
    // The fleet grows, and shrinks when a worker is silent.
    let (second, _consumer) = fleet.second_worker().await;
    fleet.queue.housekeep(Some((second, 4))).await.unwrap();
    assert_eq!([in_line(&heavy), in_line(&light)], [14, 7]);
    let _: u64 = redis.run(&["ZADD", "v1:{s0}:workers", "XX", "1", &second.to_string()]);
    fleet.queue.housekeep(Some((fleet.worker, 4))).await.unwrap();
    assert_eq!(redis.run::<u64>(&["HGET", "v1:{s0}:slots", "total"]), 4);
}

#[tokio::test]
async fn within_a_backlog_urgent_jobs_go_first() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let tenant = fleet.tenant.clone();
    submit(&fleet, &tenant, at_most(1)).await;
    let mut expected = Vec::new();
    for priority in [Priority::Low, Priority::Normal, Priority::High] {
        let terms = Terms { priority, ..Terms::default() };
        expected.push(submit_with(&fleet, &tenant, at_most(1), terms).await.unwrap());
    }
    let mut begun = Vec::new();
    for _ in 0..4 {
        let claimed = fleet.claim_one().await;
        fleet.finish(&claimed, "done").await;
        begun.push(claimed.lease.job);
    }
    expected.reverse();
    assert_eq!(begun[1..], expected);
}

#[tokio::test]
async fn within_a_backlog_each_priority_has_its_share_however_many_urgent_jobs_come() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let tenant = fleet.tenant.clone();
    let one_more = async |fleet: &Fleet, priority| {
        let terms = Terms { priority, ..Terms::default() };
        submit_with(fleet, &tenant, at_most(1), terms).await.unwrap()
    };
    let running = one_more(&fleet, Priority::Normal).await;
    for priority in [Priority::Low, Priority::Normal].repeat(16) {
        one_more(&fleet, priority).await;
    }
    let (mut begun, mut last) = (Vec::new(), running);
    one_more(&fleet, Priority::High).await;
    for _ in 0..40 {
        // There is always one of high priority that waits.
        last = one_more(&fleet, Priority::High).await;
        let claimed = fleet.claim_one().await;
        fleet.finish(&claimed, "done").await;
        begun.push(claimed.terms.unwrap().priority);
    }
    let count = |priority| begun[1..33].iter().filter(|it| **it == priority).count();
    let counts = [Priority::High, Priority::Normal, Priority::Low].map(count);
    assert_eq!(counts, [20, 8, 4], "{begun:?}");
    let ahead = standing(&fleet, last).await.unwrap();
    assert_eq!(ahead.waits_for, WaitsFor::Tenant);
    // About 16 of its own priority, 6 of normal and 3 of low before it: as many as begin before its turn.
    assert!((20..=26).contains(&ahead.position), "{ahead:?}");
    loop {
        let claimed = fleet.queue.claim(&mut fleet.consumer, 1, Duration::from_millis(1)).await;
        let Some(claimed) = claimed.unwrap().pop() else { break };
        fleet.finish(&claimed, "done").await;
    }
    fleet.queue.housekeep(None).await.unwrap();
    at_rest(&fleet, &redis).await;
}

#[tokio::test]
async fn where_the_last_worker_is_silent_a_job_waits_for_one() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    let tenant = fleet.tenant.clone();
    fleet.queue.housekeep(Some((fleet.worker, 2))).await.unwrap();
    let waiting = submit(&fleet, &tenant, Quota::default()).await;
    assert_eq!(standing(&fleet, waiting).await.unwrap().slots, 2);
    outlive_lease().await;
    // Nobody is left who would notice.
    assert_eq!(standing(&fleet, waiting).await.unwrap().slots, 0);
    let claimed = fleet.claim_one().await;
    fleet.finish(&claimed, "done").await;
}

#[tokio::test]
async fn what_a_tenant_may_have_waiting_is_bounded_in_jobs_and_bytes() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let tenant = fleet.tenant.clone();
    let two = Quota { max_active: 1, max_open: 2, ..Quota::default() };
    submit(&fleet, &tenant, two).await;
    submit(&fleet, &tenant, two).await;
    let refused = submit_with(&fleet, &tenant, two, Terms::default()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::TooManyJobs);
    assert!(refused.message().contains("policy.maxQueuedJobs") && refused.retry_after().is_some());
    let bytes = Quota { max_open_bytes: 1000, ..Quota::default() };
    let refused = submit_with(&fleet, &tenant, bytes, Terms::default()).await.unwrap_err();
    assert!(refused.message().contains("policy.maxQueuedBytes"), "{refused}");
    for _ in 0..2 {
        let claimed = fleet.claim_one().await;
        fleet.finish(&claimed, "done").await;
    }
    submit(&fleet, &tenant, bytes).await;
}

#[tokio::test]
async fn what_is_kept_of_a_tenant_is_bounded_in_jobs_and_bytes() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let tenant = fleet.tenant.clone();
    let kept = || redis.run::<Option<u64>>(&["GET", "v1:{s0}:kept:acme"]);
    let two = Quota { max_kept: 2, ..Quota::default() };
    let first = submit(&fleet, &tenant, two).await;
    submit(&fleet, &tenant, two).await;
    assert_eq!(kept(), None);
    for message in ["short", &"long".repeat(1000)] {
        let claimed = fleet.claim_one().await;
        fleet.finish(&claimed, message).await;
    }
    assert!(kept().is_some_and(|bytes| bytes > 4000));
    let refused = submit_with(&fleet, &tenant, two, Terms::default()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::TooManyJobs);
    assert!(refused.message().contains("policy.maxKeptJobs") && refused.retry_after().is_some());
    let bytes = Quota { max_kept_bytes: 4000, ..Quota::default() };
    let refused = submit_with(&fleet, &tenant, bytes, Terms::default()).await.unwrap_err();
    assert!(refused.message().contains("policy.maxKeptBytes"), "{refused}");
    // Their time is over.
    for name in redis.run::<Vec<String>>(&["ZRANGE", "v1:{s0}:retained", "0", "-1"]) {
        let _: u64 = redis.run(&["ZADD", "v1:{s0}:retained", "1", &name]);
    }
    let _: u64 = redis.run(&["DEL", &format!("v1:{{s0}}:job:{first}")]);
    fleet.queue.housekeep(None).await.unwrap();
    assert_eq!(kept(), None);
    submit(&fleet, &tenant, Quota { max_kept_bytes: 4000, ..two }).await;
}

#[tokio::test]
async fn a_job_says_why_it_waits_and_behind_how_many() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let tenant = fleet.tenant.clone();
    let first = submit(&fleet, &tenant, at_most(3)).await;
    let second = submit(&fleet, &tenant, at_most(3)).await;
    let third = submit(&fleet, &tenant, at_most(3)).await;
    let backlogged = submit(&fleet, &tenant, at_most(3)).await;
    let terms = Terms { delay_ms: Some(60_000), ..Terms::default() };
    let delayed = submit_with(&fleet, &tenant, at_most(3), terms).await.unwrap();
    let claimed = fleet.claim_one().await;
    assert_eq!(claimed.lease.job, first);
    assert_eq!(standing(&fleet, first).await, None);
    let of = |waits_for, position| Standing { waits_for, position, slots: 0, estimate: None };
    assert_eq!(standing(&fleet, second).await, Some(of(WaitsFor::Worker, 1)));
    assert_eq!(standing(&fleet, third).await, Some(of(WaitsFor::Worker, 2)));
    assert_eq!(standing(&fleet, backlogged).await, Some(of(WaitsFor::Tenant, 1)));
    assert_eq!(standing(&fleet, delayed).await, Some(of(WaitsFor::Time, 0)));
    fleet.queue.housekeep(Some((fleet.worker, 2))).await.unwrap();
    fleet.finish(&claimed, "done").await;
    let third = standing(&fleet, third).await.unwrap();
    assert_eq!((third.position, third.slots), (2, 2));
    assert!(third.estimate.is_some(), "{third:?}");
    let stranger = fleet.queue.standing(&TenantId::new("stranger"), second).await.unwrap();
    assert_eq!(stranger, None);
}
