//! Dead, slow and resurrected workers: at least one delivery, exactly one committed ending.

use shared::config;
use shared::error::ErrorCode;
use shared::execution::Ending;
use shared::redis::{Commit, GiveBack, JobState};

use crate::harness::{Fleet, LEASE, Redis, SOON, ending, failure, lost, outlive_lease};

#[tokio::test]
async fn a_dead_workers_job_is_taken_over() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    let id = fleet.enqueue().await;
    let dead = fleet.claim_one().await;
    let (_, mut second) = fleet.second_worker().await;
    assert!(fleet.queue.reclaim(&mut second, 4).await.unwrap().is_empty(), "the lease still runs");
    outlive_lease().await;
    let mut taken = fleet.queue.reclaim(&mut second, 4).await.unwrap();
    assert_eq!(taken.len(), 1);
    let taken = taken.remove(0);
    assert_eq!((taken.lease.job, taken.attempt), (id, 2));
    assert_eq!(taken.job, dead.job);
    assert_ne!(taken.lease, dead.lease);
}

#[tokio::test]
async fn a_job_that_was_delivered_and_then_taken_over_by_the_same_worker_is_started_once() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    let id = fleet.enqueue().await;
    // It is delivered, and cannot be started.
    redis.run::<()>(&["ACL", "SETUSER", "default", "-evalsha"]);
    fleet.queue.claim(&mut fleet.consumer, 1, SOON).await.unwrap_err();
    redis.run::<()>(&["ACL", "SETUSER", "default", "+evalsha"]);
    outlive_lease().await;
    let taken = fleet.queue.reclaim(&mut fleet.consumer, 4).await.unwrap();
    assert_eq!(taken.iter().map(|it| it.lease.job).collect::<Vec<_>>(), [id]);
    assert!(fleet.claim(4).await.is_empty(), "it was started twice");
}

#[tokio::test]
async fn a_worker_past_its_lease_is_fenced() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    let id = fleet.enqueue().await;
    let late = fleet.claim_one().await;
    let (other, mut second) = fleet.second_worker().await;
    outlive_lease().await;
    let taken = fleet.queue.reclaim(&mut second, 1).await.unwrap().remove(0);

    let refused = fleet.queue.finish(fleet.worker, &late.lease, &ending("late")).await.unwrap();
    assert_eq!(refused, Commit::Fenced);
    let refused = fleet.queue.give_back(fleet.worker, &late.lease, GiveBack::Shutdown).await;
    assert_eq!(refused.unwrap(), Commit::Fenced);
    assert!(matches!(fleet.state(id).await, JobState::Running));

    let done = fleet.queue.finish(other, &taken.lease, &ending("in time")).await.unwrap();
    assert_eq!(done, Commit::Done);
    fleet.expect_reply(id, &ending("in time")).await;
    let refused = fleet.queue.finish(fleet.worker, &late.lease, &ending("late")).await.unwrap();
    assert_eq!(refused, Commit::Fenced);
    assert_eq!(fleet.failure(id).await.message, "in time");
}

#[tokio::test]
async fn a_worker_that_takes_its_own_job_over_is_fenced_from_its_former_self() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    let id = fleet.enqueue().await;
    let former = fleet.claim_one().await.lease;
    outlive_lease().await;
    let again = fleet.queue.reclaim(&mut fleet.consumer, 1).await.unwrap().remove(0);
    assert_eq!((again.lease.job, again.attempt), (id, 2));
    let news = fleet.queue.renew(fleet.worker, &[former.clone(), again.lease.clone()]).await;
    assert_eq!(news.unwrap(), lost([&former]));
    let refused = fleet.queue.finish(fleet.worker, &former, &ending("former")).await.unwrap();
    assert_eq!(refused, Commit::Fenced);
    let done = fleet.queue.finish(fleet.worker, &again.lease, &ending("again")).await.unwrap();
    assert_eq!(done, Commit::Done);
}

#[tokio::test]
async fn renewing_keeps_a_lease() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    for _ in 0..3 {
        fleet.enqueue().await;
    }
    let leases: Vec<_> = fleet.claim(3).await.into_iter().map(|it| it.lease).collect();
    let (_, mut second) = fleet.second_worker().await;
    for _ in 0..8 {
        tokio::time::sleep(LEASE / 4).await;
        assert!(fleet.queue.renew(fleet.worker, &leases[..2]).await.unwrap().is_empty());
    }
    let taken = fleet.queue.reclaim(&mut second, 10).await.unwrap();
    assert_eq!(taken.len(), 1, "only the lease that was not renewed");
    assert_eq!(taken[0].lease.job, leases[2].job);

    let news = fleet.queue.renew(fleet.worker, &leases).await.unwrap();
    assert_eq!(news, lost([&leases[2]]));
}

