//! A session's life: opened by its first call, one call at a time, in order, closed for good.

use std::time::{Duration, Instant};

use shared::error::ErrorCode;
use shared::execution::{Call, Job};
use shared::id::{GatewayId, JobId, SessionId, TenantId};
use shared::labels::Labels;
use shared::redis::{
    Commit, JobState, NextCall, Quota, SessionNews, Submission, ToSession, WorkerOrder,
};
use shared::runtime::Runtime;

use crate::harness::{Fleet, LEASE, Redis, SOON, ending, execute, job, list};

fn node() -> Call {
    Call::Execute { job: Job { runtime: Runtime::Node, ..job() } }
}

fn name(text: &str) -> SessionId {
    SessionId::new(text).unwrap()
}

#[tokio::test]
async fn calls_run_one_at_a_time_and_in_order() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let first = fleet.call("s", &execute()).await.unwrap();
    let second = fleet.call("s", &list()).await.unwrap();
    let third = fleet.call("s", &execute()).await.unwrap();

    let claimed = fleet.claim(10).await;
    assert_eq!(claimed.len(), 1, "later calls do not go through the stream");
    let opened = claimed[0].opens.clone().unwrap();
    assert_eq!((claimed[0].lease.job, &opened.id), (first, &name("s")));
    assert!(matches!(fleet.queue.next_call(fleet.worker, &opened).await.unwrap(), NextCall::Idle));
    fleet.finish(&claimed[0], "first").await;
    fleet.expect_reply(first, &ending("first")).await;

    let call = fleet.next_call(&opened).await;
    assert_eq!(call.id, second);
    assert!(matches!(call.call, Call::List { .. }));
    assert!(matches!(fleet.state(second).await, JobState::Running));
    assert!(matches!(fleet.state(third).await, JobState::Queued));
    assert_eq!(fleet.next_call(&opened).await.id, second, "asking again skips nothing");
    assert_eq!(fleet.finish_call(&opened, third, "out of turn").await, Commit::Fenced);
    assert_eq!(fleet.finish_call(&opened, second, "second").await, Commit::Done);
    fleet.expect_reply(second, &ending("second")).await;

    assert_eq!(fleet.next_call(&opened).await.id, third);
    assert_eq!(fleet.finish_call(&opened, third, "third").await, Commit::Done);
    fleet.expect_reply(third, &ending("third")).await;
    assert!(matches!(fleet.queue.next_call(fleet.worker, &opened).await.unwrap(), NextCall::Idle));

    fleet.queue.end_session(fleet.worker, &opened, false).await.unwrap();
    redis.assert_nothing_left();
}

#[tokio::test]
async fn an_idle_owner_is_told_of_a_call() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let mut orders = fleet.queue.orders(fleet.worker).await.unwrap();
    // Names may hold what separates them.
    let opened = fleet.open("a:b}{c d").await;
    let id = fleet.call("a:b}{c d", &list()).await.unwrap();
    let order = tokio::time::timeout(SOON, orders.next()).await.unwrap();
    assert_eq!(order, WorkerOrder::Session(fleet.tenant.clone(), opened.id.clone()));
    let news = fleet.queue.renew_sessions(fleet.worker, std::slice::from_ref(&opened)).await;
    assert_eq!(news.unwrap(), [(opened.clone(), SessionNews::CallsWait)]);
    assert_eq!(fleet.next_call(&opened).await.id, id);
    let news = fleet.queue.renew_sessions(fleet.worker, std::slice::from_ref(&opened)).await;
    assert_eq!(news.unwrap(), [(opened.clone(), SessionNews::Kept)]);
    assert_eq!(fleet.finish_call(&opened, id, "done").await, Commit::Done);
    fleet.queue.end_session(fleet.worker, &opened, false).await.unwrap();
    redis.assert_nothing_left();
}

#[tokio::test]
async fn what_a_session_cannot_do_is_refused() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let absent = fleet.call("s", &list()).await.unwrap_err();
    assert_eq!(absent.code(), ErrorCode::SessionNotFound);
    let opened = fleet.open("s").await;
    let switched = fleet.call("s", &node()).await.unwrap_err();
    assert_eq!(switched.code(), ErrorCode::InvalidRequest);
    assert!(
        switched.message().starts_with("Cannot switch runtime from \"python\" to \"node\""),
        "{switched}"
    );
    let other = fleet.open("other").await;
    let third = fleet.call("third", &execute()).await.unwrap_err();
    assert_eq!(third.code(), ErrorCode::SessionLimit);
    fleet.queue.end_session(fleet.worker, &other, false).await.unwrap();
    let again = fleet.open("third").await;
    for session in [opened, again] {
        fleet.queue.end_session(fleet.worker, &session, false).await.unwrap();
    }
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_sessions_queue_is_bounded() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let opened = fleet.open("s").await;
    for _ in 0..1000 {
        fleet.call("s", &list()).await.unwrap();
    }
    let refused = fleet.call("s", &list()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::QueueFull);
    assert!(refused.retry_after().is_some());
    fleet.queue.end_session(fleet.worker, &opened, true).await.unwrap();
    redis.assert_nothing_left();
}

