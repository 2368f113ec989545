//! Sessions whose owner is gone: their callers are told, once, and never get an empty sandbox.

use shared::error::ErrorCode;
use shared::id::GatewayId;
use shared::redis::{Cancelled, Commit, NextCall, SessionNews};

use crate::harness::{Fleet, LEASE, Redis, SOON, execute, list, outlive_lease};

#[tokio::test]
async fn the_next_caller_of_a_lost_session_is_told_once() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    let former = fleet.open("s").await;
    outlive_lease().await;
    let told = fleet.call("s", &execute()).await.unwrap_err();
    assert_eq!(told.code(), ErrorCode::SessionLost);

    let again = fleet.open("s").await;
    assert_eq!(again.id, former.id);
    assert_ne!(again, former);
    // The same worker owns the new one; what it still believes of the former is not true of it.
    let news = fleet.queue.renew_sessions(fleet.worker, &[former.clone(), again.clone()]).await;
    assert_eq!(
        news.unwrap(),
        [(former.clone(), SessionNews::Lost), (again.clone(), SessionNews::Kept)]
    );
    let id = fleet.call("s", &list()).await.unwrap();
    let next = fleet.queue.next_call(fleet.worker, &former).await.unwrap();
    assert!(matches!(next, NextCall::Lost));
    fleet.queue.end_session(fleet.worker, &former, true).await.unwrap();
    assert_eq!(fleet.next_call(&again).await.id, id);
    assert_eq!(fleet.finish_call(&former, id, "former").await, Commit::Fenced);
    assert_eq!(fleet.finish_call(&again, id, "done").await, Commit::Done);
    fleet.queue.end_session(fleet.worker, &again, false).await.unwrap();
    redis.assert_nothing_left();
}

#[tokio::test]
async fn callers_that_wait_for_a_lost_session_are_answered_by_the_reaper() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    let opened = fleet.open("s").await;
    let running = fleet.call("s", &execute()).await.unwrap();
    assert_eq!(fleet.next_call(&opened).await.id, running);
    let waiting = fleet.call("s", &list()).await.unwrap();
    assert_eq!(fleet.queue.reap_sessions().await.unwrap(), 0, "its lease still runs");
    outlive_lease().await;
    assert_eq!(fleet.queue.reap_sessions().await.unwrap(), 1);
    assert_eq!(fleet.queue.reap_sessions().await.unwrap(), 0);
    for id in [running, waiting] {
        assert_eq!(fleet.failure(id).await.code, ErrorCode::SessionLost);
    }
    assert_eq!(fleet.finish_call(&opened, running, "late").await, Commit::Fenced);
    // They know; nobody else needs to.
    let again = fleet.open("s").await;
    fleet.queue.end_session(fleet.worker, &again, false).await.unwrap();
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_renewed_session_is_not_lost() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    let opened = fleet.open("s").await;
    for _ in 0..6 {
        tokio::time::sleep(LEASE / 3).await;
        let news = fleet.queue.renew_sessions(fleet.worker, std::slice::from_ref(&opened)).await;
        assert_eq!(news.unwrap()[0].1, SessionNews::Kept);
    }
    assert_eq!(fleet.queue.reap_sessions().await.unwrap(), 0);
    fleet.call("s", &list()).await.unwrap();
    fleet.queue.end_session(fleet.worker, &opened, true).await.unwrap();
    redis.assert_nothing_left();
}

#[tokio::test]
async fn an_owner_that_goes_tells_its_callers_or_else_the_next() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let opened = fleet.open("s").await;
    fleet.queue.end_session(fleet.worker, &opened, true).await.unwrap();
    assert!(fleet.queue.sessions(&fleet.tenant).await.unwrap().is_empty());
    assert_eq!(fleet.call("s", &list()).await.unwrap_err().code(), ErrorCode::SessionLost);
    assert_eq!(fleet.call("s", &list()).await.unwrap_err().code(), ErrorCode::SessionNotFound);

    let opened = fleet.open("s").await;
    let waiting = fleet.call("s", &execute()).await.unwrap();
    fleet.queue.end_session(fleet.worker, &opened, true).await.unwrap();
    assert_eq!(fleet.failure(waiting).await.code, ErrorCode::SessionLost);
    assert_eq!(fleet.call("s", &list()).await.unwrap_err().code(), ErrorCode::SessionNotFound);
    redis.assert_nothing_left();
}

