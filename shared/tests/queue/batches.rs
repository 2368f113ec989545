//! Batches: their items become jobs a few at a time, each has exactly one result, and nothing of them is left.

use std::time::{Duration, Instant};

use shared::error::{Error, ErrorCode};
use shared::execution::{
    Ending, ExecutionResult, Failure, ItemEnding, Job, Outcome, Priority, Terms, Timings,
};
use shared::id::{BatchId, JobId, TenantId};
use shared::redis::{
    BatchCache, BatchLimits, BatchProgress, BatchTerms, Claimed, Commit, GiveBack, LeaseNews, Once,
    Quota, RunningBatch, Sealed,
};
use tokio::time::sleep;

use crate::harness::{BLOCK, Fleet, Redis, SECRET, SOON, failure, job, lost, outlive_lease};

/// Least items of a tenant that are in the queue at once.
const OPEN: u64 = 32;

fn item(number: u64) -> Job {
    Job { stdin: Some(format!("item {number}")), ..job() }
}

pub(crate) fn terms() -> BatchTerms {
    let items = Terms { retention_ms: 60_000, priority: Priority::Low, ..Terms::default() };
    BatchTerms { items, failure_budget: None, webhook: None }
}

async fn upload(
    fleet: &Fleet,
    items: u64,
    (quota, limits): (Quota, BatchLimits),
    terms: BatchTerms,
    once: Option<&Once>,
) -> Result<Sealed, Error> {
    let mut upload = fleet.queue.upload_batch(&fleet.tenant, quota, limits, terms).await?;
    for number in 0..items {
        let name = if number % 2 == 0 { format!("name {number}") } else { String::new() };
        upload.add(name, &item(number)).await?;
    }
    upload.seal(once).await
}

pub(crate) async fn submit(fleet: &Fleet, items: u64, terms: BatchTerms) -> BatchId {
    let any = (Quota::default(), BatchLimits::default());
    upload(fleet, items, any, terms, None).await.unwrap().id
}

/// What a worker does by the clock.
pub(crate) async fn tend(fleet: &Fleet, cache: &mut BatchCache) -> Vec<(String, String)> {
    let mut repaired = Vec::new();
    for batch in fleet.queue.tend_batches().await.unwrap() {
        fleet.queue.advance_batch(batch, cache).await.unwrap();
        repaired.extend(fleet.queue.check_batch(batch).await.unwrap());
    }
    repaired
}

/// Has it be looked at again at once.
pub(crate) fn come_due(redis: &Redis, id: BatchId) {
    let _: u64 = redis.run(&["ZADD", "v1:{s0}:tending", "XX", "0", &format!("acme:{id}")]);
}

fn exited(exit_code: i32, claimed: &Claimed) -> Ending {
    Ending::Result(ExecutionResult {
        stdout: claimed.job.stdin.clone().unwrap_or_default(),
        stderr: String::new(),
        exit_code,
        duration_ms: 1,
        truncated: false,
        execution_id: claimed.lease.job,
        runtime: claimed.job.runtime,
        timestamp: chrono::Utc::now(),
        container_id: "c".into(),
        isolation: shared::isolation::Isolation::Container,
        resource_usage: None,
        network_logs: Vec::new(),
        network_logs_dropped: 0,
        files: None,
        session: None,
        events: 0,
        outcome: Outcome::Exited,
        timings: Timings::default(),
    })
}

async fn commit(fleet: &Fleet, claimed: &Claimed, exit_code: i32) -> Commit {
    let ending = exited(exit_code, claimed);
    fleet.queue.finish(fleet.worker, &claimed.lease, &ending).await.unwrap()
}

pub(crate) async fn finish(fleet: &Fleet, claimed: &Claimed, exit_code: i32) {
    assert_ne!(commit(fleet, claimed, exit_code).await, Commit::Fenced);
}

async fn progress(fleet: &Fleet, id: BatchId) -> BatchProgress {
    fleet.queue.batch(&fleet.tenant, id).await.unwrap().progress
}

