//! Every script may run twice, because the answer to the first time was lost. Nobody may notice.

use bytes::Bytes;
use shared::config;
use shared::error::ErrorCode;
use shared::execution::{EventKind, Input, Job, Phase};
use shared::id::{JobId, SessionId};
use shared::redis::{
    Cancelled, Commit, GiveBack, JobState, LeaseNews, NextCall, SessionNews, Taking,
};

use crate::harness::{Fleet, Redis, ending, execute, job, list, outlive_lease, submission};
use crate::proxy::Proxy;

/// A step whose first answer is lost.
macro_rules! twice {
    ($proxy:ident, $step:expr) => {{
        $proxy.lose_next_answer();
        let outcome = $step.await;
        $proxy.assert_lost();
        outcome
    }};
}

async fn fleet(redis: &Redis, config: config::Redis) -> (Proxy, Fleet) {
    let proxy = Proxy::start(redis);
    let fleet = Fleet::new(&proxy.config(config)).await;
    (proxy, fleet)
}

#[tokio::test]
async fn a_plain_jobs_steps_can_be_repeated() {
    let redis = Redis::start();
    let config = config::Redis { max_deliveries: 2, ..redis.short_lease() };
    let (proxy, mut fleet) = fleet(&redis, config).await;
    let id = twice!(proxy, fleet.enqueue());
    let claimed = twice!(proxy, fleet.claim_one());
    assert_eq!((claimed.lease.job, claimed.attempt), (id, 1));
    outlive_lease().await;
    let taken = twice!(proxy, fleet.queue.reclaim(&mut fleet.consumer, 1)).unwrap().remove(0);
    assert_eq!((taken.lease.job, taken.attempt), (id, 2), "one theft is one delivery");
    let lease = std::slice::from_ref(&taken.lease);
    assert!(twice!(proxy, fleet.queue.renew(fleet.worker, lease)).unwrap().is_empty());
    assert_eq!(twice!(proxy, fleet.queue.cancel(&fleet.tenant, id)).unwrap(), Cancelled::Asked);
    let news = twice!(proxy, fleet.queue.renew(fleet.worker, lease)).unwrap();
    assert_eq!(news, [(taken.lease.clone(), LeaseNews::Cancelled)]);
    let done = twice!(proxy, fleet.queue.finish(fleet.worker, &taken.lease, &ending("done")));
    assert_eq!(done.unwrap(), Commit::Done);
    fleet.expect_reply(id, &ending("done")).await;

    let id = fleet.enqueue().await;
    assert_eq!(twice!(proxy, fleet.queue.cancel(&fleet.tenant, id)).unwrap(), Cancelled::Now);
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_job_is_given_back_once() {
    let redis = Redis::start();
    let (proxy, mut fleet) = fleet(&redis, redis.config()).await;
    let id = fleet.enqueue().await;
    let claimed = fleet.claim_one().await;
    // The second call cannot tell that it was the first; either way the job is in the queue once.
    let _either =
        twice!(proxy, fleet.queue.give_back(fleet.worker, &claimed.lease, GiveBack::Shutdown));
    assert!(matches!(fleet.state(id).await, JobState::Queued));
    let claimed = fleet.claim(4).await;
    assert_eq!(claimed.len(), 1);
    fleet.finish(&claimed[0], "done").await;
    redis.assert_nothing_left();
}

#[tokio::test]
async fn output_and_input_pass_once() {
    let redis = Redis::start();
    let (proxy, mut fleet) = fleet(&redis, redis.config()).await;
    let id = JobId::generate();
    let job = Job { interactive: true, ..job() };
    fleet.queue.enqueue(submission(&fleet.tenant, id, fleet.gateway), &job).await.unwrap();
    let claimed = fleet.claim_one().await;
    let to = fleet.queue.publication(fleet.worker, &claimed.lease, 1000);
    let events = [(Phase::Setup, EventKind::SetupEnded)];
    assert!(twice!(proxy, fleet.queue.publish(&to, 0, &events)).unwrap());
    assert_eq!(fleet.queue.events(&fleet.tenant, id, 0).await.unwrap().len(), 1);

    let input = Input::Stdin(Bytes::from_static(b"once"));
    let sent = twice!(proxy, fleet.queue.send_input(&fleet.tenant, id, &input)).unwrap();
    assert_eq!(sent, Taking::Taken);
    let taken = twice!(proxy, fleet.queue.take_input(&fleet.tenant, id)).unwrap();
    assert_eq!(taken, [input]);
    assert!(fleet.queue.take_input(&fleet.tenant, id).await.unwrap().is_empty());
    fleet.finish(&claimed, "done").await;
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_sessions_steps_can_be_repeated() {
    let redis = Redis::start();
    let (proxy, mut fleet) = fleet(&redis, redis.short_lease()).await;
    let first = twice!(proxy, fleet.call("s", &execute())).unwrap();
    let claimed = twice!(proxy, fleet.claim_one());
    assert_eq!(claimed.lease.job, first);
    let opened = claimed.opens.clone().unwrap();
    fleet.finish(&claimed, "done").await;
    let second = twice!(proxy, fleet.call("s", &list())).unwrap();
    let next = twice!(proxy, fleet.queue.next_call(fleet.worker, &opened)).unwrap();
    assert!(matches!(next, NextCall::Run(call) if call.id == second));
    let own = std::slice::from_ref(&opened);
    let news = twice!(proxy, fleet.queue.renew_sessions(fleet.worker, own)).unwrap();
    assert_eq!(news[0].1, SessionNews::Kept);
    let done =
        twice!(proxy, fleet.queue.finish_call(fleet.worker, &opened, second, &ending("done")));
    assert_eq!(done.unwrap(), Commit::Done);
    let idle = fleet.queue.next_call(fleet.worker, &opened).await.unwrap();
    assert!(matches!(idle, NextCall::Idle), "each call waited once");
    let retired = twice!(proxy, fleet.queue.retire_session(fleet.worker, &opened)).unwrap();
    assert_eq!(retired, SessionNews::Close);
    twice!(proxy, fleet.queue.end_session(fleet.worker, &opened, false)).unwrap();
    redis.assert_nothing_left();
}

#[tokio::test]
async fn the_loss_of_a_session_is_told_even_if_the_answer_is_lost() {
    let redis = Redis::start();
    let (proxy, mut fleet) = fleet(&redis, redis.short_lease()).await;
    let opened = fleet.open("s").await;
    outlive_lease().await;
    let told = twice!(proxy, fleet.call("s", &execute())).unwrap_err();
    assert_eq!(told.code(), ErrorCode::SessionLost);

    let again = fleet.open("s").await;
    assert_ne!(again, opened);
    twice!(proxy, fleet.queue.end_session(fleet.worker, &again, true)).unwrap();
    let told = twice!(proxy, fleet.call("s", &execute())).unwrap_err();
    assert_eq!(told.code(), ErrorCode::SessionLost);
    let waiting = fleet.call("s", &execute()).await.unwrap();
    let (tenant, id) = (fleet.tenant.clone(), SessionId::new("s").unwrap());
    assert!(twice!(proxy, fleet.queue.close_session(&tenant, &id)).unwrap());
    assert_eq!(fleet.failure(waiting).await.code, ErrorCode::Cancelled);
    redis.assert_nothing_left();
}
