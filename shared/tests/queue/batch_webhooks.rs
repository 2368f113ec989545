//! The webhook of a batch: put down with its end, whatever that is, told as that of a job, and kept for.

use shared::error::ErrorCode;
use shared::id::{BatchId, TenantId};
use shared::redis::{BatchCache, BatchTerms, Delivery, DeliveryState};
use shared::webhook::{Subject, WebhookEvent};

use crate::batches::{come_due, finish, nothing_left, run_to_end, submit, tend, terms};
use crate::harness::{Fleet, LEASE, Redis, SOON, outlive_lease};
use crate::webhooks::{LONG_MS, claim, claim_one, tried, webhook};

const RETENTION_MS: u64 = 60_000;

fn told(failure_budget: Option<u64>) -> BatchTerms {
    BatchTerms { failure_budget, webhook: Some(webhook()), ..terms() }
}

/// A batch that has ended.
async fn ended(fleet: &mut Fleet, redis: &Redis) -> BatchId {
    let id = submit(fleet, 3, told(None)).await;
    run_to_end(fleet, redis, id).await;
    id
}

async fn deliveries(fleet: &Fleet, id: BatchId) -> Vec<Delivery> {
    fleet.queue.deliveries(&fleet.tenant, Subject::Batch(id)).await.unwrap().unwrap()
}

/// By when a batch goes, in ms since the epoch.
fn goes_at(redis: &Redis, id: BatchId) -> u64 {
    let score: f64 = redis.run(&["ZSCORE", "v1:{s0}:tending", &format!("acme:{id}")]);
    format!("{score:.0}").parse().unwrap()
}

/// Ends a batch in one way.
async fn end(fleet: &mut Fleet, redis: &Redis, how: &str) -> BatchId {
    let id = submit(fleet, 600, told((how == "failure_budget").then_some(0))).await;
    let mut cache = BatchCache::default();
    tend(fleet, &mut cache).await;
    match how {
        "cancelled" => while !fleet.queue.cancel_batch(&fleet.tenant, id).await.unwrap() {},
        "failure_budget" => {
            let claimed = fleet.claim_one().await;
            finish(fleet, &claimed, 1).await;
        }
        "items_lost" => {
            let _: u64 = redis.run(&["DEL", &format!("v1:{{s0}}:batch-items:{id}")]);
        }
        _ => {}
    }
    let deadline = std::time::Instant::now() + SOON;
    while fleet.queue.batch(&fleet.tenant, id).await.unwrap().state != "finished" {
        assert!(std::time::Instant::now() < deadline, "{how}");
        come_due(redis, id);
        tend(fleet, &mut BatchCache::default()).await;
        let short = std::time::Duration::from_millis(1);
        for claimed in fleet.queue.claim(&mut fleet.consumer, 64, short).await.unwrap() {
            finish(fleet, &claimed, 0).await;
        }
    }
    let record = fleet.queue.batch(&fleet.tenant, id).await.unwrap();
    assert_eq!(record.outcome.as_deref(), Some(how));
    id
}

#[tokio::test]
async fn however_a_batch_ends_its_webhook_is_due_once() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    for (how, event) in [
        ("completed", WebhookEvent::Completed),
        ("cancelled", WebhookEvent::Cancelled),
        ("failure_budget", WebhookEvent::Failed),
        ("items_lost", WebhookEvent::Failed),
    ] {
        let id = end(&mut fleet, &redis, how).await;
        assert!(fleet.queue.housekeep(None).await.unwrap().webhooks, "{how}");
        let claimed = claim_one(&fleet).await;
        assert_eq!((claimed.subject, claimed.number), (Subject::Batch(id), 1), "{how}");
        assert_eq!((&claimed.webhook, claimed.retention_ms), (&webhook(), RETENTION_MS));
        let record = fleet.queue.batch(&fleet.tenant, id).await.unwrap();
        assert_eq!(WebhookEvent::of_batch(&record), event);
        // Those who stop it once more, or look at it, end it not again.
        assert!(fleet.queue.cancel_batch(&fleet.tenant, id).await.unwrap());
        assert!(claim(&fleet, LONG_MS).await.is_empty(), "{how}");
        let done = tried(DeliveryState::Delivered, 204);
        assert!(fleet.queue.settle_webhook(&claimed, &done, None).await.unwrap());
        let seen = deliveries(&fleet, id).await;
        let first = Subject::Batch(id).message_id(1);
        assert_eq!((seen.len(), &seen[0].id, &seen[0].log), (1, &first, &done));
        assert!(claim(&fleet, LONG_MS).await.is_empty(), "{how}");
        for text in [format!("{record:?}"), format!("{seen:?}"), format!("{claimed:?}")] {
            assert!(!text.contains("MfKQ9r8"), "{text}");
        }
        nothing_left(&fleet, &redis, id).await;
        assert!(!redis.keys().iter().any(|key| key.contains("deliver") || key.contains("webhook")));
    }
}

