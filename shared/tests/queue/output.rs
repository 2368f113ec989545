//! Output on its way: numbered, published, kept for those who missed it, and never shown twice.

use bytes::Bytes;
use shared::error::ErrorCode;
use shared::execution::{Event, EventKind, Phase, Stream};
use shared::redis::{Commit, GiveBack, Publication, Reply};

use crate::harness::{Fleet, Redis, ending, execute, failure, outlive_lease};

fn piece(number: u64) -> (Phase, EventKind) {
    // Bytes that no text protocol survives by luck.
    let data = Bytes::from(format!("~{number} \r\n\0\u{e9}"));
    (Phase::Code, EventKind::Output { stream: Stream::Stdout, offset: number * 9, data })
}

fn event(number: u64) -> Event {
    let (phase, kind) = piece(number);
    Event { number, phase, kind }
}

async fn expect_event(fleet: &mut Fleet, id: shared::id::JobId, expected: Event) {
    match fleet.reply().await {
        Reply::Output { job, event } => assert_eq!((job, event), (id, expected)),
        other => panic!("{other:?}"),
    }
}

async fn publish(fleet: &Fleet, to: &Publication, first: u64, count: u64) -> bool {
    let events: Vec<_> = (first..first + count).map(piece).collect();
    fleet.queue.publish(to, first, &events).await.unwrap()
}

