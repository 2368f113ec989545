//! What callers do to a job after they queued it: cancel it, and send it input.

use bytes::Bytes;
use shared::error::ErrorCode;
use shared::execution::{Input, Job};
use shared::id::{JobId, TenantId};
use shared::redis::{
    Cancelled, Commit, GiveBack, JobState, LeaseNews, SessionNews, Taking, WorkerOrder,
};

use crate::harness::{
    Fleet, Redis, SOON, ending, execute, failure, job, list, outlive_lease, submission,
};

async fn cancel(fleet: &Fleet, id: JobId) -> Cancelled {
    fleet.queue.cancel(&fleet.tenant, id).await.unwrap()
}

async fn enqueue_interactive(fleet: &Fleet) -> JobId {
    let id = JobId::generate();
    let job = Job { interactive: true, ..job() };
    fleet.queue.enqueue(submission(&fleet.tenant, id, fleet.gateway), &job).await.unwrap();
    id
}

async fn send(fleet: &Fleet, id: JobId, text: &str) -> Taking {
    let input = Input::Stdin(Bytes::from(text.to_owned()));
    fleet.queue.send_input(&fleet.tenant, id, &input).await.unwrap()
}

async fn taken(fleet: &Fleet, id: JobId) -> Vec<String> {
    let inputs = fleet.queue.take_input(&fleet.tenant, id).await.unwrap();
    let text = |input| match input {
        Input::Stdin(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        other => format!("{other:?}"),
    };
    inputs.into_iter().map(text).collect()
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_at_once() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let (id, other) = (fleet.enqueue().await, fleet.enqueue().await);
    let stranger = fleet.queue.cancel(&TenantId::new("other"), id).await.unwrap();
    assert_eq!(stranger, Cancelled::Unknown);
    assert_eq!(cancel(&fleet, JobId::generate()).await, Cancelled::Unknown);
    assert_eq!(cancel(&fleet, id).await, Cancelled::Now);
    let failed = fleet.failure(id).await;
    assert_eq!(failed.code, ErrorCode::Cancelled);
    fleet.expect_reply(id, &shared::execution::Ending::Error(failed)).await;

    let claimed = fleet.claim(4).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].lease.job, other);
    fleet.finish(&claimed[0], "done").await;
    assert_eq!(cancel(&fleet, other).await, Cancelled::TooLate);
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_job_cancelled_between_reading_and_starting_does_not_start() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = fleet.enqueue().await;
    let _: redis::Value = redis.run(&[
        "XREADGROUP",
        "GROUP",
        "workers",
        &fleet.worker.to_string(),
        "STREAMS",
        "v1:{s0}:jobs",
        ">",
    ]);
    assert_eq!(cancel(&fleet, id).await, Cancelled::Now);
    assert!(fleet.queue.reclaim(&mut fleet.consumer, 1).await.unwrap().is_empty());
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_running_job_is_cancelled_by_its_worker() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let mut orders = fleet.queue.orders(fleet.worker).await.unwrap();
    let id = fleet.enqueue().await;
    let claimed = fleet.claim_one().await;
    assert_eq!(cancel(&fleet, id).await, Cancelled::Asked);
    assert_eq!(tokio::time::timeout(SOON, orders.next()).await.unwrap(), WorkerOrder::Cancel(id));
    // Whoever missed the order hears it with the next renewal.
    let lease = std::slice::from_ref(&claimed.lease);
    let news = fleet.queue.renew(fleet.worker, lease).await.unwrap();
    assert_eq!(news, [(claimed.lease.clone(), LeaseNews::Cancelled)]);
    assert!(matches!(fleet.state(id).await, JobState::Running));
    fleet.finish(&claimed, "stopped").await;
    fleet.expect_reply(id, &ending("stopped")).await;
    assert_eq!(cancel(&fleet, id).await, Cancelled::TooLate);
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_cancelled_job_is_not_started_again_when_its_worker_fails() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    for why in [GiveBack::Shutdown, GiveBack::Failed(failure("broken"))] {
        let id = fleet.enqueue().await;
        let claimed = fleet.claim_one().await;
        assert_eq!(cancel(&fleet, id).await, Cancelled::Asked);
        let given = fleet.queue.give_back(fleet.worker, &claimed.lease, why).await.unwrap();
        assert_eq!(given, Commit::Done);
        assert_eq!(fleet.failure(id).await.code, ErrorCode::Cancelled);
    }
    let id = fleet.enqueue().await;
    fleet.claim_one().await;
    assert_eq!(cancel(&fleet, id).await, Cancelled::Asked);
    outlive_lease().await;
    assert!(fleet.queue.reclaim(&mut fleet.consumer, 1).await.unwrap().is_empty());
    assert_eq!(fleet.failure(id).await.code, ErrorCode::Cancelled);
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_sessions_calls_are_cancelled_without_the_session() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let opened = fleet.open("s").await;
    let running = fleet.call("s", &execute()).await.unwrap();
    let waiting = fleet.call("s", &list()).await.unwrap();
    let last = fleet.call("s", &list()).await.unwrap();
    assert_eq!(fleet.next_call(&opened).await.id, running);
    assert_eq!(cancel(&fleet, waiting).await, Cancelled::Now);
    assert_eq!(cancel(&fleet, running).await, Cancelled::Asked);
    let news = fleet.queue.renew_sessions(fleet.worker, std::slice::from_ref(&opened)).await;
    assert_eq!(news.unwrap()[0].1, SessionNews::CancelRunning);
    assert_eq!(fleet.finish_call(&opened, running, "stopped").await, Commit::Done);
    assert_eq!(fleet.next_call(&opened).await.id, last);
    assert_eq!(fleet.finish_call(&opened, last, "done").await, Commit::Done);
    fleet.queue.end_session(fleet.worker, &opened, false).await.unwrap();
    redis.assert_nothing_left();
}