/// The results so far: item, name and standard output or code of error.
async fn results(fleet: &Fleet, id: BatchId) -> Vec<(u64, Option<String>, String)> {
    let mut found = Vec::new();
    loop {
        let from = found.len() as u64;
        let page = fleet.queue.batch_results(&fleet.tenant, id, from).await.unwrap();
        if page.results.is_empty() {
            return found;
        }
        for result in page.results {
            assert_eq!(result.number, found.len() as u64);
            let words = match result.ending {
                ItemEnding::Result(result) => result.stdout,
                ItemEnding::Error(failure) => failure.code.to_string(),
            };
            found.push((result.item, result.name, words));
        }
    }
}

/// Asserts that there is one result of each of so many items.
async fn one_result_each(fleet: &Fleet, id: BatchId, items: u64) {
    let mut seen: Vec<u64> = results(fleet, id).await.into_iter().map(|it| it.0).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..items).collect::<Vec<_>>());
}

/// Runs what there is until the batch has ended; most jobs that waited or ran at once.
pub(crate) async fn run_to_end(fleet: &mut Fleet, redis: &Redis, id: BatchId) -> u64 {
    let (mut cache, mut most) = (BatchCache::default(), 0);
    while fleet.queue.batch(&fleet.tenant, id).await.unwrap().state != "finished" {
        come_due(redis, id);
        tend(fleet, &mut cache).await;
        let depth = fleet.queue.depth().await.unwrap();
        most = most.max(depth.queued + depth.running);
        for claimed in fleet.queue.claim(&mut fleet.consumer, 64, BLOCK).await.unwrap() {
            finish(fleet, &claimed, 0).await;
        }
    }
    most
}

/// Has a batch be forgotten, and asserts that nothing of it is left.
pub(crate) async fn nothing_left(fleet: &Fleet, redis: &Redis, id: BatchId) {
    come_due(redis, id);
    tend(fleet, &mut BatchCache::default()).await;
    fleet.queue.housekeep(None).await.unwrap();
    let error = fleet.queue.batch(&fleet.tenant, id).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotFound);
    let left: Vec<_> = redis.keys().into_iter().filter(|key| key.contains(":batch")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!redis.keys().iter().any(|key| key.contains(":usage:") || key.contains(":tending")));
    redis.assert_nothing_left();
}

#[tokio::test]
async fn every_item_is_run_and_has_one_result() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = submit(&fleet, 700, terms()).await;
    let waiting = progress(&fleet, id).await;
    assert_eq!((waiting.items, waiting.queued, waiting.results), (700, 700, 0));
    assert!(redis.keys().iter().all(|key| !key.contains(":job:")), "items are no jobs yet");
    let most = run_to_end(&mut fleet, &redis, id).await;
    assert!(most <= OPEN, "{most}");
    let found = results(&fleet, id).await;
    assert_eq!(found.len(), 700);
    for (item, name, stdout) in &found {
        assert_eq!(*stdout, format!("item {item}"));
        assert_eq!(*name, (item % 2 == 0).then(|| format!("name {item}")));
    }
    one_result_each(&fleet, id, 700).await;
    let record = fleet.queue.batch(&fleet.tenant, id).await.unwrap();
    assert_eq!(record.outcome.as_deref(), Some("completed"));
    assert_eq!((record.progress.succeeded, record.progress.queued), (700, 0));
    for key in redis.keys().iter().filter(|key| key.contains(":batch")) {
        let text = match redis.run::<String>(&["TYPE", key]).as_str() {
            "hash" => redis.run::<Vec<String>>(&["HVALS", key]).concat(),
            _ => String::new(),
        };
        assert!(!text.contains(SECRET), "{key}");
    }
    nothing_left(&fleet, &redis, id).await;
}

#[tokio::test]
async fn a_tenants_cap_holds_for_items() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let quota = Quota { max_active: 3, ..Quota::default() };
    let limits = BatchLimits::default();
    let id = upload(&fleet, 100, (quota, limits), terms(), None).await.unwrap().id;
    let most = run_to_end(&mut fleet, &redis, id).await;
    assert_eq!(most, 3);
    one_result_each(&fleet, id, 100).await;
    nothing_left(&fleet, &redis, id).await;
}