#[tokio::test]
async fn tenants_do_not_share_sessions_and_each_lists_its_own() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let mine = fleet.open("s").await;
    fleet.tenant = TenantId::new("other");
    let theirs = fleet.open("s").await;
    let waiting = fleet.call("unopened", &execute()).await.unwrap();
    assert_ne!(mine, theirs);

    let listed = fleet.queue.sessions(&TenantId::new("acme")).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0].id, listed[0].runtime.as_str()), (&name("s"), "python"));
    assert!(!listed[0].is_active && listed[0].used_ms >= listed[0].created_ms);
    let listed = fleet.queue.sessions(&fleet.tenant).await.unwrap();
    let listed: Vec<_> = listed.iter().map(|it| (it.id.as_str(), it.is_active)).collect();
    assert_eq!(listed, [("s", false), ("unopened", false)]);
    let all = fleet.queue.all_sessions().await.unwrap();
    let mut all: Vec<_> = all.iter().map(|it| (it.tenant.as_str(), it.id.as_str())).collect();
    all.sort_unstable();
    assert_eq!(all, [("acme", "s"), ("other", "s"), ("other", "unopened")]);

    assert!(fleet.queue.close_session(&fleet.tenant, &name("unopened")).await.unwrap());
    assert_eq!(fleet.failure(waiting).await.code, ErrorCode::Cancelled);
    assert!(!fleet.queue.close_session(&fleet.tenant, &name("unopened")).await.unwrap());
    assert!(!fleet.queue.close_session(&TenantId::new("acme"), &name("unopened")).await.unwrap());
    for session in [mine, theirs] {
        fleet.queue.end_session(fleet.worker, &session, false).await.unwrap();
    }
    assert!(fleet.queue.all_sessions().await.unwrap().is_empty());
    redis.assert_nothing_left();
}

#[tokio::test]
async fn closing_ends_what_runs_and_waits_and_lasts_until_the_owner_is_done() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let mut orders = fleet.queue.orders(fleet.worker).await.unwrap();
    let opened = fleet.open("s").await;
    let running = fleet.call("s", &execute()).await.unwrap();
    assert_eq!(fleet.next_call(&opened).await.id, running);
    let waiting = fleet.call("s", &list()).await.unwrap();
    assert!(matches!(orders.next().await, WorkerOrder::Session(..)));

    let (queue, worker, gateway) = (fleet.queue.clone(), fleet.worker, fleet.gateway);
    let owner = async {
        assert_eq!(orders.next().await, WorkerOrder::Cancel(running));
        assert!(matches!(orders.next().await, WorkerOrder::Session(..)));
        assert_eq!(fleet.finish_call(&opened, running, "late").await, Commit::Fenced);
        let next = queue.next_call(worker, &opened).await.unwrap();
        assert!(matches!(next, NextCall::Close));
        let news = queue.renew_sessions(worker, std::slice::from_ref(&opened)).await.unwrap();
        assert_eq!(news, [(opened.clone(), SessionNews::Close)]);
        // Whoever wants the name waits until it is free.
        let call = execute();
        let again = fleet.call("s", &call);
        let end = async {
            tokio::time::sleep(LEASE).await;
            queue.end_session(worker, &opened, false).await.unwrap();
        };
        tokio::join!(again, end).0.unwrap()
    };
    let tenant = fleet.tenant.clone();
    let id = name("s");
    let close = queue.close_session(&tenant, &id);
    let (again, closed) =
        tokio::time::timeout(SOON, async { tokio::join!(owner, close) }).await.unwrap();
    assert!(closed.unwrap());
    for id in [running, waiting] {
        assert_eq!(fleet.failure(id).await.code, ErrorCode::Cancelled);
    }
    assert!(
        matches!(fleet.state(again).await, JobState::Queued),
        "closing does not touch a later session of the same name"
    );
    assert_eq!(gateway, fleet.gateway);
    assert!(queue.close_session(&tenant, &id).await.unwrap());
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_session_can_be_closed_while_its_first_call_runs() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = fleet.call("s", &execute()).await.unwrap();
    let claimed = fleet.claim_one().await;
    let opened = claimed.opens.clone().unwrap();
    let queue = fleet.queue.clone();
    let owner = async {
        loop {
            let news = queue.renew_sessions(fleet.worker, std::slice::from_ref(&opened)).await;
            if news.unwrap()[0].1 == SessionNews::Close {
                break;
            }
            tokio::task::yield_now().await;
        }
        let news = queue.renew(fleet.worker, std::slice::from_ref(&claimed.lease)).await.unwrap();
        assert_eq!(news, crate::harness::lost([&claimed.lease]));
        let late = queue.finish(fleet.worker, &claimed.lease, &ending("late")).await.unwrap();
        assert_eq!(late, Commit::Fenced);
        queue.end_session(fleet.worker, &opened, false).await.unwrap();
    };
    let session = name("s");
    let close = fleet.queue.close_session(&fleet.tenant, &session);
    let ((), closed) = tokio::join!(owner, close);
    assert!(closed.unwrap());
    assert_eq!(fleet.failure(id).await.code, ErrorCode::Cancelled);
    redis.assert_nothing_left();
}

