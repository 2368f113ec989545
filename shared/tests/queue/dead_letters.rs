//! Jobs that were given up: kept with payload and evidence, driven again, or forgotten.

use bytes::Bytes;
use shared::config;
use shared::error::ErrorCode;
use shared::execution::{EventKind, Limits, Phase, Stream, Terms};
use shared::id::{JobId, TenantId, WorkerId};
use shared::redis::{Claimed, Commit, GiveBack, JobState, Listing, Once, Quota, Submission};

use crate::harness::{Fleet, Redis, failure, job, outlive_lease};

async fn submit(fleet: &Fleet, once: Option<&Once>) -> JobId {
    let terms = Terms { retention_ms: 60_000, ..Terms::default() };
    let (id, quota) = (JobId::generate(), Quota::default());
    let submission = Submission { tenant: &fleet.tenant, id, reply_to: None, quota };
    fleet.queue.submit(submission, Listing { terms: &terms, once }, &job()).await.unwrap();
    id
}

/// Names of the tenant's dead letters.
async fn dead(fleet: &Fleet) -> Vec<JobId> {
    let page = fleet.queue.dead_letters(&fleet.tenant, None, 10).await.unwrap();
    page.jobs.iter().map(|job| job.id).collect()
}

async fn fail(fleet: &mut Fleet, id: JobId) {
    let claimed = fleet.claim_one().await;
    assert_eq!(claimed.lease.job, id);
    let why = GiveBack::Failed(failure("no sandbox"));
    let back = fleet.queue.give_back(fleet.worker, &claimed.lease, why).await.unwrap();
    assert_eq!(back, Commit::Done);
}

#[tokio::test]
async fn a_job_whose_workers_die_is_quarantined_with_the_evidence() {
    let redis = Redis::start();
    let config = config::Redis { max_deliveries: 2, ..redis.short_lease() };
    let mut fleet = Fleet::new(&config).await;
    let id = submit(&fleet, None).await;
    fleet.claim_one().await;
    outlive_lease().await;
    let (thief, mut consumer) = fleet.second_worker().await;
    assert_eq!(fleet.queue.reclaim(&mut consumer, 1).await.unwrap().len(), 1);
    outlive_lease().await;
    assert!(fleet.queue.reclaim(&mut fleet.consumer, 1).await.unwrap().is_empty());

    assert_eq!(fleet.failure(id).await.code, ErrorCode::WorkerLost);
    assert_eq!(dead(&fleet).await, [id]);
    let record = fleet.queue.job(&fleet.tenant, id).await.unwrap().unwrap();
    assert!(record.is_dead && record.keep_ms > Some(60_000));
    let attempts = fleet.queue.attempts(&fleet.tenant, id).await.unwrap();
    let workers: Vec<&str> = attempts.iter().map(|it| it.worker.as_str()).collect();
    assert_eq!(workers, [fleet.worker.to_string(), thief.to_string()]);
    assert!(attempts.iter().all(|it| it.outcome == "worker_lost"));
    let stranger = TenantId::new("stranger");
    assert!(fleet.queue.dead_letters(&stranger, None, 10).await.unwrap().jobs.is_empty());
    for refused in [
        fleet.queue.dead_job(&stranger, id).await.map(drop),
        fleet.queue.forget(&stranger, id).await,
    ] {
        assert_eq!(refused.unwrap_err().code(), ErrorCode::NotFound);
    }
}

/// Publishes a piece for each of these.
async fn write(fleet: &Fleet, worker: WorkerId, claimed: &Claimed, pieces: &[(Stream, String)]) {
    let publication = fleet.queue.publication_from(worker, claimed, 60_000);
    let piece = |(stream, text): &(Stream, String)| {
        let data = Bytes::from(text.clone());
        (Phase::Code, EventKind::Output { stream: *stream, offset: 0, data })
    };
    let mut events: Vec<_> = pieces.iter().map(piece).collect();
    if claimed.first_event > 0 {
        events.insert(0, (Phase::Setup, EventKind::Restarted));
    }
    assert!(fleet.queue.publish(&publication, publication.first(), &events).await.unwrap());
}

