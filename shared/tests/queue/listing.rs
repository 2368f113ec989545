//! Jobs that outlive their request: idempotency keys, lists, retention, and who hears of their end.

use futures_util::future::join_all;
use shared::config;
use shared::error::{Error, ErrorCode};
use shared::execution::Terms;
use shared::id::{GatewayId, JobId, SessionId, TenantId};
use shared::labels::Labels;
use shared::redis::{
    Accepted, Cancelled, Commit, JobFilter, JobState, Listing, Once, Quota, Reply, Submission,
    ToSession,
};

use crate::harness::{Fleet, Redis, SECRET, ending, execute, job};

const KEPT_MS: u64 = 60_000;

async fn submit_as(fleet: &Fleet, terms: &Terms, once: Option<&Once>) -> Result<Accepted, Error> {
    let (id, quota) = (JobId::generate(), Quota::default());
    let submission = Submission { tenant: &fleet.tenant, id, reply_to: None, quota };
    fleet.queue.submit(submission, Listing { terms, once }, &job()).await
}

async fn submit(fleet: &Fleet, tags: &[&str]) -> JobId {
    let tags = tags.iter().map(|&tag| tag.to_owned()).collect();
    let terms = Terms { tags, retention_ms: KEPT_MS, ..Terms::default() };
    submit_as(fleet, &terms, None).await.unwrap().id
}

async fn names(fleet: &Fleet, filter: JobFilter) -> Vec<JobId> {
    let page = fleet.queue.jobs(&fleet.tenant, &filter, None, 100).await.unwrap();
    assert_eq!(page.next, None);
    page.jobs.iter().map(|job| job.id).collect()
}

#[tokio::test]
async fn a_key_stands_for_one_job_however_often_it_comes_at_once() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let terms = Terms { retention_ms: KEPT_MS, ..Terms::default() };
    let once = Once::new(b"key", b"body");
    let all = join_all((0..20).map(|_| submit_as(&fleet, &terms, Some(&once)))).await;
    let all: Vec<Accepted> = all.into_iter().map(Result::unwrap).collect();
    assert_eq!(all.iter().filter(|it| !it.is_repeated).count(), 1);
    assert!(all.iter().all(|it| it.id == all[0].id));

    let other = submit_as(&fleet, &terms, Some(&Once::new(b"key", b"other"))).await.unwrap_err();
    assert_eq!(other.code(), ErrorCode::IdempotencyMismatch);
    let stranger = TenantId::new("stranger");
    let submission = Submission {
        tenant: &stranger,
        id: JobId::generate(),
        reply_to: None,
        quota: Quota::default(),
    };
    let listing = Listing { terms: &terms, once: Some(&once) };
    let theirs = fleet.queue.submit(submission, listing, &job()).await.unwrap();
    assert!(!theirs.is_repeated, "keys of two tenants are two keys");

    for claimed in fleet.claim(10).await {
        fleet.finish(&claimed, "done").await;
    }
    let after = submit_as(&fleet, &terms, Some(&once)).await.unwrap();
    assert_eq!(after, Accepted { id: all[0].id, is_repeated: true });
    let left_ms: i64 = redis.run(&["PTTL", &key_of(&redis, "once:acme")]);
    assert!((1..=60_000).contains(&left_ms), "the key is kept as long as the result: {left_ms}");
}

fn key_of(redis: &Redis, part: &str) -> String {
    redis.keys().into_iter().find(|key| key.contains(part)).unwrap()
}

#[tokio::test]
async fn a_key_is_free_again_when_its_job_is_forgotten() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let permanent = redis.keys();
    let terms = Terms { retention_ms: 50, ..Terms::default() };
    let once = Once::new(b"key", b"body");
    let first = submit_as(&fleet, &terms, Some(&once)).await.unwrap();
    let claimed = fleet.claim_one().await;
    fleet.finish(&claimed, "done").await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    fleet.queue.housekeep(None).await.unwrap();
    let counts = ["v1:{s0}:usage", "v1:{s0}:tenants"];
    let left = redis.keys().into_iter().filter(|key| !counts.contains(&key.as_str()));
    let left: Vec<String> = left.collect();
    assert_eq!(left, permanent, "a forgotten job leaves nothing behind");
    let open: Vec<u64> = redis.run(&["HMGET", "v1:{s0}:usage", "jobs", "bytes"]);
    assert_eq!(open, [0, 0]);
    let second = submit_as(&fleet, &terms, Some(&once)).await.unwrap();
    assert!(!second.is_repeated && second.id != first.id);
}

#[tokio::test]
async fn a_list_is_filtered_paged_and_its_tenants_own() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let first = submit(&fleet, &["a"]).await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let between = JobId::generate().generated_ms();
    let second = submit(&fleet, &["a", "b"]).await;
    let third = submit(&fleet, &[]).await;
    let claimed = fleet.claim(2).await;
    assert_eq!(claimed[0].lease.job, first);
    fleet.finish(&claimed[0], "done").await;

    let state = |state: &str| JobFilter { state: Some(state.into()), ..JobFilter::default() };
    assert_eq!(names(&fleet, JobFilter::default()).await, [third, second, first]);
    assert_eq!(names(&fleet, state("queued")).await, [third]);
    assert_eq!(names(&fleet, state("running")).await, [second]);
    assert_eq!(names(&fleet, state("finished")).await, [first]);
    let tag = JobFilter { tag: Some("a".into()), ..JobFilter::default() };
    assert_eq!(names(&fleet, tag).await, [second, first]);
    let since = JobFilter { since_ms: Some(between), ..JobFilter::default() };
    assert_eq!(names(&fleet, since).await, [third, second]);
    let before = JobFilter { before_ms: Some(between), ..JobFilter::default() };
    assert_eq!(names(&fleet, before).await, [first]);

    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let filter = JobFilter::default();
        let page = fleet.queue.jobs(&fleet.tenant, &filter, cursor, 1).await.unwrap();
        seen.extend(page.jobs.iter().map(|job| job.id));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, [third, second, first]);
    let stranger = TenantId::new("stranger");
    let page = fleet.queue.jobs(&stranger, &JobFilter::default(), None, 10).await.unwrap();
    assert!(page.jobs.is_empty());
    assert!(fleet.queue.job(&stranger, first).await.unwrap().is_none());
}

