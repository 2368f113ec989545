//! Members of several versions: jobs that a worker cannot read, and fleets that speak otherwise.

use std::time::Duration;

use shared::error::ErrorCode;
use shared::execution::Terms;
use shared::id::{JobId, WorkerId};
use shared::redis::{Commit, Depth, JobState, Listing, Queue, Quota, Submission, WorkerFacts};

use crate::harness::{Fleet, Redis, SOON, ending, job};

/// Has a job be as a later version would write it.
fn from_the_future(redis: &Redis, id: JobId) {
    let record = format!("v1:{{s0}}:job:{id}");
    let payload: String = redis.run(&["HGET", &record, "payload"]);
    let mut payload: serde_json::Value = serde_json::from_str(&payload).unwrap();
    payload["gpus"] = serde_json::json!({"count": 2});
    let _: u64 = redis.run(&["HSET", &record, "payload", &payload.to_string()]);
}

async fn submit(fleet: &Fleet) -> JobId {
    let id = JobId::generate();
    let terms = Terms { retention_ms: 60_000, ..Terms::default() };
    let quota = Quota::default();
    let submission = Submission { tenant: &fleet.tenant, id, reply_to: None, quota };
    fleet.queue.submit(submission, Listing { terms: &terms, once: None }, &job()).await.unwrap();
    id
}

#[tokio::test]
async fn a_job_of_a_later_version_goes_to_the_workers_that_can_read_it() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let newer = WorkerId::generate();
    for worker in [fleet.worker, newer] {
        fleet.queue.housekeep(Some((worker, 1))).await.unwrap();
    }
    let id = submit(&fleet).await;
    from_the_future(&redis, id);
    // However often the older one gets it.
    for _ in 0..5 {
        fleet.pass_on_unread().await;
        assert!(matches!(fleet.state(id).await, JobState::Queued));
    }
    let record = fleet.queue.job(&fleet.tenant, id).await.unwrap().unwrap();
    assert_eq!((record.attempts, record.has_attempts), (0, false), "it counts against nobody");
    // The newer one reads what is in the record, whatever that is.
    let payload = serde_json::to_string(&job()).unwrap();
    let _: u64 = redis.run(&["HSET", &format!("v1:{{s0}}:job:{id}"), "payload", &payload]);
    let mut consumer = fleet.queue.consumer(newer).await.unwrap();
    let claimed = fleet.queue.claim(&mut consumer, 1, SOON).await.unwrap().remove(0);
    assert_eq!((claimed.lease.job, claimed.attempt), (id, 1));
    let done = fleet.queue.finish(newer, &claimed.lease, &ending("done")).await.unwrap();
    assert_eq!(done, Commit::Done);
}

#[tokio::test]
async fn a_job_that_no_live_worker_can_read_ends_as_a_dead_letter() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let (other, draining) = (WorkerId::generate(), WorkerId::generate());
    for (worker, slots) in [(fleet.worker, 1), (other, 1), (draining, 0)] {
        fleet.queue.housekeep(Some((worker, slots))).await.unwrap();
    }
    let id = submit(&fleet).await;
    from_the_future(&redis, id);
    fleet.pass_on_unread().await;
    assert!(matches!(fleet.state(id).await, JobState::Queued));
    let mut consumer = fleet.queue.consumer(other).await.unwrap();
    assert!(fleet.queue.claim(&mut consumer, 1, SOON).await.unwrap().is_empty());
    let unreadable = consumer.take_unreadable().remove(0);
    assert!(unreadable.reason.contains("gpus"), "{unreadable:?}");
    let fenced = fleet.queue.pass_on(fleet.worker, &unreadable).await.unwrap();
    assert_eq!(fenced, Commit::Fenced, "only whoever holds it");
    assert_eq!(fleet.queue.pass_on(other, &unreadable).await.unwrap(), Commit::Done);

    let failure = fleet.failure(id).await;
    assert_eq!(failure.code, ErrorCode::NoWorker);
    assert!(failure.message.contains("Upgrade workers before gateways"), "{failure:?}");
    let dead = fleet.queue.dead_letters(&fleet.tenant, None, 10).await.unwrap();
    assert_eq!(dead.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [id]);
    let attempts = fleet.queue.attempts(&fleet.tenant, id).await.unwrap();
    assert_eq!(attempts.len(), 1);
    assert_eq!(fleet.queue.depth().await.unwrap(), Depth::default());
    // Driven again it is everybody's again.
    let terms = Terms { retention_ms: 60_000, ..Terms::default() };
    let quota = Quota::default();
    let submission = Submission { tenant: &fleet.tenant, id, reply_to: None, quota };
    fleet.queue.redrive(submission, &job(), &terms).await.unwrap();
    assert_eq!(fleet.claim_one().await.lease.job, id);
}

#[tokio::test]
async fn a_cancelled_job_that_cannot_be_read_is_cancelled() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = submit(&fleet).await;
    from_the_future(&redis, id);
    assert!(fleet.queue.claim(&mut fleet.consumer, 1, SOON).await.unwrap().is_empty());
    let unreadable = fleet.consumer.take_unreadable().remove(0);
    fleet.queue.cancel(&fleet.tenant, id).await.unwrap();
    let done = fleet.queue.pass_on(fleet.worker, &unreadable).await.unwrap();
    assert_eq!(done, Commit::Done);
    assert_eq!(fleet.failure(id).await.code, ErrorCode::Cancelled);
}

#[tokio::test]
async fn a_fleet_that_speaks_another_protocol_is_refused_with_what_to_do() {
    let redis = Redis::start();
    Queue::connect(&redis.config()).await.unwrap();
    assert_eq!(redis.run::<String>(&["HGET", "v1:fleet", "protocol"]), "1");
    for (theirs, remedy) in [("2", "Upgrade this member"), ("0", "an empty Redis")] {
        let _: u64 = redis.run(&["HSET", "v1:fleet", "protocol", theirs]);
        let refused = Queue::connect(&redis.config()).await.err().unwrap();
        assert_eq!(refused.code(), ErrorCode::InvalidRequest);
        assert!(refused.message().contains(remedy), "{refused}");
    }
    // One of a time when nobody wrote it down.
    let _: u64 = redis.run(&["HDEL", "v1:fleet", "protocol"]);
    Queue::connect(&redis.config()).await.unwrap();
}

#[test]
fn what_is_added_to_what_workers_tell_is_passed_over() {
    let text = format!(
        r#"{{"id": "{}", "name": "host-0", "version": "9.9.9", "startedMs": 1, "slots": 4, "running": 0,
            "sessions": 0, "isDraining": false, "moods": ["good"]}}"#,
        WorkerId::generate()
    );
    let facts: WorkerFacts = serde_json::from_str(&text).unwrap();
    assert_eq!((facts.protocol, facts.unread, facts.labels.is_empty()), (1, 0, true));
}

#[tokio::test]
async fn a_lone_worker_is_not_asked_twice() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    fleet.queue.housekeep(Some((fleet.worker, 4))).await.unwrap();
    let id = fleet.enqueue().await;
    from_the_future(&redis, id);
    fleet.pass_on_unread().await;
    assert_eq!(fleet.failure(id).await.code, ErrorCode::NoWorker);
    let none = fleet.queue.claim(&mut fleet.consumer, 1, Duration::from_millis(20)).await.unwrap();
    assert!(none.is_empty() && fleet.consumer.take_unreadable().is_empty());
}
