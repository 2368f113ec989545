//! Webhooks: put down with a job's end, handed to one worker at a time, tried again, and kept to be looked at.

use std::collections::BTreeMap;

use shared::config;
use shared::error::ErrorCode;
use shared::execution::Terms;
use shared::id::{JobId, TenantId};
use shared::redis::{
    ClaimedWebhook, Commit, Delivery, DeliveryAttempt, DeliveryLog, DeliveryState, GiveBack,
    Listing, Quota, Submission,
};
use shared::webhook::{Subject, Webhook, WebhookSecret};

use crate::harness::{Fleet, LEASE, Redis, SECRET, failure, job, outlive_lease};

/// Within this, no lease of a delivery runs out.
pub(crate) const LONG_MS: u64 = 600_000;
const RETENTION_MS: u64 = 60_000;

pub(crate) fn webhook() -> Webhook {
    Webhook {
        url: "https://hooks.example/in?token=hush".into(),
        secret: WebhookSecret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap(),
        events: Vec::new(),
    }
}

async fn submit_for(fleet: &Fleet, tenant: &TenantId) -> JobId {
    let terms = Terms { retention_ms: RETENTION_MS, webhook: Some(webhook()), ..Terms::default() };
    let (id, quota) = (JobId::generate(), Quota::default());
    let submission = Submission { tenant, id, reply_to: None, quota };
    let listing = Listing { terms: &terms, once: None };
    fleet.queue.submit(submission, listing, &job()).await.unwrap();
    id
}

async fn submit(fleet: &Fleet) -> JobId {
    submit_for(fleet, &fleet.tenant).await
}

/// A job that has ended.
async fn ended(fleet: &mut Fleet) -> JobId {
    let id = submit(fleet).await;
    let claimed = fleet.claim_one().await;
    assert_eq!(claimed.lease.job, id);
    fleet.finish(&claimed, "done").await;
    id
}

pub(crate) async fn claim(fleet: &Fleet, lease_ms: u64) -> Vec<ClaimedWebhook> {
    fleet.queue.claim_webhooks(8, lease_ms, 8, &BTreeMap::new()).await.unwrap().0
}

pub(crate) async fn claim_one(fleet: &Fleet) -> ClaimedWebhook {
    let mut claimed = claim(fleet, LONG_MS).await;
    assert_eq!(claimed.len(), 1);
    claimed.remove(0)
}

async fn deliveries(fleet: &Fleet, id: JobId) -> Vec<Delivery> {
    fleet.queue.deliveries(&fleet.tenant, Subject::Job(id)).await.unwrap().unwrap()
}

pub(crate) fn tried(state: DeliveryState, status: u16) -> DeliveryLog {
    let mut log = DeliveryLog { state, ..DeliveryLog::default() };
    log.note(DeliveryAttempt {
        at_ms: 1,
        took_ms: 2,
        worker: "w".into(),
        status: Some(status),
        error: None,
    });
    log
}

/// Asserts that of a delivery nothing is left that does not go with its job.
fn assert_all_expires(redis: &Redis) {
    let keys = redis.keys();
    assert!(!keys.contains(&"v1:{s0}:webhooks".to_owned()), "{keys:?}");
    for key in keys.iter().filter(|key| key.contains(":job:") || key.contains(":deliveries:")) {
        assert!(redis.run::<i64>(&["PTTL", key]) > 0, "{key} never expires");
    }
}

#[tokio::test]
async fn a_webhook_is_due_with_the_end_of_its_job_and_handed_to_one_worker() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = submit(&fleet).await;
    assert!(!fleet.queue.housekeep(None).await.unwrap().webhooks);
    assert!(claim(&fleet, LONG_MS).await.is_empty(), "it has not ended");
    let taken = fleet.claim_one().await;
    fleet.finish(&taken, "done").await;
    assert!(fleet.queue.housekeep(None).await.unwrap().webhooks);
    assert_eq!(deliveries(&fleet, id).await[0].log, DeliveryLog::default());

    let claimed = claim_one(&fleet).await;
    assert_eq!(
        (claimed.subject, &claimed.tenant, claimed.number),
        (Subject::Job(id), &fleet.tenant, 1)
    );
    assert_eq!((&claimed.webhook, claimed.retention_ms), (&webhook(), RETENTION_MS));
    assert!(claim(&fleet, LONG_MS).await.is_empty(), "somebody has it");
    assert!(!fleet.queue.housekeep(None).await.unwrap().webhooks);

    let done = tried(DeliveryState::Delivered, 204);
    assert!(fleet.queue.settle_webhook(&claimed, &done, None).await.unwrap());
    assert!(!fleet.queue.settle_webhook(&claimed, &done, None).await.unwrap(), "once");
    let seen = deliveries(&fleet, id).await;
    assert_eq!(
        (seen.len(), &seen[0].id, &seen[0].log),
        (1, &Subject::Job(id).message_id(1), &done)
    );
    assert_eq!(seen[0].place, "https://hooks.example/in");
    assert!(claim(&fleet, LONG_MS).await.is_empty());
    assert_all_expires(&redis);
}