#[tokio::test]
async fn an_idle_session_is_retired_unless_a_call_came() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let opened = fleet.open("s").await;
    let id = fleet.call("s", &list()).await.unwrap();
    let retire = || fleet.queue.retire_session(fleet.worker, &opened);
    assert_eq!(retire().await.unwrap(), SessionNews::CallsWait);
    assert_eq!(fleet.next_call(&opened).await.id, id);
    assert_eq!(retire().await.unwrap(), SessionNews::CallsWait);
    assert_eq!(fleet.finish_call(&opened, id, "done").await, Commit::Done);
    assert_eq!(retire().await.unwrap(), SessionNews::Close);
    fleet.queue.end_session(fleet.worker, &opened, false).await.unwrap();
    assert_eq!(retire().await.unwrap(), SessionNews::Lost);
    redis.assert_nothing_left();
}

#[tokio::test]
async fn calls_count_against_their_tenants_quota_until_they_end() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let quota = Quota { max_active: 2, per_second: 0, ..Quota::default() };
    let (tenant, queue, session) = (fleet.tenant.clone(), fleet.queue.clone(), name("s"));
    let call = async || {
        let id = JobId::generate();
        let submission =
            Submission { tenant: &tenant, id, reply_to: Some(GatewayId::generate()), quota };
        let to =
            ToSession { id: &session, may_open: true, max_sessions: 1, labels: Labels::none() };
        queue.enqueue_call(submission, to, &execute()).await.map(|()| id)
    };
    call().await.unwrap();
    let waiting = call().await.unwrap();
    assert_eq!(call().await.unwrap_err().code(), ErrorCode::TooManyJobs);
    let claimed = fleet.claim_one().await;
    fleet.finish(&claimed, "done").await;
    call().await.unwrap();
    assert_eq!(call().await.unwrap_err().code(), ErrorCode::TooManyJobs);
    queue.cancel(&tenant, waiting).await.unwrap();
    call().await.unwrap();
    fleet.queue.end_session(fleet.worker, &claimed.opens.unwrap(), true).await.unwrap();
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_call_that_waits_for_a_session_to_close_is_not_sent_again_and_again() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let opened = fleet.open("s").await;
    let retired = fleet.queue.retire_session(fleet.worker, &opened).await.unwrap();
    assert_eq!(retired, SessionNews::Close);
    let figure = |section: &str, name: &str| {
        let info: String = redis.run(&["INFO", section]);
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().to_owned()
    };
    let received = || figure("stats", "total_net_input_bytes").parse::<usize>().unwrap();
    let payload_bytes = 1 << 20;
    let mut job = job();
    job.stdin = Some("x".repeat(payload_bytes));
    let before = received();
    let close = async {
        let deadline = Instant::now() + SOON;
        let looks = || {
            let calls = figure("commandstats", "cmdstat_hexists").replace("calls=", "");
            calls.split(',').next().and_then(|it| it.parse::<u32>().ok()).unwrap_or(0)
        };
        while looks() < 3 {
            assert!(Instant::now() < deadline, "it is not looked for the end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(received() - before < 2 * payload_bytes, "it was sent once");
        fleet.queue.end_session(fleet.worker, &opened, false).await.unwrap();
    };
    let call = Call::Execute { job };
    let (called, ()) = tokio::join!(fleet.call("s", &call), close);
    match called {
        Ok(id) => assert!(matches!(fleet.state(id).await, JobState::Queued)),
        // This machine was so slow that the patience of the call was over before the session was.
        Err(error) => assert_eq!(error.code(), ErrorCode::SessionLimit),
    }
    assert!(received() - before < 3 * payload_bytes, "and then once more");
}

#[tokio::test]
async fn whoever_wants_a_session_that_is_slow_to_close_may_try_again() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let opened = fleet.open("s").await;
    let retired = fleet.queue.retire_session(fleet.worker, &opened).await.unwrap();
    assert_eq!(retired, SessionNews::Close);
    // It has no owner that would come to an end with it.
    let refused = fleet.call("s", &execute()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::SessionLimit);
    assert!(refused.retry_after().is_some());
    fleet.queue.end_session(fleet.worker, &opened, false).await.unwrap();
    redis.assert_nothing_left();
}