#[tokio::test]
async fn output_is_heard_and_can_be_read_again() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = fleet.enqueue().await;
    let claimed = fleet.claim_one().await;
    let to = fleet.queue.publication(fleet.worker, &claimed.lease, 1000);
    assert!(publish(&fleet, &to, 0, 3).await);
    assert!(publish(&fleet, &to, 3, 1).await);
    let events = [(Phase::Setup, EventKind::SetupEnded)];
    assert!(fleet.queue.publish(&to, 4, &events).await.unwrap());
    for number in 0..4 {
        expect_event(&mut fleet, id, event(number)).await;
    }
    let last = Event { number: 4, phase: Phase::Setup, kind: EventKind::SetupEnded };
    expect_event(&mut fleet, id, last.clone()).await;
    fleet.finish(&claimed, "done").await;
    fleet.expect_reply(id, &ending("done")).await;

    let all = fleet.queue.events(&fleet.tenant, id, 0).await.unwrap();
    assert_eq!(all, [event(0), event(1), event(2), event(3), last.clone()]);
    assert_eq!(fleet.queue.events(&fleet.tenant, id, 4).await.unwrap(), [last]);
    assert!(fleet.queue.events(&fleet.tenant, id, 5).await.unwrap().is_empty());
    assert!(!publish(&fleet, &to, 5, 1).await, "it has ended");
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_repeated_publication_is_stored_and_heard_once() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = fleet.enqueue().await;
    let claimed = fleet.claim_one().await;
    let to = fleet.queue.publication(fleet.worker, &claimed.lease, 1000);
    assert!(publish(&fleet, &to, 0, 2).await);
    assert!(publish(&fleet, &to, 0, 2).await);
    assert!(publish(&fleet, &to, 1, 3).await);
    for number in 0..4 {
        expect_event(&mut fleet, id, event(number)).await;
    }
    fleet.finish(&claimed, "done").await;
    fleet.expect_reply(id, &ending("done")).await;
    let stored = fleet.queue.events(&fleet.tenant, id, 0).await.unwrap();
    assert_eq!(stored, [event(0), event(1), event(2), event(3)]);
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_stale_attempt_publishes_nothing() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    let id = fleet.enqueue().await;
    let late = fleet.claim_one().await;
    outlive_lease().await;
    let (other, mut second) = fleet.second_worker().await;
    let taken = fleet.queue.reclaim(&mut second, 1).await.unwrap().remove(0);
    let stale = fleet.queue.publication(fleet.worker, &late.lease, 1000);
    assert!(!publish(&fleet, &stale, 0, 1).await);
    let to = fleet.queue.publication(other, &taken.lease, 1000);
    assert!(publish(&fleet, &to, 0, 1).await);
    expect_event(&mut fleet, id, event(0)).await;
    let done = fleet.queue.finish(other, &taken.lease, &ending("done")).await.unwrap();
    assert_eq!(done, Commit::Done);
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_job_whose_output_was_shown_is_not_started_again() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.short_lease()).await;
    let died = fleet.enqueue().await;
    let claimed = fleet.claim_one().await;
    let to = fleet.queue.publication(fleet.worker, &claimed.lease, 1000);
    assert!(publish(&fleet, &to, 0, 1).await);
    outlive_lease().await;
    let (_, mut second) = fleet.second_worker().await;
    assert!(fleet.queue.reclaim(&mut second, 1).await.unwrap().is_empty());
    assert_eq!(fleet.failure(died).await.code, ErrorCode::WorkerLost);

    for why in [GiveBack::Shutdown, GiveBack::Failed(failure("broken"))] {
        let id = fleet.enqueue().await;
        let claimed = fleet.claim_one().await;
        let to = fleet.queue.publication(fleet.worker, &claimed.lease, 1000);
        assert!(publish(&fleet, &to, 0, 1).await);
        let code = match &why {
            GiveBack::Shutdown | GiveBack::NoRoom => ErrorCode::WorkerLost,
            GiveBack::Failed(cause) => cause.code,
        };
        let given = fleet.queue.give_back(fleet.worker, &claimed.lease, why).await.unwrap();
        assert_eq!(given, Commit::Done);
        assert_eq!(fleet.failure(id).await.code, code);
    }
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_sessions_calls_publish_too() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let opened = fleet.open("s").await;
    let id = fleet.call("s", &execute()).await.unwrap();
    let to = fleet.queue.call_publication(fleet.worker, &opened, id, 1000);
    assert!(!publish(&fleet, &to, 0, 1).await, "it does not run yet");
    fleet.next_call(&opened).await;
    assert!(publish(&fleet, &to, 0, 1).await);
    expect_event(&mut fleet, id, event(0)).await;
    assert_eq!(fleet.finish_call(&opened, id, "done").await, Commit::Done);
    assert!(!publish(&fleet, &to, 1, 1).await);
    fleet.queue.end_session(fleet.worker, &opened, false).await.unwrap();
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_talkative_job_keeps_its_latest_output() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = fleet.enqueue().await;
    let claimed = fleet.claim_one().await;
    let to = fleet.queue.publication(fleet.worker, &claimed.lease, 1000);
    for first in (0..20_000).step_by(500) {
        assert!(publish(&fleet, &to, first, 500).await);
    }
    let kept: u64 = redis.run(&["XLEN", &format!("v1:{{s0}}:out:{id}")]);
    assert!((16_384..17_000).contains(&kept), "{kept}");
    let late = fleet.queue.events(&fleet.tenant, id, 0).await.unwrap();
    assert!(late[0].number > 0, "the gap shows in the numbers");
    let mut next = late[0].number;
    loop {
        let events = fleet.queue.events(&fleet.tenant, id, next).await.unwrap();
        if events.is_empty() {
            break;
        }
        for read in events {
            assert_eq!(read, event(next));
            next += 1;
        }
    }
    assert_eq!(next, 20_000);
    fleet.finish(&claimed, "done").await;
    redis.assert_nothing_left();
}

#[tokio::test]
async fn output_is_kept_as_long_as_the_result_and_shown_to_its_tenant_alone() {
    let redis = Redis::start();
    // Both tenants are in the one shard.
    let config = shared::config::Redis { shards: 1, ..redis.config() };
    let mut fleet = Fleet::new(&config).await;
    let id = fleet.enqueue().await;
    let claimed = fleet.claim_one().await;
    let to = fleet.queue.publication(fleet.worker, &claimed.lease, 3_600_000);
    assert!(publish(&fleet, &to, 0, 1).await);
    let ttl_ms = || redis.run::<u64>(&["PTTL", &format!("v1:{{s0}}:out:{id}")]);
    assert!(ttl_ms() > config.result_ttl_ms);
    fleet.finish(&claimed, "done").await;
    assert!((1..=config.result_ttl_ms).contains(&ttl_ms()));

    let stranger = shared::id::TenantId::new("stranger");
    assert!(fleet.queue.events(&stranger, id, 0).await.unwrap().is_empty());
    assert_eq!(fleet.queue.events(&fleet.tenant, id, 0).await.unwrap(), [event(0)]);
    redis.assert_nothing_left();
}
