//! Jobs that require labels: who reads them, how they wait beside others, and when their lines go.

use std::time::Duration;

use shared::error::{Error, ErrorCode};
use shared::execution::{Priority, Terms};
use shared::id::{JobId, SessionId, TenantId, WorkerId};
use shared::labels::Labels;
use shared::redis::{
    Cancelled, Claimed, Commit, Consumer, Depth, GiveBack, JobState, Listing, NextCall, Placements,
    Quota, Slots, Standing, Submission, ToSession, WaitsFor, WorkerOrder,
};

use crate::harness::{
    BLOCK, Fleet, Redis, SOON, ending, execute, failure, job, outlive_lease, submission,
};

const KEPT_MS: u64 = 60_000;
pub(crate) const GPU: &str = "pool=gpu";

pub(crate) fn labels(text: &str) -> Labels {
    text.parse().unwrap()
}

/// A worker with labels, and what it reads by now.
pub(crate) struct Labelled {
    labels: Labels,
    worker: WorkerId,
    pub(crate) consumer: Consumer,
}

impl Labelled {
    pub(crate) async fn new(fleet: &Fleet, text: &str) -> Self {
        Self::with(fleet, text, false).await
    }

    pub(crate) async fn with(fleet: &Fleet, text: &str, only_placed: bool) -> Self {
        let worker = WorkerId::generate();
        let consumer = fleet.queue.consumer_of(worker, only_placed).await.unwrap();
        Self { labels: labels(text), worker, consumer }
    }

    /// Looks which placements there are, and takes what is there of new ones.
    pub(crate) async fn look(&mut self, fleet: &Fleet, max: usize) -> Vec<Claimed> {
        let placements =
            fleet.queue.placements(&self.labels, &Placements::default()).await.unwrap();
        fleet.queue.claim_placed(&mut self.consumer, placements, max).await.unwrap()
    }

    async fn claim(&mut self, fleet: &Fleet, max: usize, block: Duration) -> Vec<JobId> {
        self.look(fleet, 0).await;
        ids(&fleet.queue.claim(&mut self.consumer, max, block).await.unwrap())
    }

    pub(crate) async fn claim_one(&mut self, fleet: &Fleet) -> Claimed {
        self.look(fleet, 0).await;
        let mut claimed = fleet.queue.claim(&mut self.consumer, 1, SOON).await.unwrap();
        assert_eq!(claimed.len(), 1);
        claimed.remove(0)
    }

    pub(crate) async fn finish(&self, fleet: &Fleet, claimed: &Claimed) {
        let done = fleet.queue.finish(self.worker, &claimed.lease, &ending("done")).await;
        assert_ne!(done.unwrap(), Commit::Fenced);
    }
}

fn ids(claimed: &[Claimed]) -> Vec<JobId> {
    claimed.iter().map(|claimed| claimed.lease.job).collect()
}

async fn enqueue(fleet: &Fleet, required: &str) -> Result<JobId, Error> {
    let id = JobId::generate();
    let submission = submission(&fleet.tenant, id, fleet.gateway);
    fleet.queue.enqueue_placed(submission, &labels(required), &job()).await.map(|()| id)
}

async fn submit_with(
    fleet: &Fleet,
    required: &str,
    max_active: u32,
    terms: Terms,
) -> Result<JobId, Error> {
    let id = JobId::generate();
    let terms = Terms { retention_ms: KEPT_MS, labels: labels(required), ..terms };
    let quota = Quota { max_active, ..Quota::default() };
    let submission = Submission { tenant: &fleet.tenant, id, reply_to: None, quota };
    let listing = Listing { terms: &terms, once: None };
    fleet.queue.submit(submission, listing, &job()).await.map(|_| id)
}

async fn submit(fleet: &Fleet, required: &str) -> JobId {
    submit_with(fleet, required, 0, Terms::default()).await.unwrap()
}

async fn standing(fleet: &Fleet, id: JobId) -> Standing {
    fleet.queue.standing(&fleet.tenant, id).await.unwrap().unwrap()
}

/// Has the lines of a placement, or of all, be unused for long.
fn let_rest(redis: &Redis) {
    for placement in redis.run::<Vec<String>>(&["ZRANGE", "v1:{s0}:placements", "0", "-1"]) {
        let _: u64 = redis.run(&["ZADD", "v1:{s0}:placements", "XX", "1", &placement]);
    }
}