#[tokio::test]
async fn what_is_refused_is_tried_again_and_its_job_is_kept_meanwhile() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = ended(&mut fleet).await;
    let kept = |key: &str| redis.run::<u64>(&["PTTL", &format!("v1:{{s0}}:{key}:{id}")]);
    assert!(kept("job") > 86_400_000, "until its webhook was told");
    let claimed = claim_one(&fleet).await;
    let failed = tried(DeliveryState::Pending, 500);
    assert!(fleet.queue.settle_webhook(&claimed, &failed, Some(LONG_MS)).await.unwrap());
    assert!(claim(&fleet, LONG_MS).await.is_empty(), "not yet");
    assert!(kept("deliveries") > 86_400_000);
    assert_eq!(deliveries(&fleet, id).await[0].log, failed);

    // Sooner than it would be.
    fleet.queue.retry_webhook(&fleet.tenant, Subject::Job(id), 1).await.unwrap();
    let claimed = claim_one(&fleet).await;
    assert_eq!(claimed.log, failed, "it goes on from there");
    fleet.queue.retry_webhook(&fleet.tenant, Subject::Job(id), 1).await.unwrap();
    assert!(claim(&fleet, LONG_MS).await.is_empty(), "it is under way: no second one");
    let given_up = tried(DeliveryState::Failed, 410);
    assert!(fleet.queue.settle_webhook(&claimed, &given_up, None).await.unwrap());
    for key in ["job", "deliveries"] {
        assert!(kept(key) <= RETENTION_MS, "{key}: from here on as was asked for");
    }
    let record = fleet.queue.job(&fleet.tenant, id).await.unwrap().unwrap();
    assert_eq!(record.keep_ms, Some(RETENTION_MS));

    // Once more, after it was given up.
    fleet.queue.retry_webhook(&fleet.tenant, Subject::Job(id), 1).await.unwrap();
    assert_eq!(deliveries(&fleet, id).await[0].log.state, DeliveryState::Pending);
    let claimed = claim_one(&fleet).await;
    let done = tried(DeliveryState::Delivered, 200);
    assert!(fleet.queue.settle_webhook(&claimed, &done, None).await.unwrap());
    for (tenant, number) in [("acme", 2), ("acme", 0), ("stranger", 1)] {
        let refused =
            fleet.queue.retry_webhook(&TenantId::new(tenant), Subject::Job(id), number).await;
        assert_eq!(refused.unwrap_err().code(), ErrorCode::NotFound);
    }
    let stranger = TenantId::new("stranger");
    assert!(fleet.queue.deliveries(&stranger, Subject::Job(id)).await.unwrap().is_none());
    assert_all_expires(&redis);
}

#[tokio::test]
async fn a_worker_that_dies_at_it_loses_it_to_another_one() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = ended(&mut fleet).await;
    let lease_ms = u64::try_from(LEASE.as_millis()).unwrap();
    let dead = claim(&fleet, lease_ms).await.remove(0);
    outlive_lease().await;
    let claimed = claim_one(&fleet).await;
    assert_eq!(
        (claimed.subject, claimed.number, claimed.id()),
        (Subject::Job(id), 1, dead.id()),
        "the same one"
    );
    let done = tried(DeliveryState::Delivered, 200);
    assert!(!fleet.queue.settle_webhook(&dead, &done, None).await.unwrap(), "fenced");
    assert!(fleet.queue.settle_webhook(&claimed, &done, None).await.unwrap());
}