#[tokio::test]
async fn workers_that_advance_a_batch_at_once_make_one_job_of_each_item() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    fleet.queue.housekeep(Some((fleet.worker, 400))).await.unwrap();
    let id = submit(&fleet, 1500, terms()).await;
    let [batch] = fleet.queue.tend_batches().await.unwrap()[..] else { panic!("it is due") };
    assert_eq!(fleet.queue.tend_batches().await.unwrap(), [], "it is somebody's");
    let advance = || async {
        let mut cache = BatchCache::default();
        fleet.queue.advance_batch(batch, &mut cache).await.unwrap();
    };
    tokio::join!(advance(), advance(), advance(), advance());
    let key = format!("v1:{{s0}}:batch-open:{id}");
    let mut begun: Vec<u64> = redis.run(&["HVALS", &key]);
    begun.sort_unstable();
    assert_eq!(begun, (0..700).collect::<Vec<_>>(), "twice the tenant's share");
}

#[tokio::test]
async fn who_ends_an_item_hears_when_few_are_left() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = submit(&fleet, 100, terms()).await;
    let mut cache = BatchCache::default();
    tend(&fleet, &mut cache).await;
    for left in (0..OPEN).rev() {
        let claimed = fleet.claim_one().await;
        let expected = if left == OPEN / 2 { Commit::DoneLow } else { Commit::Done };
        assert_eq!(commit(&fleet, &claimed, 0).await, expected, "{left}");
        assert_eq!(claimed.lease.batch.map(|batch| batch.id), Some(id));
        assert_eq!(claimed.terms.unwrap().priority, Priority::Low);
    }
    come_due(&redis, id);
    let batch: RunningBatch = fleet.queue.tend_batches().await.unwrap()[0];
    fleet.queue.advance_batch(batch, &mut cache).await.unwrap();
    assert_eq!(fleet.queue.depth().await.unwrap().queued, 16);
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    let any = (Quota::default(), BatchLimits::default());
    let mut broken = fleet.queue.upload_batch(&fleet.tenant, any.0, any.1, terms()).await.unwrap();
    for number in 0..600 {
        broken.add(String::new(), &item(number)).await.unwrap();
    }
    let id = broken.id();
    let record = fleet.queue.batch(&fleet.tenant, id).await.unwrap();
    assert_eq!((record.state.as_str(), record.progress.items), ("uploading", 512));
    assert_eq!(record.terms, Terms { batch: Some(id), ..terms().items });
    let unread = fleet.queue.batch_results(&fleet.tenant, id, 0).await.unwrap_err();
    assert_eq!(unread.code(), ErrorCode::NotFound);
    tend(&fleet, &mut BatchCache::default()).await;
    assert_eq!(progress(&fleet, id).await.items, 512, "it lives");
    drop(broken);
    // Nor does one without a single item, or with too few to be stored.
    drop(fleet.queue.upload_batch(&fleet.tenant, any.0, any.1, terms()).await.unwrap());
    let mut small = fleet.queue.upload_batch(&fleet.tenant, any.0, any.1, terms()).await.unwrap();
    small.add(String::new(), &item(0)).await.unwrap();
    drop(small);
    let deadline = Instant::now() + SOON;
    while redis.keys().iter().any(|key| key.contains(":batch")) {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(5)).await;
    }
    redis.assert_nothing_left();
}

#[tokio::test]
async fn an_upload_whose_gateway_died_is_removed() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    let any = (Quota::default(), BatchLimits::default());
    let mut upload = fleet.queue.upload_batch(&fleet.tenant, any.0, any.1, terms()).await.unwrap();
    for number in 0..600 {
        upload.add(String::new(), &item(number)).await.unwrap();
    }
    nothing_left(&fleet, &redis, upload.id()).await;
    // It was only slow: then it is told.
    let refused = upload.seal(None).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::QueueUnavailable);
    redis.assert_nothing_left();
}