#[tokio::test]
async fn a_job_is_read_by_workers_with_its_labels_alone() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let mut gpu = Labelled::new(&fleet, "pool=gpu,zone=a").await;
    let mut other = Labelled::new(&fleet, "pool=cpu,zone=a").await;
    let id = enqueue(&fleet, GPU).await.unwrap();
    let short = Duration::from_millis(100);
    assert!(fleet.queue.claim(&mut fleet.consumer, 1, short).await.unwrap().is_empty());
    assert!(other.claim(&fleet, 1, short).await.is_empty());
    // At once, as soon as it has heard of it.
    let claimed = gpu.look(&fleet, 1).await.remove(0);
    assert_eq!((claimed.lease.job, claimed.attempt), (id, 1));
    gpu.finish(&fleet, &claimed).await;
    fleet.expect_reply(id, &ending("done")).await;
    // And plain jobs as well, as others do; the next with labels without being told again.
    let plain = fleet.enqueue().await;
    assert_eq!(gpu.claim(&fleet, 1, SOON).await, [plain]);
    let id = enqueue(&fleet, GPU).await.unwrap();
    assert_eq!(ids(&fleet.queue.claim(&mut gpu.consumer, 1, SOON).await.unwrap()), [id]);
}

#[tokio::test]
async fn a_worker_for_labelled_jobs_alone_leaves_others_alone() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    let mut gpu = Labelled::with(&fleet, GPU, true).await;
    let short = Duration::from_millis(50);
    fleet.enqueue().await;
    assert!(gpu.claim(&fleet, 1, short).await.is_empty());
    assert!(fleet.queue.reclaim(&mut gpu.consumer, 1).await.unwrap().is_empty());
    let id = enqueue(&fleet, GPU).await.unwrap();
    assert_eq!(gpu.claim(&fleet, 2, SOON).await, [id]);
    assert!(gpu.claim(&fleet, 1, short).await.is_empty());
}

#[tokio::test]
async fn workers_hear_of_a_placement_when_it_is_new() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    let mut orders = fleet.queue.orders(fleet.worker).await.unwrap();
    for required in ["zone=a,pool=gpu", "pool=gpu,zone=a", "zone=b"] {
        enqueue(&fleet, required).await.unwrap();
    }
    for expected in ["pool=gpu,zone=a", "zone=b"] {
        assert_eq!(orders.next().await, WorkerOrder::Placement(labels(expected)));
    }
}

#[tokio::test]
async fn each_priority_has_a_line_of_its_own() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    let mut gpu = Labelled::new(&fleet, GPU).await;
    let mut expected = Vec::new();
    for priority in [Priority::Low, Priority::Normal, Priority::High] {
        let terms = Terms { priority, ..Terms::default() };
        expected.push(submit_with(&fleet, GPU, 0, terms).await.unwrap());
    }
    expected.reverse();
    assert_eq!(gpu.claim(&fleet, 3, SOON).await, expected);
}

#[tokio::test]
async fn whatever_becomes_of_a_job_it_stays_in_its_lines() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.short_lease()).await;
    let mut gpu = Labelled::new(&fleet, GPU).await;
    let mut heir = Labelled::new(&fleet, GPU).await;
    let id = submit(&fleet, GPU).await;
    let queue = &fleet.queue;

    let claimed = gpu.claim_one(&fleet).await;
    assert_eq!(queue.renew(gpu.worker, std::slice::from_ref(&claimed.lease)).await.unwrap(), []);
    let back = queue.give_back(gpu.worker, &claimed.lease, GiveBack::Shutdown).await;
    assert_eq!(back.unwrap(), Commit::Done);
    let claimed = gpu.claim_one(&fleet).await;
    let why = GiveBack::Failed(failure("broken"));
    assert_eq!(queue.give_back(gpu.worker, &claimed.lease, why).await.unwrap(), Commit::Done);
    let claimed = gpu.claim_one(&fleet).await;
    let retried = queue.retry(gpu.worker, &claimed.lease, Duration::ZERO, &ending("again")).await;
    assert_eq!(retried.unwrap(), Commit::Done);

    let claimed = gpu.claim_one(&fleet).await;
    assert_eq!(claimed.lease.job, id);
    outlive_lease().await;
    heir.look(&fleet, 0).await;
    let stolen = queue.reclaim(&mut heir.consumer, 1).await.unwrap().remove(0);
    assert_eq!(stolen.lease.job, id);
    let late = queue.finish(gpu.worker, &claimed.lease, &ending("late")).await.unwrap();
    assert_eq!(late, Commit::Fenced);
    heir.finish(&fleet, &stolen).await;

    let waiting = submit(&fleet, GPU).await;
    assert_eq!(queue.cancel(&fleet.tenant, waiting).await.unwrap(), Cancelled::Now);
    let running = submit(&fleet, GPU).await;
    let claimed = gpu.claim_one(&fleet).await;
    assert_eq!(queue.cancel(&fleet.tenant, running).await.unwrap(), Cancelled::Asked);
    gpu.finish(&fleet, &claimed).await;
    assert_eq!(queue.depth().await.unwrap(), Depth::default());
    for worker in [gpu.worker, heir.worker] {
        queue.leave(worker).await.unwrap();
    }
    let consumers: redis::streams::StreamInfoConsumersReply =
        redis.run(&["XINFO", "CONSUMERS", "v1:{s0}:jobs-normal:pool=gpu", "workers"]);
    assert_eq!(consumers.consumers.len(), 0);
}