#[tokio::test]
async fn the_evidence_of_an_attempt_whose_worker_died_has_what_it_wrote_last() {
    let redis = Redis::start();
    let config = config::Redis { max_deliveries: 4, ..redis.short_lease() };
    let mut fleet = Fleet::new(&config).await;
    let id = submit(&fleet, None).await;
    let (thief, mut consumer) = fleet.second_worker().await;
    let line = |number: usize| (Stream::Stdout, format!("line {number} \u{e9}\n"));
    let first = fleet.claim_one().await;
    let written = [line(1), (Stream::Stderr, "trouble\n".to_owned()), line(2)];
    write(&fleet, fleet.worker, &first, &written).await;
    outlive_lease().await;
    // Writes more than is kept as evidence, in many pieces.
    let second = fleet.queue.reclaim(&mut consumer, 1).await.unwrap().remove(0);
    let many: Vec<_> = (0..300).map(line).collect();
    write(&fleet, thief, &second, &many).await;
    outlive_lease().await;
    // Writes nothing.
    fleet.queue.reclaim(&mut fleet.consumer, 1).await.unwrap().remove(0);
    outlive_lease().await;
    let fourth = fleet.queue.reclaim(&mut consumer, 1).await.unwrap().remove(0);
    write(&fleet, thief, &fourth, &[(Stream::Stderr, "the last\n".to_owned())]).await;
    outlive_lease().await;
    assert!(fleet.queue.reclaim(&mut fleet.consumer, 1).await.unwrap().is_empty());

    let attempts = fleet.queue.attempts(&fleet.tenant, id).await.unwrap();
    assert!(attempts.iter().all(|it| it.outcome == "worker_lost"));
    let of =
        |attempt: usize| (attempts[attempt].stdout.as_str(), attempts[attempt].stderr.as_str());
    assert_eq!(of(0), ("line 1 \u{e9}\nline 2 \u{e9}\n", "trouble\n"));
    let whole: String = many.iter().map(|(_, text)| text.as_str()).collect();
    let (stdout, stderr) = of(1);
    assert!(whole.ends_with(stdout) && (2040..=2048).contains(&stdout.len()), "{stdout}");
    assert_eq!(stderr, "");
    assert_eq!([of(2), of(3)], [("", ""), ("", "the last\n")]);
}

#[tokio::test]
async fn a_dead_letter_is_driven_again_once_with_other_limits() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&config::Redis { max_deliveries: 1, ..redis.config() }).await;
    let once = Once::new(b"key", b"body");
    let id = submit(&fleet, Some(&once)).await;
    fail(&mut fleet, id).await;
    let (mut job, terms) = fleet.queue.dead_job(&fleet.tenant, id).await.unwrap();
    job.limits = Limits { memory_bytes: 1 << 30, ..job.limits };
    let submission = |quota| Submission { tenant: &fleet.tenant, id, reply_to: None, quota };
    // It counts as any other job of its tenant: where no further one may be, it stays what it is.
    for (quota, code) in [
        (Quota { max_open: 0, ..Quota::default() }, ErrorCode::TooManyJobs),
        (Quota { max_open_bytes: 10, ..Quota::default() }, ErrorCode::TooManyJobs),
    ] {
        let refused = fleet.queue.redrive(submission(quota), &job, &terms).await.unwrap_err();
        assert_eq!(refused.code(), code);
        assert!(refused.retry_after().is_some());
        assert_eq!(dead(&fleet).await, [id]);
    }
    let redrive = || fleet.queue.redrive(submission(Quota::default()), &job, &terms);
    redrive().await.unwrap();
    let again = redrive().await.unwrap_err();
    assert_eq!(again.code(), ErrorCode::NotFound, "it is alive");
    assert!(dead(&fleet).await.is_empty());
    assert!(matches!(fleet.state(id).await, JobState::Queued));

    let claimed = fleet.claim_one().await;
    assert_eq!((claimed.lease.job, claimed.attempt), (id, 1));
    assert_eq!(claimed.job.limits.memory_bytes, 1 << 30);
    fleet.finish(&claimed, "done").await;
    let record = fleet.queue.job(&fleet.tenant, id).await.unwrap().unwrap();
    assert!(!record.is_dead && record.keep_ms == Some(60_000));
    assert_eq!(fleet.queue.attempts(&fleet.tenant, id).await.unwrap().len(), 1, "what was, stays");
    let payload: u64 = redis.run(&["HEXISTS", &format!("v1:{{s0}}:job:{id}"), "payload"]);
    assert_eq!(payload, 0, "secrets do not outlive the job");
    assert!(fleet.claim(1).await.is_empty());
}