#[tokio::test]
async fn one_idempotency_key_is_one_batch() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let any = (Quota::default(), BatchLimits::default());
    let once = Once::of_batch(b"key", b"request");
    let first = upload(&fleet, 3, any, terms(), Some(&once)).await.unwrap();
    assert!(!first.is_repeated);
    let again = upload(&fleet, 3, any, terms(), Some(&once)).await.unwrap();
    assert_eq!(again, Sealed { id: first.id, is_repeated: true });
    let other = Once::of_batch(b"key", b"another request");
    let refused = upload(&fleet, 3, any, terms(), Some(&other)).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::IdempotencyMismatch);
    let listed = fleet.queue.batches(&fleet.tenant, None, 10).await.unwrap();
    assert_eq!(listed.batches.iter().map(|it| it.id).collect::<Vec<_>>(), [first.id]);
    run_to_end(&mut fleet, &redis, first.id).await;
    let again = upload(&fleet, 3, any, terms(), Some(&once)).await.unwrap();
    assert_eq!(again.id, first.id, "as long as it is kept");
    nothing_left(&fleet, &redis, first.id).await;
    let fresh = upload(&fleet, 3, any, terms(), Some(&once)).await.unwrap();
    assert_ne!(fresh.id, first.id);
}

#[tokio::test]
async fn limits_are_named() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    let with = |change: fn(&mut BatchLimits)| {
        let mut limits = BatchLimits::default();
        change(&mut limits);
        (Quota::default(), limits)
    };
    let refused = |limits| upload(&fleet, 2000, limits, terms(), None);
    for (limits, code, words) in [
        (with(|it| it.max_items = 1999), ErrorCode::PolicyViolation, "policy.maxBatchItems"),
        (with(|it| it.max_bytes = 4000), ErrorCode::TooManyJobs, "policy.maxBatchBytes"),
        (with(|it| it.max_batches = 0), ErrorCode::TooManyJobs, "policy.maxBatches"),
    ] {
        let error = refused(limits).await.unwrap_err();
        assert_eq!(error.code(), code);
        assert!(error.message().contains(words), "{error}");
    }
    fleet.queue.quiesce().await;
    redis.assert_nothing_left();
    let id = submit(&fleet, 5, terms()).await;
    let stranger = TenantId::new("stranger");
    for error in [
        fleet.queue.batch(&stranger, id).await.unwrap_err(),
        fleet.queue.batch_results(&stranger, id, 0).await.unwrap_err(),
        fleet.queue.cancel_batch(&stranger, id).await.unwrap_err(),
        fleet.queue.forget_results(&stranger, id, 1).await.unwrap_err(),
    ] {
        assert_eq!(error.code(), ErrorCode::NotFound);
    }
}

#[tokio::test]
async fn a_cancelled_batch_begins_nothing_and_stops_what_runs() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = submit(&fleet, 600, terms()).await;
    tend(&fleet, &mut BatchCache::default()).await;
    let running = fleet.claim_one().await;
    let done = fleet.claim_one().await;
    finish(&fleet, &done, 0).await;
    assert!(!fleet.queue.cancel_batch(&fleet.tenant, id).await.unwrap(), "one runs");
    let now = progress(&fleet, id).await;
    assert_eq!((now.queued, now.running, now.succeeded), (0, 1, 1));
    assert_eq!((now.cancelled, now.not_begun), (598, 568));
    assert_eq!(fleet.claim(10).await.len(), 0, "nothing begins");
    let leases = [running.lease.clone()];
    let news = fleet.queue.renew(fleet.worker, &leases).await.unwrap();
    assert_eq!(news, [(running.lease.clone(), LeaseNews::Cancelled)]);
    let ending = Ending::Error(Failure::new(ErrorCode::Cancelled, "stopped"));
    assert_eq!(
        fleet.queue.finish(fleet.worker, &running.lease, &ending).await.unwrap(),
        Commit::Done
    );
    assert!(fleet.queue.cancel_batch(&fleet.tenant, id).await.unwrap(), "nothing does");
    let record = fleet.queue.batch(&fleet.tenant, id).await.unwrap();
    assert_eq!((record.state.as_str(), record.outcome.as_deref()), ("finished", Some("cancelled")));
    assert_eq!((record.progress.cancelled, record.progress.results), (599, 32));
    one_result_each(&fleet, id, 32).await;
    nothing_left(&fleet, &redis, id).await;
}

