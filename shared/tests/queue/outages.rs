//! Redis goes away, forgets, fills up or hangs: the queue reports it in time and recovers.

use std::time::{Duration, Instant};

use shared::error::ErrorCode;
use shared::id::JobId;
use shared::redis::{Commit, JobState, Reply};

use crate::harness::{Fleet, LEASE, PERMANENT, Redis, SOON, ending, job, lost, submission};
use crate::proxy::Proxy;

#[tokio::test]
async fn everything_resumes_after_a_restart() {
    let mut redis = Redis::durable();
    let mut fleet = Fleet::new(&redis.config()).await;
    let (held, waiting) = (fleet.enqueue().await, fleet.enqueue().await);
    let claimed = fleet.claim_one().await;
    assert_eq!(claimed.lease.job, held);

    redis.stop();
    let away = fleet.queue.ping().await.unwrap_err();
    assert_eq!(away.code(), ErrorCode::QueueUnavailable);
    let started = Instant::now();
    let none = fleet.queue.claim(&mut fleet.consumer, 1, Duration::from_millis(500)).await;
    assert_eq!(none.unwrap_err().code(), ErrorCode::QueueUnavailable);
    assert!(started.elapsed() < SOON / 2, "{:?}", started.elapsed());
    redis.start_again();

    assert!(matches!(fleet.reply().await, Reply::Resubscribed));
    let done = fleet.queue.finish(fleet.worker, &claimed.lease, &ending("done")).await.unwrap();
    assert_eq!(done, Commit::Done, "the lease survived the restart");
    fleet.expect_reply(held, &ending("done")).await;
    assert_eq!(fleet.claim_one().await.lease.job, waiting);
}

#[tokio::test]
async fn a_restart_under_a_waiting_claim_goes_unnoticed() {
    let mut redis = Redis::durable();
    let mut fleet = Fleet::new(&redis.config()).await;
    let (queue, tenant, gateway) = (fleet.queue.clone(), fleet.tenant.clone(), fleet.gateway);
    let outage = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        redis.stop();
        tokio::time::sleep(Duration::from_millis(200)).await;
        redis.start_again();
        let id = JobId::generate();
        queue.enqueue(submission(&tenant, id, gateway), &job()).await.unwrap();
        id
    };
    let claim = fleet.queue.claim(&mut fleet.consumer, 1, SOON);
    let (claimed, id) = tokio::join!(claim, outage);
    assert_eq!(claimed.unwrap()[0].lease.job, id);
}

#[tokio::test]
async fn forgotten_scripts_are_loaded_again() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let flush = || redis.run::<()>(&["SCRIPT", "FLUSH"]);
    flush();
    let id = fleet.enqueue().await;
    flush();
    let claimed = fleet.claim_one().await;
    flush();
    assert!(
        fleet
            .queue
            .renew(fleet.worker, std::slice::from_ref(&claimed.lease))
            .await
            .unwrap()
            .is_empty()
    );
    flush();
    let done = fleet.queue.finish(fleet.worker, &claimed.lease, &ending("done")).await.unwrap();
    assert_eq!(done, Commit::Done);
    fleet.expect_reply(id, &ending("done")).await;
}

#[tokio::test]
async fn a_redis_emptied_under_the_fleet_is_set_up_again() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    fleet.enqueue().await;
    let gone = fleet.claim_one().await;
    let (queue, tenant, gateway) = (fleet.queue.clone(), fleet.tenant.clone(), fleet.gateway);
    let accident = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        redis.run::<()>(&["FLUSHALL"]);
        let id = JobId::generate();
        queue.enqueue(submission(&tenant, id, gateway), &job()).await.unwrap();
        id
    };
    let claim = fleet.queue.claim(&mut fleet.consumer, 1, SOON);
    let (claimed, id) = tokio::join!(claim, accident);
    assert_eq!(claimed.unwrap()[0].lease.job, id);
    let news = fleet.queue.renew(fleet.worker, std::slice::from_ref(&gone.lease)).await.unwrap();
    assert_eq!(news, lost([&gone.lease]));
    let refused = fleet.queue.finish(fleet.worker, &gone.lease, &ending("late")).await.unwrap();
    assert_eq!(refused, Commit::Fenced);

    redis.run::<()>(&["FLUSHALL"]);
    assert!(fleet.queue.reclaim(&mut fleet.consumer, 1).await.unwrap().is_empty());
    redis.run::<()>(&["FLUSHALL"]);
    assert_eq!(fleet.queue.depth().await.unwrap(), shared::redis::Depth::default());
    assert_eq!(redis.keys(), PERMANENT);
}

