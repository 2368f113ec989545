//! Batches and schedules whose jobs require labels: they stand where other jobs with these labels do.

use std::time::Duration;

use shared::execution::{Missed, Overlap, Terms, Timetable};
use shared::id::{BatchId, ScheduleId};
use shared::redis::{
    BatchCache, BatchLimits, BatchTerms, Depth, Fired, Quota, ScheduleFacts, ScheduleOrder,
};

use crate::harness::{BLOCK, Fleet, Redis, job, submission};
use crate::placement::{GPU, Labelled, labels};

/// So many of a tenant's items are in the queue while no worker is known; half of them in line.
const OPEN: u64 = 32;

fn terms() -> Terms {
    Terms { retention_ms: 60_000, labels: labels(GPU), ..Terms::default() }
}

async fn batch(fleet: &Fleet, items: u64) -> BatchId {
    let (quota, limits) = (Quota::default(), BatchLimits::default());
    let terms = BatchTerms { items: terms(), ..BatchTerms::default() };
    let mut upload = fleet.queue.upload_batch(&fleet.tenant, quota, limits, terms).await.unwrap();
    for _ in 0..items {
        upload.add(String::new(), &job()).await.unwrap();
    }
    upload.seal(None).await.unwrap().id
}

/// What a worker does by the clock.
async fn tend(fleet: &Fleet, redis: &Redis, id: BatchId, cache: &mut BatchCache) {
    let _: u64 = redis.run(&["ZADD", "v1:{s0}:tending", "XX", "0", &format!("acme:{id}")]);
    for batch in fleet.queue.tend_batches().await.unwrap() {
        fleet.queue.advance_batch(batch, cache).await.unwrap();
        assert!(fleet.queue.check_batch(batch).await.unwrap().is_empty());
    }
}

fn nothing_is_left(redis: &Redis) {
    for name in ["active:acme", "placed:acme", "placed:acme:pool=gpu", "backlog:acme:pool=gpu"] {
        let key = format!("v1:{{s0}}:{name}");
        assert_eq!(redis.run::<u64>(&["EXISTS", &key]), 0, "{key}");
    }
    assert_eq!(redis.run::<u64>(&["XLEN", "v1:{s0}:jobs-normal:pool=gpu"]), 0);
}

#[tokio::test]
async fn items_of_a_batch_are_for_workers_with_their_labels() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let mut gpu = Labelled::new(&fleet, GPU).await;
    // Whoever has no labels is no worker for them.
    fleet.queue.housekeep(Some((fleet.worker, 4))).await.unwrap();
    let id = batch(&fleet, 40).await;
    let mut cache = BatchCache::default();
    tend(&fleet, &redis, id, &mut cache).await;
    let seen = fleet.queue.batch(&fleet.tenant, id).await.unwrap();
    assert_eq!((seen.slots, seen.terms.labels, seen.progress.queued), (0, labels(GPU), 40));
    let (all, tenants) = fleet.queue.stats().await.unwrap();
    assert_eq!((all.waiting, all.backlogged, tenants.len()), (OPEN / 2, OPEN / 2, 1));
    let tenant = fleet.queue.tenant_stats(&fleet.tenant).await.unwrap();
    assert_eq!((tenant.active, tenant.backlogged), (OPEN / 2, OPEN / 2));
    assert_eq!(tenants, [tenant]);
    let short = Duration::from_millis(50);
    assert!(fleet.queue.claim(&mut fleet.consumer, 64, short).await.unwrap().is_empty());

    let mut ended = 0;
    while fleet.queue.batch(&fleet.tenant, id).await.unwrap().state != "finished" {
        tend(&fleet, &redis, id, &mut cache).await;
        gpu.look(&fleet, 0).await;
        for claimed in fleet.queue.claim(&mut gpu.consumer, 64, BLOCK).await.unwrap() {
            gpu.finish(&fleet, &claimed).await;
            ended += 1;
        }
    }
    assert_eq!(ended, 40);
    let progress = fleet.queue.batch(&fleet.tenant, id).await.unwrap().progress;
    assert_eq!((progress.results, progress.failed), (40, 40));
    nothing_is_left(&redis);
}

#[tokio::test]
async fn a_cancelled_batch_leaves_nothing_in_its_lines_and_backlog() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    let id = batch(&fleet, 40).await;
    tend(&fleet, &redis, id, &mut BatchCache::default()).await;
    let depth = Depth { queued: OPEN / 2, running: 0 };
    assert_eq!(fleet.queue.depth().await.unwrap(), depth);
    while !fleet.queue.cancel_batch(&fleet.tenant, id).await.unwrap() {}
    assert_eq!(fleet.queue.batch(&fleet.tenant, id).await.unwrap().progress.cancelled, 40);
    nothing_is_left(&redis);
}

async fn schedule(fleet: &Fleet) -> ScheduleId {
    let id = ScheduleId::generate();
    let timetable = Timetable {
        cron: Some("0 0 1 1 *".into()),
        at: None,
        timezone: "UTC".into(),
        missed: Missed::All,
        overlap: Overlap::Allow,
    };
    let (terms, job) = (terms(), job());
    let facts = ScheduleFacts { name: None, runtime: "python".into(), timetable };
    let order = ScheduleOrder {
        id,
        tenant: &fleet.tenant,
        max: 100,
        facts: &facts,
        job: &job,
        terms: &terms,
        is_enabled: true,
    };
    fleet.queue.create_schedule(order).await.unwrap();
    id
}

/// Has a schedule run that was due a moment ago.
async fn fire(fleet: &Fleet, redis: &Redis, id: ScheduleId) -> Fired {
    let (id, ms) = (id.to_string(), (chrono::Utc::now().timestamp_millis() - 1000).to_string());
    let _: u64 = redis.run(&["HSET", &format!("v1:{{s0}}:schedule:{id}"), "next_ms", &ms]);
    let _: u64 = redis.run(&["ZADD", "v1:{s0}:scheduled", &ms, &id]);
    let due = fleet.queue.due_schedules().await.unwrap().remove(0);
    fleet.queue.fire_schedule(&due, Quota::default()).await.unwrap()
}

#[tokio::test]
async fn jobs_of_a_schedule_are_for_workers_with_their_labels() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let mut gpu = Labelled::new(&fleet, GPU).await;
    let id = schedule(&fleet).await;
    let Fired::Submitted(expected) = fire(&fleet, &redis, id).await else { panic!("not run") };
    let short = Duration::from_millis(50);
    assert!(fleet.queue.claim(&mut fleet.consumer, 1, short).await.unwrap().is_empty());
    let claimed = gpu.claim_one(&fleet).await;
    assert_eq!(claimed.lease.job, expected);
    gpu.finish(&fleet, &claimed).await;
    nothing_is_left(&redis);
}

#[tokio::test]
async fn a_run_that_would_need_one_more_placement_than_may_be_is_refused() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    let id = schedule(&fleet).await;
    for number in 0..128 {
        let job_id = shared::id::JobId::generate();
        let submission = submission(&fleet.tenant, job_id, fleet.gateway);
        let required = labels(&format!("n={number}"));
        fleet.queue.enqueue_placed(submission, &required, &job()).await.unwrap();
    }
    assert_eq!(fire(&fleet, &redis, id).await, Fired::Noted("placements".into()));
    let runs = fleet.queue.schedule(&fleet.tenant, id).await.unwrap().runs;
    assert_eq!(runs[0].outcome, "placements");
}