#[tokio::test]
async fn a_batch_is_kept_until_its_webhook_was_told() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = ended(&mut fleet, &redis).await;
    let finished_ms = |record: &shared::redis::BatchRecord| record.finished_ms.unwrap();
    let record = fleet.queue.batch(&fleet.tenant, id).await.unwrap();
    assert!(goes_at(&redis, id) > finished_ms(&record) + 86_400_000);
    assert_eq!(tend(&fleet, &mut BatchCache::default()).await, [], "it stays");
    let claimed = claim_one(&fleet).await;
    let failed = tried(DeliveryState::Pending, 500);
    assert!(fleet.queue.settle_webhook(&claimed, &failed, Some(LONG_MS)).await.unwrap());
    assert!(claim(&fleet, LONG_MS).await.is_empty(), "not yet");
    assert_eq!(deliveries(&fleet, id).await[0].log, failed);
    let log_goes_in = || redis.run::<i64>(&["PTTL", &format!("v1:{{s0}}:deliveries:{id}")]);
    assert!(log_goes_in() > 86_400_000);

    // Sooner than it would be.
    let subject = Subject::Batch(id);
    fleet.queue.retry_webhook(&fleet.tenant, subject, 1).await.unwrap();
    let claimed = claim_one(&fleet).await;
    assert_eq!(claimed.log, failed, "it goes on from there");
    let given_up = tried(DeliveryState::Failed, 410);
    assert!(fleet.queue.settle_webhook(&claimed, &given_up, None).await.unwrap());
    let record = fleet.queue.batch(&fleet.tenant, id).await.unwrap();
    assert_eq!(record.keep_ms, Some(RETENTION_MS), "from here on as was asked for");
    assert!(goes_at(&redis, id) <= finished_ms(&record) + RETENTION_MS + 1);
    assert!((1..=60_000).contains(&log_goes_in()));

    // Once more, after it was given up.
    fleet.queue.retry_webhook(&fleet.tenant, subject, 1).await.unwrap();
    assert_eq!(deliveries(&fleet, id).await[0].log.state, DeliveryState::Pending);
    let stranger = TenantId::new("stranger");
    for (tenant, number) in [(&fleet.tenant, 2), (&fleet.tenant, 0), (&stranger, 1)] {
        let refused = fleet.queue.retry_webhook(tenant, subject, number).await;
        assert_eq!(refused.unwrap_err().code(), ErrorCode::NotFound);
    }
    assert!(fleet.queue.deliveries(&stranger, subject).await.unwrap().is_none());
    let plain = submit(&fleet, 1, terms()).await;
    assert!(deliveries(&fleet, plain).await.is_empty(), "it has no webhook");
    run_to_end(&mut fleet, &redis, plain).await;
    come_due(&redis, plain);

    // It goes with what was still to be told.
    nothing_left(&fleet, &redis, id).await;
    assert!(claim(&fleet, LONG_MS).await.is_empty());
    assert!(!redis.keys().iter().any(|key| key.contains("deliver") || key.contains("webhook")));
}

#[tokio::test]
async fn a_worker_that_dies_at_a_batchs_delivery_loses_it_to_another_one() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = ended(&mut fleet, &redis).await;
    let lease_ms = u64::try_from(LEASE.as_millis()).unwrap();
    let dead = claim(&fleet, lease_ms).await.remove(0);
    outlive_lease().await;
    let claimed = claim_one(&fleet).await;
    assert_eq!((claimed.subject, claimed.id()), (Subject::Batch(id), dead.id()), "the same one");
    let done = tried(DeliveryState::Delivered, 200);
    assert!(!fleet.queue.settle_webhook(&dead, &done, None).await.unwrap(), "fenced");
    assert!(fleet.queue.settle_webhook(&claimed, &done, None).await.unwrap());
}

#[tokio::test]
async fn a_batchs_delivery_that_got_lost_is_put_back() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = ended(&mut fleet, &redis).await;
    let _: u64 = redis.run(&["DEL", "v1:{s0}:webhooks"]);
    let repaired = fleet.queue.reconcile(fleet.worker).await.unwrap();
    assert_eq!(repaired, [("webhook".to_owned(), id.to_string())]);
    assert_eq!(claim_one(&fleet).await.subject, Subject::Batch(id));
    assert!(fleet.queue.reconcile(fleet.worker).await.unwrap().is_empty());
}