#[tokio::test]
async fn a_record_says_when_how_often_and_how() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = submit(&fleet, &["x"]).await;
    let queued = fleet.queue.job(&fleet.tenant, id).await.unwrap().unwrap();
    assert!(matches!(queued.state, JobState::Queued));
    assert_eq!((queued.attempts, queued.started_ms, queued.finished_ms), (0, None, None));
    let claimed = fleet.claim_one().await;
    fleet.finish(&claimed, "broken").await;
    let done = fleet.queue.job(&fleet.tenant, id).await.unwrap().unwrap();
    let JobState::Finished(text) = &done.state else { panic!("{done:?}") };
    assert_eq!(text.get(), serde_json::to_string(&ending("broken")).unwrap());
    assert_eq!(done.attempts, 1);
    assert_eq!(done.worker, Some(fleet.worker.to_string()));
    let times = [Some(done.submitted_ms), done.started_ms, done.finished_ms];
    assert!(times.is_sorted() && times[0] > Some(0), "{times:?}");
    assert_eq!(done.summary.unwrap().code, Some(ErrorCode::SandboxFailed));
    let record = format!("v1:{{s0}}:job:{id}");
    assert!(!redis.run::<Vec<String>>(&["HGETALL", &record]).join("\n").contains(SECRET));

    let cancelled = submit(&fleet, &[]).await;
    assert_eq!(fleet.queue.cancel(&fleet.tenant, cancelled).await.unwrap(), Cancelled::Now);
    let page = fleet.queue.jobs(&fleet.tenant, &JobFilter::default(), None, 1).await.unwrap();
    assert_eq!(page.jobs[0].summary.as_ref().unwrap().outcome, "cancelled");
}

#[tokio::test]
async fn every_gateway_that_follows_a_job_hears_of_its_end() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let second = GatewayId::generate();
    let mut others = fleet.queue.replies(second).await.unwrap();
    let id = submit(&fleet, &[]).await;
    // Gateways of former lives, more than are remembered.
    for _ in 0..40 {
        fleet.queue.follow(&fleet.tenant, id, GatewayId::generate()).await.unwrap();
    }
    for gateway in [fleet.gateway, second, second] {
        let state = fleet.queue.follow(&fleet.tenant, id, gateway).await.unwrap();
        assert!(matches!(state, JobState::Queued));
    }
    let stranger = fleet.queue.follow(&TenantId::new("stranger"), id, second).await.unwrap();
    assert!(matches!(stranger, JobState::Unknown));
    let claimed = fleet.claim_one().await;
    fleet.finish(&claimed, "done").await;
    fleet.expect_reply(id, &ending("done")).await;
    assert!(matches!(others.next().await, Reply::Finished { job, .. } if job == id));
    let late = fleet.queue.follow(&fleet.tenant, id, second).await.unwrap();
    assert!(matches!(late, JobState::Finished(_)));
}

#[tokio::test]
async fn a_sessions_call_can_be_listed_too() {
    let redis = Redis::start();
    let config = config::Redis { result_ttl_ms: 1000, ..redis.config() };
    let mut fleet = Fleet::new(&config).await;
    let session = fleet.open("s").await;
    let name = SessionId::new("s").unwrap();
    let terms = Terms { tags: vec!["s".into()], retention_ms: KEPT_MS, ..Terms::default() };
    let once = Once::new(b"key", b"body");
    let mut accepted = Vec::new();
    for _ in 0..2 {
        let (id, quota) = (JobId::generate(), Quota::default());
        let submission = Submission { tenant: &fleet.tenant, id, reply_to: None, quota };
        let to = ToSession { id: &name, may_open: true, max_sessions: 2, labels: Labels::none() };
        let listing = Listing { terms: &terms, once: Some(&once) };
        accepted.push(fleet.queue.submit_call(submission, to, listing, &execute()).await.unwrap());
    }
    assert_eq!(accepted[1], Accepted { id: accepted[0].id, is_repeated: true });
    let call = fleet.next_call(&session).await;
    assert_eq!(fleet.finish_call(&session, call.id, "done").await, Commit::Done);
    let found = fleet.queue.job(&fleet.tenant, call.id).await.unwrap().unwrap();
    assert_eq!((found.id, found.session.as_deref()), (accepted[0].id, Some("s")));
    assert_eq!(found.terms.unwrap().tags, ["s"]);
    let left_ms: i64 = redis.run(&["PTTL", &format!("v1:{{s0}}:job:{}", call.id)]);
    assert!(left_ms > 1000, "{left_ms}");
}
