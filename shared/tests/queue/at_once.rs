//! Steps that come at once are taken together, and yet each is what it would be alone.

use std::sync::Arc;

use futures_util::future::join_all;
use shared::error::{Error, ErrorCode};
use shared::execution::Terms;
use shared::id::{JobId, TenantId};
use shared::redis::{Accepted, Commit, Depth, Listing, Quota, Submission};

use crate::harness::{Fleet, Redis, ending, job, submission};

const JOBS: usize = 100;

async fn submit(fleet: &Fleet, tenant: &TenantId, quota: Quota) -> Result<Accepted, Error> {
    let terms = Terms { retention_ms: 60_000, ..Terms::default() };
    let submission = Submission { tenant, id: JobId::generate(), reply_to: None, quota };
    fleet.queue.submit(submission, Listing { terms: &terms, once: None }, &job()).await
}

#[tokio::test]
async fn jobs_keep_their_order() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    // Some stand in line, and the others wait behind them.
    let quota = Quota { max_active: 7, ..Quota::default() };
    let tenant = fleet.tenant.clone();
    let all = (0..JOBS).map(|_| submit(&fleet, &tenant, quota));
    let all: Vec<JobId> = join_all(all).await.into_iter().map(|it| it.unwrap().id).collect();
    let mut begun = Vec::new();
    while begun.len() < JOBS {
        let claimed = fleet.claim_one().await;
        begun.push(claimed.lease.job);
        fleet.finish(&claimed, "done").await;
    }
    assert_eq!(begun, all);
    assert_eq!(fleet.queue.depth().await.unwrap(), Depth::default());
    assert_eq!(
        redis.run::<Vec<Option<u64>>>(&["HMGET", "v1:{s0}:usage", "jobs", "bytes"]),
        [Some(0); 2]
    );
}

#[tokio::test]
async fn limits_hold_for_each_tenant() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    let (many, few) = (TenantId::new("many"), TenantId::new("few"));
    let of = |most| Quota { max_open: most, ..Quota::default() };
    let both = (0..JOBS).map(|number| {
        let (tenant, quota) = if number % 2 == 0 { (&many, of(40)) } else { (&few, of(3)) };
        submit(&fleet, tenant, quota)
    });
    let both = join_all(both).await;
    let accepted = |parity| both.iter().skip(parity).step_by(2).filter(|it| it.is_ok()).count();
    assert_eq!((accepted(0), accepted(1)), (40, 3));
    let refused = both.iter().filter_map(|it| it.as_ref().err());
    assert!(refused.into_iter().all(|it| it.code() == ErrorCode::TooManyJobs));
    for (tenant, jobs) in [("many", 40), ("few", 3)] {
        let counted: u64 = redis.run(&["HGET", &format!("v1:{{s0}}:usage:{tenant}"), "jobs"]);
        let listed: u64 = redis.run(&["ZCARD", &format!("v1:{{s0}}:listed:{tenant}")]);
        assert_eq!((counted, listed), (jobs, jobs), "{tenant}");
    }
    assert_eq!(redis.run::<u64>(&["HGET", "v1:{s0}:usage", "jobs"]), 43);
}

#[tokio::test]
async fn endings_are_committed_by_those_who_hold_the_jobs_alone() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let ids: Vec<JobId> = (0..JOBS).map(|_| JobId::generate()).collect();
    let (queue, tenant, gateway) = (fleet.queue.clone(), fleet.tenant.clone(), fleet.gateway);
    let job = Arc::new(job());
    let all = ids.iter().map(|id| queue.enqueue(submission(&tenant, *id, gateway), &job));
    join_all(all).await.into_iter().for_each(Result::unwrap);
    let claimed = fleet.claim(JOBS).await;
    assert_eq!(claimed.iter().map(|it| it.lease.job).collect::<Vec<_>>(), ids);
    let (worker, done) = (fleet.worker, ending("done"));
    let stranger = shared::id::WorkerId::generate();
    let all = claimed.iter().enumerate().map(|(number, it)| {
        let whose = if number % 3 == 0 { stranger } else { worker };
        queue.finish(whose, &it.lease, &done)
    });
    for (number, committed) in join_all(all).await.into_iter().enumerate() {
        let expected = if number % 3 == 0 { Commit::Fenced } else { Commit::Done };
        assert_eq!(committed.unwrap(), expected, "job {number}");
    }
    assert_eq!(queue.depth().await.unwrap(), Depth { queued: 0, running: JOBS.div_ceil(3) as u64 });
}