#[tokio::test]
async fn a_batch_that_fails_too_often_stops() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = submit(&fleet, 300, BatchTerms { failure_budget: Some(2), ..terms() }).await;
    let mut cache = BatchCache::default();
    tend(&fleet, &mut cache).await;
    let claimed = fleet.claim(4).await;
    for (claimed, exit_code) in claimed.iter().zip([1, 0, 9]) {
        finish(&fleet, claimed, exit_code).await;
    }
    let record = fleet.queue.batch(&fleet.tenant, id).await.unwrap();
    assert_eq!((record.state.as_str(), record.progress.failed), ("running", 2));
    let late = fleet.claim_one().await;
    let out = Ending::Error(failure("no sandbox"));
    assert_eq!(fleet.queue.finish(fleet.worker, &late.lease, &out).await.unwrap(), Commit::Done);
    let more = fleet.queue.claim(&mut fleet.consumer, 8, Duration::from_millis(1)).await.unwrap();
    assert!(more.is_empty(), "none begins once the budget is spent: {more:?}");
    tend(&fleet, &mut cache).await;
    let record = fleet.queue.batch(&fleet.tenant, id).await.unwrap();
    assert_eq!(
        (record.state.as_str(), record.outcome.as_deref()),
        ("stopping", Some("failure_budget"))
    );
    let now = record.progress;
    assert_eq!((now.failed, now.nonzero_exit, now.errors, now.running), (3, 2, 1, 1));
    assert_eq!(now.queued, 0, "they were cancelled");
    let news = fleet.queue.renew(fleet.worker, &[claimed[3].lease.clone()]).await.unwrap();
    assert_eq!(news[0].1, LeaseNews::Cancelled);
    finish(&fleet, &claimed[3], 0).await;
    let record = fleet.queue.batch(&fleet.tenant, id).await.unwrap();
    assert_eq!((record.state.as_str(), record.progress.succeeded), ("finished", 2));
    assert_eq!(record.progress.cancelled, 300 - 5);
    nothing_left(&fleet, &redis, id).await;
}

#[tokio::test]
async fn items_wait_until_their_results_are_read() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let limits = BatchLimits { max_result_bytes: 2000, ..BatchLimits::default() };
    let any = (Quota::default(), limits);
    let id = upload(&fleet, 200, any, terms(), None).await.unwrap().id;
    let mut cache = BatchCache::default();
    let mut acknowledged = 0;
    let mut waited = 0;
    let record = loop {
        come_due(&redis, id);
        tend(&fleet, &mut cache).await;
        let claimed = fleet.queue.claim(&mut fleet.consumer, 64, Duration::from_millis(1)).await;
        for claimed in claimed.unwrap() {
            finish(&fleet, &claimed, 0).await;
        }
        let record = fleet.queue.batch(&fleet.tenant, id).await.unwrap();
        if record.state == "finished" {
            break record;
        }
        if record.waits_for_readers {
            assert!(record.result_bytes >= 2000);
            waited += 1;
            let read = record.progress.results;
            let forgotten = fleet.queue.forget_results(&fleet.tenant, id, read).await.unwrap();
            assert_eq!(acknowledged + forgotten, read);
            acknowledged = read;
            assert_eq!(fleet.queue.forget_results(&fleet.tenant, id, read).await.unwrap(), 0);
        }
    };
    assert!(waited > 1, "{waited}");
    assert_eq!((record.progress.succeeded, record.progress.results), (200, 200));
    let page = fleet.queue.batch_results(&fleet.tenant, id, 0).await.unwrap();
    assert_eq!(page.results[0].number, acknowledged);
    nothing_left(&fleet, &redis, id).await;
}