#[tokio::test]
async fn whoever_closes_a_lost_session_knows_of_its_end() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    let opened = fleet.open("s").await;
    outlive_lease().await;
    assert!(fleet.queue.close_session(&fleet.tenant, &opened.id).await.unwrap());
    let opened = fleet.open("s").await;
    fleet.queue.end_session(fleet.worker, &opened, true).await.unwrap();
    assert!(!fleet.queue.close_session(&fleet.tenant, &opened.id).await.unwrap());
    let opened = fleet.open("s").await;
    fleet.queue.end_session(fleet.worker, &opened, false).await.unwrap();
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_session_that_is_lost_while_it_is_closed_is_closed() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    let opened = fleet.open("s").await;
    // Its owner does not react; when its lease is over, that does not matter any more.
    assert!(fleet.queue.close_session(&fleet.tenant, &opened.id).await.unwrap());
    let again = fleet.open("s").await;
    fleet.queue.end_session(fleet.worker, &again, false).await.unwrap();
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_stolen_first_call_is_not_run_again() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    let id = fleet.call("s", &execute()).await.unwrap();
    let waiting = fleet.call("s", &list()).await.unwrap();
    let claimed = fleet.claim_one().await;
    outlive_lease().await;
    let (_, mut second) = fleet.second_worker().await;
    assert!(fleet.queue.reclaim(&mut second, 4).await.unwrap().is_empty());
    for id in [id, waiting] {
        assert_eq!(fleet.failure(id).await.code, ErrorCode::SessionLost);
    }
    let refused = fleet
        .queue
        .finish(fleet.worker, &claimed.lease, &crate::harness::ending("late"))
        .await
        .unwrap();
    assert_eq!(refused, Commit::Fenced);
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_first_call_that_never_began_is_run_by_another_worker() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    let id = fleet.call("s", &execute()).await.unwrap();
    // Read by a worker that died before it could start it.
    let _: redis::Value =
        redis.run(&["XREADGROUP", "GROUP", "workers", "dead", "STREAMS", "v1:{s0}:jobs", ">"]);
    outlive_lease().await;
    assert_eq!(fleet.queue.reap_sessions().await.unwrap(), 0);
    let taken = fleet.queue.reclaim(&mut fleet.consumer, 4).await.unwrap();
    assert_eq!(taken[0].lease.job, id);
    fleet.finish(&taken[0], "done").await;
    let opened = taken[0].opens.clone().unwrap();
    fleet.queue.end_session(fleet.worker, &opened, false).await.unwrap();
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_lost_sessions_first_call_ends_at_once_and_its_worker_learns_of_it() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    let id = fleet.call("s", &execute()).await.unwrap();
    let claimed = fleet.claim_one().await;
    tokio::time::sleep(LEASE / 2).await;
    // The job's lease is renewed, the session's is not.
    let lease = std::slice::from_ref(&claimed.lease);
    assert!(fleet.queue.renew(fleet.worker, lease).await.unwrap().is_empty());
    tokio::time::sleep(LEASE * 2 / 3).await;
    assert_eq!(fleet.call("s", &list()).await.unwrap_err().code(), ErrorCode::SessionLost);
    assert_eq!(fleet.failure(id).await.code, ErrorCode::SessionLost);
    let news = fleet.queue.renew(fleet.worker, lease).await.unwrap();
    assert_eq!(news, crate::harness::lost([&claimed.lease]));
    let none = fleet.queue.claim(&mut fleet.consumer, 1, LEASE).await.unwrap();
    assert!(none.is_empty());
    assert!(tokio::time::timeout(SOON, fleet.reply()).await.is_ok());
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_caller_that_has_gone_was_not_told_of_the_loss() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    // One has cancelled its call, the gateway of the other is no more.
    let (cancelled, orphaned) = (fleet.open("cancelled").await, fleet.open("orphaned").await);
    let running = fleet.call("cancelled", &execute()).await.unwrap();
    assert_eq!(fleet.next_call(&cancelled).await.id, running);
    let asked = fleet.queue.cancel(&fleet.tenant, running).await.unwrap();
    assert_eq!(asked, Cancelled::Asked);
    let here = std::mem::replace(&mut fleet.gateway, GatewayId::generate());
    fleet.call("orphaned", &execute()).await.unwrap();
    fleet.gateway = here;
    fleet.queue.end_session(fleet.worker, &cancelled, true).await.unwrap();
    fleet.queue.end_session(fleet.worker, &orphaned, true).await.unwrap();
    for session in ["cancelled", "orphaned"] {
        let told = fleet.call(session, &execute()).await.unwrap_err();
        assert_eq!(told.code(), ErrorCode::SessionLost, "{session}");
    }
    redis.assert_nothing_left();
}