#[tokio::test]
async fn many_leases_are_renewed_in_batches() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    for _ in 0..500 {
        fleet.enqueue().await;
    }
    let mut leases: Vec<_> = fleet.claim(500).await.into_iter().map(|it| it.lease).collect();
    assert_eq!(leases.len(), 500);
    let finished = leases[300].clone();
    let _ = fleet.queue.finish(fleet.worker, &finished, &ending("done")).await.unwrap();
    assert_eq!(fleet.queue.renew(fleet.worker, &leases).await.unwrap(), lost([&finished]));
    leases.remove(300);
    assert!(fleet.queue.renew(fleet.worker, &leases).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_job_that_kills_its_workers_is_given_up() {
    let redis = Redis::start();
    let config = config::Redis { max_deliveries: 2, ..redis.short_lease() };
    let mut fleet = Fleet::new(&config).await;
    let id = fleet.enqueue().await;
    let first = fleet.claim_one().await;
    outlive_lease().await;
    let (other, mut second) = fleet.second_worker().await;
    let last = fleet.queue.reclaim(&mut second, 1).await.unwrap().remove(0);
    assert_eq!(last.attempt, 2);
    outlive_lease().await;
    let (_, mut third) = fleet.second_worker().await;
    assert!(fleet.queue.reclaim(&mut third, 1).await.unwrap().is_empty());

    let given_up = fleet.failure(id).await;
    assert_eq!(given_up.code, ErrorCode::WorkerLost);
    fleet.expect_reply(id, &Ending::Error(given_up)).await;
    for (worker, lease) in [(fleet.worker, &first.lease), (other, &last.lease)] {
        let refused = fleet.queue.finish(worker, lease, &ending("late")).await.unwrap();
        assert_eq!(refused, Commit::Fenced);
    }
}

#[tokio::test]
async fn a_hand_back_at_shutdown_is_no_delivery() {
    let redis = Redis::start();
    let config = config::Redis { max_deliveries: 1, ..redis.config() };
    let mut fleet = Fleet::new(&config).await;
    let id = fleet.enqueue().await;
    for _ in 0..5 {
        let claimed = fleet.claim_one().await;
        assert_eq!((claimed.lease.job, claimed.attempt), (id, 1));
        let given = fleet.queue.give_back(fleet.worker, &claimed.lease, GiveBack::Shutdown).await;
        assert_eq!(given.unwrap(), Commit::Done);
        assert!(matches!(fleet.state(id).await, JobState::Queued));
        let refused = fleet.queue.finish(fleet.worker, &claimed.lease, &ending("late")).await;
        assert_eq!(refused.unwrap(), Commit::Fenced);
    }
}

#[tokio::test]
async fn platform_failures_are_retried_and_then_end_the_job() {
    let redis = Redis::start();
    let config = config::Redis { max_deliveries: 3, ..redis.config() };
    let mut fleet = Fleet::new(&config).await;
    let id = fleet.enqueue().await;
    for attempt in 1..=3 {
        let claimed = fleet.claim_one().await;
        assert_eq!(claimed.attempt, attempt);
        let why = GiveBack::Failed(failure(format!("failure {attempt}")));
        let given = fleet.queue.give_back(fleet.worker, &claimed.lease, why).await.unwrap();
        assert_eq!(given, Commit::Done);
    }
    fleet.expect_reply(id, &ending("failure 3")).await;
    assert_eq!(fleet.failure(id).await.message, "failure 3");
}

#[tokio::test]
async fn a_repeated_finish_is_done_and_changes_nothing() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = fleet.enqueue().await;
    let claimed = fleet.claim_one().await;
    for message in ["first", "second"] {
        let done = fleet.queue.finish(fleet.worker, &claimed.lease, &ending(message)).await;
        assert_eq!(done.unwrap(), Commit::Done);
    }
    assert_eq!(fleet.failure(id).await.message, "first");
}

#[tokio::test]
async fn consumers_of_dead_workers_do_not_pile_up() {
    let redis = Redis::start();
    let config = config::Redis { lease_ms: 50, renew_ms: 10, ..redis.config() };
    let mut fleet = Fleet::new(&config).await;
    for _ in 0..5 {
        let (_, mut dead) = fleet.second_worker().await;
        fleet.enqueue().await;
        assert_eq!(fleet.queue.claim(&mut dead, 1, LEASE).await.unwrap().len(), 1);
    }
    let names = || -> Vec<String> {
        let found: redis::streams::StreamInfoConsumersReply =
            redis.run(&["XINFO", "CONSUMERS", "v1:{s0}:jobs", "workers"]);
        found.consumers.into_iter().map(|it| it.name).collect()
    };
    assert_eq!(names().len(), 5);
    tokio::time::sleep(LEASE).await;
    assert_eq!(fleet.queue.reclaim(&mut fleet.consumer, 10).await.unwrap().len(), 5);
    assert_eq!(names(), [fleet.worker.to_string()]);
}

#[tokio::test]
async fn an_entry_taken_over_but_not_yet_started_fences_its_former_owner() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = fleet.enqueue().await;
    let lease = fleet.claim_one().await.lease;
    let entry: String = redis.run(&["HGET", &format!("v1:{{s0}}:job:{id}"), "entry"]);
    // What another worker's reclaim does first; it dies before its second step.
    let taken: Vec<String> =
        redis.run(&["XCLAIM", "v1:{s0}:jobs", "workers", "other", "0", &entry, "JUSTID"]);
    assert_eq!(taken, [entry]);
    let news = fleet.queue.renew(fleet.worker, std::slice::from_ref(&lease)).await.unwrap();
    assert_eq!(news, lost([&lease]));
    let refused = fleet.queue.finish(fleet.worker, &lease, &ending("late")).await.unwrap();
    assert_eq!(refused, Commit::Fenced);
    let refused = fleet.queue.give_back(fleet.worker, &lease, GiveBack::Shutdown).await.unwrap();
    assert_eq!(refused, Commit::Fenced);
    assert!(matches!(fleet.state(id).await, JobState::Running));
}