#[tokio::test]
async fn an_item_whose_worker_dies_is_begun_again_and_has_one_result() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    let id = submit(&fleet, 1, terms()).await;
    tend(&fleet, &mut BatchCache::default()).await;
    let first = fleet.claim_one().await;
    outlive_lease().await;
    let (other, mut consumer) = fleet.second_worker().await;
    let again = fleet.queue.reclaim(&mut consumer, 1).await.unwrap().remove(0);
    assert_eq!((again.lease.job, again.attempt), (first.lease.job, 2));
    assert_eq!(commit(&fleet, &first, 0).await, Commit::Fenced, "too late");
    assert_eq!(
        fleet.queue.renew(fleet.worker, std::slice::from_ref(&first.lease)).await.unwrap(),
        lost([&first.lease])
    );
    for _ in 0..2 {
        let done = fleet.queue.finish(other, &again.lease, &exited(0, &again)).await;
        assert_eq!(done.unwrap(), Commit::Done, "a repeated call is told what was done");
    }
    assert_eq!(commit(&fleet, &first, 0).await, Commit::Fenced, "later still");
    one_result_each(&fleet, id, 1).await;
    nothing_left(&fleet, &redis, id).await;
}

#[tokio::test]
async fn an_item_is_tried_and_given_up_like_any_job_and_is_no_dead_letter() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = submit(&fleet, 3, terms()).await;
    tend(&fleet, &mut BatchCache::default()).await;
    let tried = fleet.claim_one().await;
    let pause = Duration::from_secs(3600);
    let again = fleet.queue.retry(fleet.worker, &tried.lease, pause, &exited(1, &tried)).await;
    assert_eq!(again.unwrap(), Commit::Done);
    assert_eq!(progress(&fleet, id).await.queued, 3, "it waits for its next try");
    let handed_back = fleet.claim_one().await;
    let why = GiveBack::Shutdown;
    let done = fleet.queue.give_back(fleet.worker, &handed_back.lease, why).await;
    assert_eq!(done.unwrap(), Commit::Done);
    let mut deliveries = 0;
    while progress(&fleet, id).await.results < 2 {
        let claimed = fleet.claim_one().await;
        deliveries += 1;
        let why = GiveBack::Failed(failure("no sandbox"));
        let done = fleet.queue.give_back(fleet.worker, &claimed.lease, why).await;
        assert_eq!(done.unwrap(), Commit::Done);
    }
    assert_eq!(deliveries, 6);
    let dead = fleet.queue.dead_letters(&fleet.tenant, None, 10).await.unwrap();
    assert!(dead.jobs.is_empty());
    let _: u64 = redis.run(&["ZADD", "v1:{s0}:delayed", "0", &tried.lease.job.to_string()]);
    fleet.queue.housekeep(None).await.unwrap();
    let claimed = fleet.claim_one().await;
    assert_eq!((claimed.lease.job, claimed.tries), (tried.lease.job, 1));
    finish(&fleet, &claimed, 0).await;
    let now = progress(&fleet, id).await;
    assert_eq!((now.succeeded, now.errors, now.results), (1, 2, 3));
    one_result_each(&fleet, id, 3).await;
    let _: u64 = redis.run(&["DEL", "v1:{s0}:slots", "v1:{s0}:workers"]);
    nothing_left(&fleet, &redis, id).await;
}

#[tokio::test]
async fn a_job_of_an_item_can_be_cancelled_by_itself() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = submit(&fleet, 2, terms()).await;
    tend(&fleet, &mut BatchCache::default()).await;
    let names: Vec<String> = redis.run(&["HKEYS", &format!("v1:{{s0}}:batch-open:{id}")]);
    let first: JobId = names[0].parse().unwrap();
    fleet.queue.cancel(&fleet.tenant, first).await.unwrap();
    let claimed = fleet.claim_one().await;
    finish(&fleet, &claimed, 0).await;
    let now = progress(&fleet, id).await;
    assert_eq!((now.cancelled, now.not_begun, now.succeeded, now.results), (1, 0, 1, 2));
    assert!(results(&fleet, id).await.iter().any(|it| it.2 == "CANCELLED"));
    nothing_left(&fleet, &redis, id).await;
}