#[tokio::test]
async fn jobs_that_nobody_can_run_are_in_the_way_of_none_that_somebody_can() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let mut gpu = Labelled::new(&fleet, GPU).await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(submit(&fleet, GPU).await);
    }
    let plain = submit(&fleet, "").await;
    assert_eq!(fleet.claim_one().await.lease.job, plain);
    assert_eq!(standing(&fleet, waiting[15]).await.waits_for, WaitsFor::Worker);
    assert_eq!(standing(&fleet, waiting[16]).await.waits_for, WaitsFor::Tenant);
    assert_eq!(standing(&fleet, waiting[17]).await.position, 2);
    // Each that ends lets in the next.
    for id in waiting {
        let claimed = gpu.claim_one(&fleet).await;
        assert_eq!(claimed.lease.job, id);
        gpu.finish(&fleet, &claimed).await;
    }
    assert_eq!(fleet.queue.depth().await.unwrap(), Depth { queued: 0, running: 1 });
    let left = redis.keys();
    assert!(
        !left
            .iter()
            .any(|key| [":placed:", ":backlog:", ":backlog-"].iter().any(|it| key.contains(it))),
        "{left:?}"
    );
}

#[tokio::test]
async fn a_tenants_cap_holds_over_all_placements() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let mut gpu = Labelled::with(&fleet, GPU, true).await;
    let mut jobs = Vec::new();
    for required in [GPU, "", "", GPU] {
        jobs.push(submit_with(&fleet, required, 2, Terms::default()).await.unwrap());
    }
    assert_eq!(fleet.queue.depth().await.unwrap().queued, 2);
    let first = gpu.claim_one(&fleet).await;
    assert_eq!(first.lease.job, jobs[0]);
    gpu.finish(&fleet, &first).await;
    // Those of its own placement come first.
    assert_eq!(fleet.queue.depth().await.unwrap().queued, 2);
    assert_eq!(standing(&fleet, jobs[2]).await.waits_for, WaitsFor::Tenant);
    let last = gpu.claim_one(&fleet).await;
    assert_eq!(last.lease.job, jobs[3]);
    gpu.finish(&fleet, &last).await;
    for expected in &jobs[1..3] {
        let claimed = fleet.claim_one().await;
        assert_eq!(claimed.lease.job, *expected);
        fleet.finish(&claimed, "done").await;
    }
    assert_eq!(fleet.queue.depth().await.unwrap(), Depth::default());
}

#[tokio::test]
async fn the_share_of_a_placement_goes_by_the_workers_that_serve_it() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    let queue = &fleet.queue;
    let (gpu, plain) = (WorkerId::generate(), WorkerId::generate());
    let first = submit(&fleet, GPU).await;
    assert_eq!(standing(&fleet, first).await.slots, 0);
    let placements = queue.placements(&labels(GPU), &Placements::default()).await.unwrap();
    let only = Slots { plain: 0, placed: 2 };
    queue.housekeep_as(Some(gpu), only, &placements).await.unwrap();
    queue.housekeep(Some((plain, 8))).await.unwrap();
    assert_eq!(standing(&fleet, first).await.slots, 2);
    assert_eq!(redis.run::<u64>(&["HGET", "v1:{s0}:slots", "total"]), 8);
    for _ in 0..9 {
        submit(&fleet, GPU).await;
    }
    assert_eq!(queue.depth().await.unwrap().queued, 3, "one more than two");
    let _: u64 = redis.run(&["ZADD", "v1:{s0}:workers", "XX", "1", &gpu.to_string()]);
    queue.housekeep(Some((plain, 8))).await.unwrap();
    assert_eq!(standing(&fleet, first).await.slots, 0);
}