#[tokio::test]
async fn input_waits_for_a_job_and_reaches_it_while_it_runs() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let mut orders = fleet.queue.orders(fleet.worker).await.unwrap();
    let id = enqueue_interactive(&fleet).await;
    assert_eq!(send(&fleet, id, "early").await, Taking::Taken);
    assert!(taken(&fleet, id).await.is_empty(), "nobody may take what another will need");
    let claimed = fleet.claim_one().await;
    assert_eq!(taken(&fleet, id).await, ["early"]);
    assert_eq!(send(&fleet, id, "one").await, Taking::Taken);
    assert_eq!(send(&fleet, id, "two").await, Taking::Taken);
    for _ in 0..2 {
        let order = tokio::time::timeout(SOON, orders.next()).await.unwrap();
        assert_eq!(order, WorkerOrder::Input(id));
    }
    assert_eq!(taken(&fleet, id).await, ["one", "two"]);
    assert!(taken(&fleet, id).await.is_empty());
    for input in [Input::Signal(2), Input::StdinEnd] {
        let sent = fleet.queue.send_input(&fleet.tenant, id, &input).await.unwrap();
        assert_eq!(sent, Taking::Taken);
    }
    let inputs = fleet.queue.take_input(&fleet.tenant, id).await.unwrap();
    assert_eq!(inputs, [Input::Signal(2), Input::StdinEnd]);
    assert_eq!(send(&fleet, id, "never read").await, Taking::Taken);
    fleet.finish(&claimed, "done").await;
    assert_eq!(send(&fleet, id, "late").await, Taking::Over);
    redis.assert_nothing_left();
}

#[tokio::test]
async fn input_is_bounded_and_for_those_who_read_it() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let deaf = fleet.enqueue().await;
    assert_eq!(send(&fleet, deaf, "x").await, Taking::Over);
    let id = enqueue_interactive(&fleet).await;
    let stranger = TenantId::new("other");
    let refused = fleet.queue.send_input(&stranger, id, &Input::StdinEnd).await.unwrap();
    assert_eq!(refused, Taking::Over);
    for _ in 0..64 {
        assert_eq!(send(&fleet, id, "x").await, Taking::Taken);
    }
    assert_eq!(send(&fleet, id, "x").await, Taking::Full);
    let claimed = fleet.claim(2).await;
    assert!(fleet.queue.take_input(&stranger, id).await.unwrap().is_empty());
    assert_eq!(taken(&fleet, id).await.len(), 64);
    assert_eq!(send(&fleet, id, "x").await, Taking::Taken);
    for claimed in &claimed {
        fleet.finish(claimed, "done").await;
    }
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_job_that_was_given_input_is_not_started_without_it() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    let id = enqueue_interactive(&fleet).await;
    fleet.claim_one().await;
    assert_eq!(send(&fleet, id, "x").await, Taking::Taken);
    outlive_lease().await;
    let again = fleet.queue.reclaim(&mut fleet.consumer, 1).await.unwrap();
    assert_eq!(again.len(), 1, "the first attempt never took it");
    assert_eq!(taken(&fleet, id).await, ["x"]);
    outlive_lease().await;
    assert!(fleet.queue.reclaim(&mut fleet.consumer, 1).await.unwrap().is_empty());
    assert_eq!(fleet.failure(id).await.code, ErrorCode::WorkerLost);
    redis.assert_nothing_left();
}
