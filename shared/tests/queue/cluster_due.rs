//! What is due by the clock on a Redis Cluster: one master that is away holds up its own tenants alone.

use std::collections::BTreeMap;

use shared::execution::{Missed, Overlap, Terms, Timetable};
use shared::id::{BatchId, JobId, ScheduleId, TenantId};
use shared::redis::{
    BatchCache, BatchLimits, BatchTerms, Fired, Listing, Queue, Quota, ScheduleFacts,
    ScheduleOrder, Submission,
};
use shared::webhook::Subject;

use crate::cluster::place_tenants;
use crate::harness::{Fleet, job};
use crate::nodes::Nodes;
use crate::webhooks::{LONG_MS, webhook};

/// What a tenant has that is due.
struct Due {
    told: JobId,
    schedule: ScheduleId,
    batch: BatchId,
}

async fn have_due(cluster: &Nodes, queue: &Queue, (tenant, tag): &(TenantId, String)) -> Due {
    // A job that has ended, and has a webhook.
    let terms = Terms { retention_ms: 60_000, webhook: Some(webhook()), ..Terms::default() };
    let (told, quota) = (JobId::generate(), Quota::default());
    let submission = Submission { tenant, id: told, reply_to: None, quota };
    queue.submit(submission, Listing { terms: &terms, once: None }, &job()).await.unwrap();
    queue.cancel(tenant, told).await.unwrap();

    let schedule = ScheduleId::generate();
    let timetable = Timetable {
        cron: Some("0 0 1 1 *".into()),
        at: None,
        timezone: "Europe/Berlin".into(),
        missed: Missed::Once,
        overlap: Overlap::Allow,
    };
    let facts = ScheduleFacts { name: None, runtime: "python".into(), timetable };
    let (terms, job) = (Terms { retention_ms: 60_000, ..Terms::default() }, job());
    let order = ScheduleOrder {
        id: schedule,
        tenant,
        max: 100,
        facts: &facts,
        job: &job,
        terms: &terms,
        is_enabled: true,
    };
    queue.create_schedule(order).await.unwrap();
    // Its time has come, long ago.
    let (scheduled, name) = (format!("v1:{tag}:scheduled"), schedule.to_string());
    let node = &cluster.nodes[cluster.owner_of(&scheduled)];
    let _: u64 = node.run(&["HSET", &format!("v1:{tag}:schedule:{name}"), "next_ms", "1"]);
    let _: u64 = node.run(&["ZADD", &scheduled, "1", &name]);

    let (limits, terms) =
        (BatchLimits::default(), BatchTerms { items: terms, ..BatchTerms::default() });
    let mut upload = queue.upload_batch(tenant, quota, limits, terms).await.unwrap();
    upload.add(String::new(), &job).await.unwrap();
    let batch = upload.seal(None).await.unwrap().id;
    Due { told, schedule, batch }
}

/// Does what is due by the clock, wherever it can be done.
async fn do_due(queue: &Queue) -> (Vec<Subject>, Vec<ScheduleId>, Vec<BatchId>) {
    let due = queue.housekeep(None).await.unwrap();
    assert!(due.webhooks && due.schedules);
    let claimed = queue.claim_webhooks(32, LONG_MS, 32, &BTreeMap::new()).await.unwrap().0;
    let told = claimed.iter().map(|it| it.subject).collect();
    let mut fired = Vec::new();
    for schedule in queue.due_schedules().await.unwrap() {
        let outcome = queue.fire_schedule(&schedule, Quota::default()).await.unwrap();
        assert!(matches!(outcome, Fired::Submitted(_)), "{outcome:?}");
        fired.push(schedule.id);
    }
    let mut begun = Vec::new();
    let mut cache = BatchCache::default();
    for batch in queue.tend_batches().await.unwrap() {
        queue.advance_batch(batch, &mut cache).await.unwrap();
        begun.push(batch.id);
    }
    (told, fired, begun)
}

#[tokio::test]
async fn a_master_that_is_away_holds_up_what_is_due_to_its_own_tenants_alone() {
    let mut cluster = Nodes::start();
    let fleet = Fleet::new(&cluster.config()).await;
    let queue = &fleet.queue;
    let placed = place_tenants(&cluster, queue).await;
    let mut due = Vec::new();
    for tenant in &placed {
        due.push(have_due(&cluster, queue, tenant).await);
    }
    // Whichever shards are looked at first: those of either neighbour are behind some that are away.
    cluster.nodes[1].stop();
    let (mut told, mut fired, mut begun) = do_due(queue).await;
    for (node, due) in due.iter().enumerate() {
        let is_there = node != 1;
        assert_eq!(told.contains(&Subject::Job(due.told)), is_there, "webhook at {node}");
        assert_eq!(fired.contains(&due.schedule), is_there, "schedule at {node}");
        assert_eq!(begun.contains(&due.batch), is_there, "batch at {node}");
    }
    queue.reconcile(fleet.worker).await.unwrap();

    cluster.nodes[1].start_again();
    cluster.await_agreement();
    let unlucky = &due[1];
    let deadline = std::time::Instant::now() + crate::harness::SOON;
    let is_done = |told: &[Subject], fired: &[ScheduleId], begun: &[BatchId]| {
        told.contains(&Subject::Job(unlucky.told))
            && fired.contains(&unlucky.schedule)
            && begun.contains(&unlucky.batch)
    };
    while !is_done(&told, &fired, &begun) {
        assert!(std::time::Instant::now() < deadline, "what was due is lost");
        let claimed = queue.claim_webhooks(32, LONG_MS, 32, &BTreeMap::new()).await.unwrap().0;
        told.extend(claimed.iter().map(|it| it.subject));
        for schedule in queue.due_schedules().await.unwrap() {
            if let Ok(Fired::Submitted(_)) = queue.fire_schedule(&schedule, Quota::default()).await
            {
                fired.push(schedule.id);
            }
        }
        begun.extend(queue.tend_batches().await.unwrap().iter().map(|batch| batch.id));
    }

    // Without any there is nothing that could be done.
    for node in &mut cluster.nodes {
        node.stop();
    }
    queue.housekeep(None).await.unwrap_err();
    queue.claim_webhooks(32, LONG_MS, 32, &BTreeMap::new()).await.unwrap_err();
    queue.due_schedules().await.unwrap_err();
    queue.tend_batches().await.unwrap_err();
}