#[tokio::test]
async fn however_a_job_ends_its_webhook_is_due() {
    let redis = Redis::start();
    let config = config::Redis { max_deliveries: 1, ..redis.config() };
    let mut fleet = Fleet::new(&config).await;
    let cancelled = submit(&fleet).await;
    fleet.queue.cancel(&fleet.tenant, cancelled).await.unwrap();
    assert_eq!(claim_one(&fleet).await.subject, Subject::Job(cancelled));

    let dead = submit(&fleet).await;
    let taken = fleet.claim_one().await;
    let why = GiveBack::Failed(failure("no sandbox"));
    let back = fleet.queue.give_back(fleet.worker, &taken.lease, why).await.unwrap();
    assert_eq!(back, Commit::Done);
    let claimed = claim_one(&fleet).await;
    assert_eq!(claimed.subject, Subject::Job(dead));

    // Driven again, it has another end to be told of; what was not told of the first is over.
    let (letter, terms) = fleet.queue.dead_job(&fleet.tenant, dead).await.unwrap();
    let quota = Quota::default();
    let submission = Submission { tenant: &fleet.tenant, id: dead, reply_to: None, quota };
    fleet.queue.redrive(submission, &letter, &terms).await.unwrap();
    let late = tried(DeliveryState::Delivered, 200);
    assert!(!fleet.queue.settle_webhook(&claimed, &late, None).await.unwrap());
    let refused =
        fleet.queue.retry_webhook(&fleet.tenant, Subject::Job(dead), 1).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InvalidRequest);
    let taken = fleet.claim_one().await;
    fleet.finish(&taken, "done").await;
    let claimed = claim_one(&fleet).await;
    assert_eq!((claimed.subject, claimed.number), (Subject::Job(dead), 2));
    assert!(fleet.queue.settle_webhook(&claimed, &late, None).await.unwrap());
    let states: Vec<_> = deliveries(&fleet, dead).await.iter().map(|it| it.log.state).collect();
    assert_eq!(states, [DeliveryState::Delivered], "of the first nothing was noted");
}

#[tokio::test]
async fn a_forgotten_dead_letter_tells_nobody() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&config::Redis { max_deliveries: 1, ..redis.config() }).await;
    let id = submit(&fleet).await;
    let taken = fleet.claim_one().await;
    let why = GiveBack::Failed(failure("no sandbox"));
    let back = fleet.queue.give_back(fleet.worker, &taken.lease, why).await.unwrap();
    assert_eq!(back, Commit::Done);
    fleet.queue.forget(&fleet.tenant, id).await.unwrap();
    assert!(claim(&fleet, LONG_MS).await.is_empty());
    let left =
        redis.keys().into_iter().filter(|key| key.contains("webhooks") || key.contains("deliver"));
    assert_eq!(left.count(), 0);
}

#[tokio::test]
async fn a_tenant_with_slow_receivers_keeps_nobody_else_waiting() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let other = TenantId::new("other");
    for tenant in [&fleet.tenant.clone(), &fleet.tenant.clone(), &fleet.tenant.clone(), &other] {
        submit_for(&fleet, tenant).await;
        let taken = fleet.claim_one().await;
        fleet.finish(&taken, "done").await;
    }
    let none = BTreeMap::new();
    let claimed = fleet.queue.claim_webhooks(8, LONG_MS, 2, &none).await.unwrap().0;
    let count = |tenant| claimed.iter().filter(|it| it.tenant == tenant).count();
    assert_eq!((count(fleet.tenant.clone()), count(other)), (2, 1));
    let busy = BTreeMap::from([(fleet.tenant.clone(), 2)]);
    assert!(fleet.queue.claim_webhooks(8, LONG_MS, 2, &busy).await.unwrap().0.is_empty());
    // What was put off is due a moment later.
    while claim(&fleet, LONG_MS).await.is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_delivery_that_got_lost_is_put_back() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = ended(&mut fleet).await;
    let _: u64 = redis.run(&["DEL", "v1:{s0}:webhooks"]);
    let repaired = fleet.queue.reconcile(fleet.worker).await.unwrap();
    assert_eq!(repaired, [("webhook".to_owned(), id.to_string())]);
    assert_eq!(claim_one(&fleet).await.subject, Subject::Job(id));
    assert!(fleet.queue.reconcile(fleet.worker).await.unwrap().is_empty());
}

#[tokio::test]
async fn neither_the_job_nor_its_terms_show_the_secret() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = submit(&fleet).await;
    let taken = fleet.claim_one().await;
    assert!(taken.terms.as_ref().unwrap().webhook.is_none(), "whoever runs it needs none");
    fleet.finish(&taken, "done").await;
    let record = fleet.queue.job(&fleet.tenant, id).await.unwrap().unwrap();
    let seen = deliveries(&fleet, id).await;
    let claimed = claim_one(&fleet).await;
    for text in [format!("{record:?}"), format!("{seen:?}"), format!("{claimed:?}")] {
        assert!(!text.contains("MfKQ9r8") && !text.contains(SECRET), "{text}");
    }
}
