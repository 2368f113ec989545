//! The first call of a session: it goes through the stream, and whoever takes it owns the session.

use shared::error::ErrorCode;
use shared::redis::{Commit, GiveBack, NextCall, SessionNews};

use crate::harness::{Fleet, Redis, SOON, ending, execute, failure, list, outlive_lease};

#[tokio::test]
async fn two_first_calls_at_once_open_one_session() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let (call, other) = (execute(), execute());
    let (one, two) = tokio::join!(fleet.call("s", &call), fleet.call("s", &other));
    let (one, two) = (one.unwrap(), two.unwrap());
    let claimed = fleet.claim(10).await;
    assert_eq!(claimed.len(), 1);
    let opened = claimed[0].opens.clone().unwrap();
    fleet.finish(&claimed[0], "done").await;
    let next = fleet.next_call(&opened).await;
    let both = [claimed[0].lease.job, next.id];
    assert!(both == [one, two] || both == [two, one]);
    assert_eq!(fleet.finish_call(&opened, next.id, "done").await, Commit::Done);
    fleet.queue.end_session(fleet.worker, &opened, false).await.unwrap();
    redis.assert_nothing_left();
}

#[tokio::test]
async fn an_opening_call_that_is_given_back_opens_the_session_elsewhere() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    let id = fleet.call("s", &execute()).await.unwrap();
    let waiting = fleet.call("s", &list()).await.unwrap();
    let claimed = fleet.claim_one().await;
    let given = fleet.queue.give_back(fleet.worker, &claimed.lease, GiveBack::Shutdown).await;
    assert_eq!(given.unwrap(), Commit::Done);
    let former = claimed.opens.unwrap();
    let next = fleet.queue.next_call(fleet.worker, &former).await.unwrap();
    assert!(matches!(next, NextCall::Lost));
    // A session that nobody owns yet cannot be lost, however long its first call waits.
    outlive_lease().await;
    assert_eq!(fleet.queue.reap_sessions().await.unwrap(), 0);

    let (other, mut second) = fleet.second_worker().await;
    let claimed = fleet.queue.claim(&mut second, 1, SOON).await.unwrap().remove(0);
    assert_eq!(claimed.lease.job, id);
    let opened = claimed.opens.unwrap();
    let _ = fleet.queue.finish(other, &claimed.lease, &ending("done")).await.unwrap();
    let call = fleet.queue.next_call(other, &opened).await.unwrap();
    assert!(matches!(call, NextCall::Run(call) if call.id == waiting));
    let done = fleet.queue.finish_call(other, &opened, waiting, &ending("done")).await.unwrap();
    assert_eq!(done, Commit::Done);
    fleet.queue.end_session(other, &opened, false).await.unwrap();
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_session_that_could_not_be_opened_takes_its_calls_along() {
    let redis = Redis::start();
    let config = shared::config::Redis { max_deliveries: 1, ..redis.config() };
    let mut fleet = Fleet::new(&config).await;
    let ids =
        [fleet.call("s", &execute()).await.unwrap(), fleet.call("s", &execute()).await.unwrap()];
    let claimed = fleet.claim_one().await;
    let why = GiveBack::Failed(failure("no sandbox"));
    let given = fleet.queue.give_back(fleet.worker, &claimed.lease, why).await.unwrap();
    assert_eq!(given, Commit::Done);
    for id in ids {
        fleet.expect_reply(id, &ending("no sandbox")).await;
    }
    let opened = claimed.opens.unwrap();
    let news = fleet.queue.renew_sessions(fleet.worker, std::slice::from_ref(&opened)).await;
    assert_eq!(news.unwrap()[0].1, SessionNews::Lost);
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_call_behind_one_that_could_not_open_the_session_may_try_itself() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    fleet.call("s", &execute()).await.unwrap();
    let file = fleet.call("s", &list()).await.unwrap();
    let second = fleet.call("s", &execute()).await.unwrap();
    let claimed = fleet.claim_one().await;
    let former = claimed.opens.clone().unwrap();
    fleet.finish(&claimed, "no such image").await;
    for _ in 0..2 {
        fleet.queue.end_session(fleet.worker, &former, false).await.unwrap();
    }
    // Until then nobody owns it, and nobody can lose it.
    outlive_lease().await;
    assert_eq!(fleet.queue.reap_sessions().await.unwrap(), 0);

    let claimed = fleet.claim_one().await;
    assert_eq!(claimed.lease.job, second);
    let opened = claimed.opens.clone().unwrap();
    assert_ne!(opened, former);
    fleet.finish(&claimed, "done").await;
    assert_eq!(fleet.next_call(&opened).await.id, file);
    assert_eq!(fleet.finish_call(&opened, file, "done").await, Commit::Done);
    fleet.queue.end_session(fleet.worker, &opened, false).await.unwrap();
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_cancelled_first_call_leaves_the_session_to_the_next_that_can_open_it() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let first = fleet.call("s", &execute()).await.unwrap();
    let file = fleet.call("s", &list()).await.unwrap();
    let second = fleet.call("s", &execute()).await.unwrap();
    fleet.queue.cancel(&fleet.tenant, first).await.unwrap();
    assert_eq!(fleet.failure(first).await.code, ErrorCode::Cancelled);
    let claimed = fleet.claim_one().await;
    assert_eq!(claimed.lease.job, second);
    let opened = claimed.opens.clone().unwrap();
    fleet.finish(&claimed, "done").await;
    assert_eq!(fleet.next_call(&opened).await.id, file);
    assert_eq!(fleet.finish_call(&opened, file, "done").await, Commit::Done);
    fleet.queue.end_session(fleet.worker, &opened, false).await.unwrap();

    // Without one that can, nobody will ever serve the others.
    let first = fleet.call("s", &execute()).await.unwrap();
    let file = fleet.call("s", &list()).await.unwrap();
    fleet.queue.cancel(&fleet.tenant, first).await.unwrap();
    assert_eq!(fleet.failure(file).await.code, ErrorCode::Cancelled);
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_call_that_opens_a_session_waits_in_the_queue_only_if_there_is_room() {
    let redis = Redis::start();
    let config = shared::config::Redis { max_queued: 1, ..redis.config() };
    let mut fleet = Fleet::new(&config).await;
    let opened = fleet.open("s").await;
    let job = fleet.enqueue().await;
    let refused = fleet.call("other", &execute()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::QueueFull);
    assert!(refused.retry_after().is_some());
    // A session that is there has a queue of its own.
    fleet.call("s", &execute()).await.unwrap();
    // What runs does not wait.
    let claimed = fleet.claim_one().await;
    assert_eq!(claimed.lease.job, job);
    let other = fleet.open("other").await;
    fleet.finish(&claimed, "done").await;
    for session in [opened, other] {
        fleet.queue.end_session(fleet.worker, &session, true).await.unwrap();
    }
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_first_call_for_which_there_is_no_room_is_not_worn_out() {
    let redis = Redis::start();
    let config = shared::config::Redis { max_deliveries: 1, ..redis.config() };
    let mut fleet = Fleet::new(&config).await;
    fleet.call("s", &execute()).await.unwrap();
    let mut youngest = std::time::Duration::ZERO;
    for _ in 0..3 {
        let claimed = fleet.claim_one().await;
        assert!(claimed.age > youngest, "it grows older with every delivery");
        youngest = claimed.age;
        let given = fleet.queue.give_back(fleet.worker, &claimed.lease, GiveBack::NoRoom).await;
        assert_eq!(given.unwrap(), Commit::Done);
    }
    let opened = fleet.claim_one().await;
    fleet.finish(&opened, "done").await;
    fleet.queue.end_session(fleet.worker, &opened.opens.unwrap(), true).await.unwrap();
    redis.assert_nothing_left();
}