#[tokio::test]
async fn what_is_lost_is_found_or_told() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = submit(&fleet, 600, terms()).await;
    let mut cache = BatchCache::default();
    assert_eq!(tend(&fleet, &mut cache).await, [], "all is well");
    let key = format!("v1:{{s0}}:batch-open:{id}");
    let names: Vec<String> = redis.run(&["HKEYS", &key]);
    let record = |name: &str| format!("v1:{{s0}}:job:{name}");
    let is_in_line = |name: &&String| redis.run::<bool>(&["HEXISTS", &record(name), "entry"]);
    let in_line: Vec<&String> = names.iter().filter(is_in_line).collect();
    let backlogged = names.iter().find(|name| !in_line.contains(name)).unwrap();
    let entry: String = redis.run(&["HGET", &record(in_line[0]), "entry"]);
    let _: u64 = redis.run(&["XDEL", "v1:{s0}:jobs-low", &entry]);
    let _: u64 = redis.run(&["ZREM", "v1:{s0}:backlog-low:acme", backlogged]);
    let _: u64 = redis.run(&["DEL", &record(in_line[1])]);
    come_due(&redis, id);
    let mut repaired = tend(&fleet, &mut cache).await;
    repaired.sort();
    let named = |what: &str, name: &str| (what.to_owned(), name.to_owned());
    let mut expected =
        vec![named("item", in_line[1]), named("queued", in_line[0]), named("queued", backlogged)];
    expected.sort();
    assert_eq!(repaired, expected);
    assert_eq!(progress(&fleet, id).await.errors, 1);
    come_due(&redis, id);
    assert_eq!(tend(&fleet, &mut cache).await, []);

    // Items that have not begun cannot be made up.
    let _: u64 = redis.run(&["DEL", &format!("v1:{{s0}}:batch-items:{id}")]);
    let mut cache = BatchCache::default();
    let deadline = Instant::now() + SOON;
    while fleet.queue.batch(&fleet.tenant, id).await.unwrap().state != "finished" {
        assert!(Instant::now() < deadline);
        come_due(&redis, id);
        tend(&fleet, &mut cache).await;
        let claimed = fleet.queue.claim(&mut fleet.consumer, 64, Duration::from_millis(1)).await;
        for claimed in claimed.unwrap() {
            finish(&fleet, &claimed, 0).await;
        }
    }
    let record = fleet.queue.batch(&fleet.tenant, id).await.unwrap();
    assert_eq!(record.outcome.as_deref(), Some("items_lost"));
    let now = record.progress;
    assert_eq!(now.succeeded + now.cancelled + now.failed, 600);
    assert_eq!(now.results + now.not_begun, 600);
    nothing_left(&fleet, &redis, id).await;
}

#[tokio::test]
async fn an_item_that_no_worker_can_read_fails_and_its_batch_goes_on() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = submit(&fleet, 2, terms()).await;
    tend(&fleet, &mut BatchCache::default()).await;
    let open = format!("v1:{{s0}}:batch-open:{id}");
    let jobs: Vec<(String, u64)> = redis.run(&["HGETALL", &open]);
    let (first, _) = jobs.iter().find(|(_, item)| *item == 0).unwrap();
    let _: u64 = redis.run(&["HSET", &format!("v1:{{s0}}:job:{first}"), "payload", "{\"of\":1}"]);
    fleet.pass_on_unread().await;
    assert_eq!(results(&fleet, id).await, [(0, Some("name 0".into()), "NO_WORKER".into())]);
    let claimed = fleet.claim_one().await;
    finish(&fleet, &claimed, 0).await;
    one_result_each(&fleet, id, 2).await;
    let batch = fleet.queue.batch(&fleet.tenant, id).await.unwrap();
    assert_eq!((batch.state.as_str(), batch.progress.errors), ("finished", 1));
}