#[tokio::test]
async fn a_forgotten_dead_letter_leaves_nothing() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&config::Redis { max_deliveries: 1, ..redis.config() }).await;
    let permanent = redis.keys();
    let id = submit(&fleet, Some(&Once::new(b"key", b"body"))).await;
    fail(&mut fleet, id).await;
    fleet.queue.forget(&fleet.tenant, id).await.unwrap();
    let counts = ["v1:{s0}:usage", "v1:{s0}:tenants"];
    let left = redis.keys().into_iter().filter(|key| !counts.contains(&key.as_str()));
    let left: Vec<String> = left.collect();
    assert_eq!(left, permanent);
}

#[tokio::test]
async fn neither_cancelled_jobs_nor_those_nobody_listed_become_dead_letters() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&config::Redis { max_deliveries: 1, ..redis.config() }).await;
    let plain = fleet.enqueue().await;
    fail(&mut fleet, plain).await;
    let id = submit(&fleet, None).await;
    let claimed = fleet.claim_one().await;
    fleet.queue.cancel(&fleet.tenant, id).await.unwrap();
    let why = GiveBack::Failed(failure("no sandbox"));
    let back = fleet.queue.give_back(fleet.worker, &claimed.lease, why).await.unwrap();
    assert_eq!(back, Commit::Done);
    assert!(dead(&fleet).await.is_empty());
    for id in [plain, id] {
        let payload: u64 = redis.run(&["HEXISTS", &format!("v1:{{s0}}:job:{id}"), "payload"]);
        assert_eq!(payload, 0);
    }
    for (id, noted) in [(plain, 0), (id, 1)] {
        let found: u64 = redis.run(&["EXISTS", &format!("v1:{{s0}}:attempts:{id}")]);
        assert_eq!(found, noted, "attempts are kept of listed jobs alone");
    }
}

#[tokio::test]
async fn a_job_that_no_worker_can_read_becomes_a_dead_letter() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = submit(&fleet, None).await;
    let record = format!("v1:{{s0}}:job:{id}");
    let payload: String = redis.run(&["HGET", &record, "payload"]);
    let _: i64 = redis.run(&["HSET", &record, "payload", r#"{"of":"another version"}"#]);
    fleet.pass_on_unread().await;

    assert_eq!(fleet.failure(id).await.code, ErrorCode::NoWorker);
    assert_eq!(dead(&fleet).await, [id]);
    let attempts = fleet.queue.attempts(&fleet.tenant, id).await.unwrap();
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0].worker, fleet.worker.to_string());
    assert_eq!(attempts[0].code, Some(ErrorCode::NoWorker));
    let unread = fleet.queue.dead_job(&fleet.tenant, id).await.unwrap_err();
    assert!(unread.message().contains("Upgrade"), "{unread}");

    // Who can read it can have it run.
    let _: i64 = redis.run(&["HSET", &record, "payload", &payload]);
    let (job, terms) = fleet.queue.dead_job(&fleet.tenant, id).await.unwrap();
    let quota = Quota::default();
    let submission = Submission { tenant: &fleet.tenant, id, reply_to: None, quota };
    fleet.queue.redrive(submission, &job, &terms).await.unwrap();
    assert_eq!(fleet.claim_one().await.lease.job, id);
}