#[tokio::test]
async fn lines_that_nothing_stands_in_go_and_come_back() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let mut gpu = Labelled::new(&fleet, GPU).await;
    let id = enqueue(&fleet, GPU).await.unwrap();
    let placements = fleet.queue.placements(&labels(GPU), &Placements::default()).await.unwrap();
    fleet.queue.housekeep_as(Some(gpu.worker), 1.into(), &placements).await.unwrap();
    let_rest(&redis);
    fleet.queue.housekeep(None).await.unwrap();
    // Something stands in them.
    let claimed = gpu.claim_one(&fleet).await;
    assert_eq!(claimed.lease.job, id);
    let_rest(&redis);
    fleet.queue.housekeep(None).await.unwrap();
    gpu.finish(&fleet, &claimed).await;
    fleet.expect_reply(id, &ending("done")).await;
    let_rest(&redis);
    // A worker waits in them just then.
    let reading = fleet.queue.claim(&mut gpu.consumer, 1, BLOCK);
    let sweeping = async {
        tokio::task::yield_now().await;
        fleet.queue.housekeep(None).await.unwrap();
        fleet
            .queue
            .enqueue(submission(&fleet.tenant, JobId::generate(), fleet.gateway), &job())
            .await
    };
    let (claimed, queued) = tokio::join!(reading, sweeping);
    queued.unwrap();
    let claimed = match claimed.unwrap() {
        none if none.is_empty() => gpu.claim_one(&fleet).await,
        mut some => some.remove(0),
    };
    gpu.finish(&fleet, &claimed).await;
    let left = redis.keys();
    assert!(
        !left.iter().any(|key| key.contains("gpu") || key.ends_with(":placements")),
        "{left:?}"
    );
    let id = enqueue(&fleet, GPU).await.unwrap();
    assert_eq!(gpu.claim(&fleet, 1, SOON).await, [id]);
}

#[tokio::test]
async fn there_are_only_so_many_placements() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let terms = Terms { delay_ms: Some(3_600_000), ..Terms::default() };
    let delayed = submit_with(&fleet, "n=late", 0, terms).await.unwrap();
    let mut last = None;
    for number in 0..128 {
        last = Some(enqueue(&fleet, &format!("n={number}")).await.unwrap());
    }
    enqueue(&fleet, "n=7").await.unwrap();
    let refused = enqueue(&fleet, "n=128").await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::QueueFull);
    assert!(refused.retry_after().is_some());
    let refused = submit_with(&fleet, "n=128", 0, Terms::default()).await.unwrap_err();
    assert!(refused.message().contains("labels"), "{refused}");
    let session = SessionId::new("s").unwrap();
    let (id, n) = (JobId::generate(), labels("n=128"));
    let to = ToSession { id: &session, may_open: true, max_sessions: 2, labels: &n };
    let to_session = submission(&fleet.tenant, id, fleet.gateway);
    let refused = fleet.queue.enqueue_call(to_session, to, &execute()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::QueueFull);
    let plain = fleet.enqueue().await;
    assert_eq!(fleet.claim_one().await.lease.job, plain);

    // One whose time comes waits until there is room.
    let come_due = async || {
        let due = ["ZADD", "v1:{s0}:delayed", "XX", "1", &delayed.to_string()];
        let _: u64 = redis.run(&due);
        fleet.queue.housekeep(None).await.unwrap();
    };
    come_due().await;
    assert_eq!(standing(&fleet, delayed).await.waits_for, WaitsFor::Time);
    assert_eq!(fleet.queue.cancel(&fleet.tenant, last.unwrap()).await.unwrap(), Cancelled::Now);
    let_rest(&redis);
    fleet.queue.housekeep(None).await.unwrap();
    come_due().await;
    assert_eq!(standing(&fleet, delayed).await.waits_for, WaitsFor::Worker);
}