#[tokio::test]
async fn a_full_redis_refuses_new_jobs_and_lets_old_ones_end() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let (id, waiting) = (fleet.enqueue().await, fleet.enqueue().await);
    let first = fleet.claim_one().await;
    redis.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    let job = job();
    let refused =
        fleet.queue.enqueue(submission(&fleet.tenant, JobId::generate(), fleet.gateway), &job);
    assert_eq!(refused.await.unwrap_err().code(), ErrorCode::QueueFull);
    assert!(
        fleet
            .queue
            .renew(fleet.worker, std::slice::from_ref(&first.lease))
            .await
            .unwrap()
            .is_empty()
    );
    let done = fleet.queue.finish(fleet.worker, &first.lease, &ending("done")).await.unwrap();
    assert_eq!(done, Commit::Done);
    assert!(matches!(fleet.state(id).await, JobState::Finished(_)));
    assert_eq!(fleet.claim_one().await.lease.job, waiting);
}

#[tokio::test]
async fn a_hanging_redis_is_reported_in_time() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    redis.signal("STOP");
    let started = Instant::now();
    assert_eq!(fleet.queue.ping().await.unwrap_err().code(), ErrorCode::QueueUnavailable);
    let none = fleet.queue.claim(&mut fleet.consumer, 1, Duration::from_millis(100)).await;
    assert_eq!(none.unwrap_err().code(), ErrorCode::QueueUnavailable);
    assert!(started.elapsed() < SOON / 2, "{:?}", started.elapsed());
    redis.signal("CONT");
    let id = fleet.enqueue().await;
    // The read given up above may still have swallowed the job; then it is back after its lease.
    let mut claimed = fleet.claim(1).await;
    if claimed.is_empty() {
        tokio::time::sleep(LEASE).await;
        claimed = fleet.queue.reclaim(&mut fleet.consumer, 1).await.unwrap();
    }
    assert_eq!((claimed[0].lease.job, claimed[0].attempt), (id, 1));
}

#[tokio::test]
async fn a_connection_that_fell_silent_without_being_closed_is_made_anew() {
    let redis = Redis::start();
    let proxy = Proxy::start(&redis);
    let mut fleet = Fleet::new(&proxy.config(redis.short_lease())).await;
    let held = fleet.enqueue().await;
    let claimed = fleet.claim_one().await;
    proxy.fall_silent();
    // What is under way hears nothing; what comes after it goes another way.
    let late = fleet.queue.ping().await.unwrap_err();
    assert_eq!(late.code(), ErrorCode::QueueUnavailable);
    fleet.queue.ping().await.unwrap();
    let done = fleet.queue.finish(fleet.worker, &claimed.lease, &ending("done")).await;
    assert_ne!(done.unwrap(), Commit::Fenced);
    assert!(matches!(fleet.state(held).await, JobState::Finished(_)));
    assert!(matches!(fleet.reply().await, Reply::Resubscribed));

    // So does a read that waits for jobs.
    let id = fleet.enqueue().await;
    let deadline = Instant::now() + SOON;
    let claimed = loop {
        assert!(Instant::now() < deadline, "the job is never found");
        let short = Duration::from_millis(100);
        match fleet.queue.claim(&mut fleet.consumer, 1, short).await {
            Ok(claimed) if !claimed.is_empty() => break claimed,
            Ok(_) => {}
            Err(error) => assert_eq!(error.code(), ErrorCode::QueueUnavailable, "{error}"),
        }
    };
    assert_eq!(claimed[0].lease.job, id);
    fleet.finish(&claimed[0], "done").await;
    fleet.expect_reply(id, &ending("done")).await;
}

#[tokio::test]
async fn a_redis_that_is_not_there_is_reported_in_time() {
    let mut redis = Redis::start();
    let config = redis.config();
    redis.stop();
    let started = Instant::now();
    let refused = shared::redis::Queue::connect(&config).await.err().unwrap();
    assert_eq!(refused.code(), ErrorCode::QueueUnavailable);
    assert!(started.elapsed() < SOON / 2);
}