#[tokio::test]
async fn a_session_is_opened_by_a_worker_with_its_labels_and_then_calls_go_there() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let mut gpu = Labelled::new(&fleet, GPU).await;
    let session = SessionId::new("s").unwrap();
    let required = labels(GPU);
    let mut calls = Vec::new();
    for _ in 0..3 {
        let id = JobId::generate();
        let to = ToSession { id: &session, may_open: true, max_sessions: 2, labels: &required };
        let submission = submission(&fleet.tenant, id, fleet.gateway);
        fleet.queue.enqueue_call(submission, to, &execute()).await.unwrap();
        calls.push(id);
    }
    // The one that should have opened it does not; the next does, and no other worker.
    assert_eq!(fleet.queue.cancel(&fleet.tenant, calls[0]).await.unwrap(), Cancelled::Now);
    let short = Duration::from_millis(50);
    assert!(fleet.queue.claim(&mut fleet.consumer, 1, short).await.unwrap().is_empty());
    let claimed = gpu.claim_one(&fleet).await;
    assert_eq!(claimed.lease.job, calls[1]);
    gpu.finish(&fleet, &claimed).await;
    let opened = claimed.opens.unwrap();
    let next = fleet.queue.next_call(gpu.worker, &opened).await.unwrap();
    assert!(matches!(next, NextCall::Run(call) if call.id == calls[2]));
}

#[tokio::test]
async fn what_is_lost_of_placed_jobs_is_put_right() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    let mut gpu = Labelled::new(&fleet, GPU).await;
    let (id, worker) = (submit(&fleet, GPU).await, fleet.worker);
    gpu.look(&fleet, 0).await;
    let reconcile = async || {
        let mut repaired = Vec::new();
        loop {
            repaired.extend(fleet.queue.reconcile(worker).await.unwrap());
            if redis.run::<String>(&["HGET", "v1:{s0}:reconciler", "tenant"]).is_empty() {
                return repaired;
            }
        }
    };
    assert_eq!(reconcile().await, []);
    // Their lines are gone, and what is counted.
    let lines = ["DEL", "v1:{s0}:jobs-normal:pool=gpu", "v1:{s0}:jobs-high:pool=gpu"];
    assert_eq!(redis.run::<u64>(&lines), 2);
    let counted = ["DEL", "v1:{s0}:active:acme", "v1:{s0}:placed:acme:pool=gpu"];
    assert_eq!(redis.run::<u64>(&counted), 2);
    let _: u64 = redis.run(&["SADD", "v1:{s0}:placed:acme", "nobody"]);
    let repaired = reconcile().await;
    let of = |what: &str| repaired.iter().any(|(it, _)| it == what);
    assert!(of("queued") && of("counted") && of("placed"), "{repaired:?}");
    assert_eq!(
        redis.run::<Vec<String>>(&["SMEMBERS", "v1:{s0}:placed:acme:pool=gpu"]),
        [id.to_string()]
    );
    assert_eq!(reconcile().await, []);
    let claimed = gpu.claim_one(&fleet).await;
    assert_eq!(claimed.lease.job, id);
    // One that nobody listed is found by whoever waits for it.
    let waited_for = enqueue(&fleet, GPU).await.unwrap();
    let _: u64 = redis.run(&["DEL", "v1:{s0}:jobs-normal:pool=gpu"]);
    assert!(matches!(fleet.state(waited_for).await, JobState::Queued));
    assert_eq!(gpu.claim(&fleet, 1, SOON).await, [waited_for]);
}

#[tokio::test]
async fn tenants_have_placements_of_their_own() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    let mut gpu = Labelled::new(&fleet, GPU).await;
    let other = TenantId::new("other");
    for _ in 0..20 {
        submit(&fleet, GPU).await;
    }
    let id = JobId::generate();
    let terms = Terms { retention_ms: KEPT_MS, labels: labels(GPU), ..Terms::default() };
    let submission = Submission { tenant: &other, id, reply_to: None, quota: Quota::default() };
    fleet.queue.submit(submission, Listing { terms: &terms, once: None }, &job()).await.unwrap();
    let begun = gpu.claim(&fleet, 64, SOON).await;
    assert_eq!((begun.len(), begun[16]), (17, id));
}
