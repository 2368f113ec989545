//! Secrets at rest: nowhere in Redis in the clear, of no use in another place or with another key, and gone
//! with the job.

use shared::config;
use shared::error::ErrorCode;
use shared::execution::{
    BoundSecret, Call, Egress, Job, Missed, Overlap, Priority, Terms, Timetable,
};
use shared::id::{BatchId, JobId, ScheduleId, TenantId};
use shared::redis::{
    BatchCache, BatchLimits, BatchTerms, Commit, DueSchedule, Fired, JobState, Listing, Quota,
    ScheduleFacts, ScheduleOrder, Submission, WorkerFacts,
};
use shared::sealing::{SecretsKeys, is_sealed};
use shared::webhook::Subject;

use crate::batches::{come_due, finish, tend};
use crate::harness::{Fleet, Redis, SECRET, contains, execute, job, submission};
use crate::webhooks::{LONG_MS, claim, webhook};

/// The key of what deliveries are signed with.
const SIGNING: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const BOUND: &str = "sk-bound-to-a-host";

fn keys() -> SecretsKeys {
    SecretsKeys::parse(&SecretsKeys::generate().unwrap()).unwrap()
}

fn with(redis: &Redis, keys: &SecretsKeys) -> config::Redis {
    let secrets_keys = Some(keys.clone());
    config::Redis { secrets_keys, allow_plain_secrets: false, ..redis.config() }
}

/// Secrets of both kinds.
fn secret_job() -> Job {
    let value = BOUND.to_owned();
    let bound = BoundSecret { value, hosts: vec!["api.example".into()], tls: true };
    let secrets = [("KEY".to_owned(), bound)].into();
    Job { egress: Some(Box::new(Egress { secrets, ..Egress::default() })), ..job() }
}

fn plain_job() -> Job {
    Job { secrets: [].into(), ..job() }
}

fn terms() -> Terms {
    Terms { retention_ms: 60_000, webhook: Some(webhook()), ..Terms::default() }
}

async fn submit(fleet: &Fleet, job: &Job) -> JobId {
    let (id, terms, quota) = (JobId::generate(), terms(), Quota::default());
    let submission = Submission { tenant: &fleet.tenant, id, reply_to: None, quota };
    let listing = Listing { terms: &terms, once: None };
    fleet.queue.submit(submission, listing, job).await.unwrap();
    id
}

async fn schedule(fleet: &Fleet, job: &Job) -> DueSchedule {
    let id = ScheduleId::generate();
    let timetable = Timetable {
        cron: Some("0 0 1 1 *".into()),
        at: None,
        timezone: "UTC".into(),
        missed: Missed::All,
        overlap: Overlap::Allow,
    };
    let facts = ScheduleFacts { name: None, runtime: "python".into(), timetable };
    let terms = terms();
    let order = ScheduleOrder {
        id,
        tenant: &fleet.tenant,
        max: 10,
        facts: &facts,
        job,
        terms: &terms,
        is_enabled: true,
    };
    fleet.queue.create_schedule(order).await.unwrap();
    let due_ms = fleet.queue.schedule(&fleet.tenant, id).await.unwrap().next_ms.unwrap();
    // As it is read back: without the webhook.
    let terms = Terms { webhook: None, ..terms };
    DueSchedule { id, tenant: fleet.tenant.clone(), facts, terms, due_ms }
}

async fn upload(fleet: &Fleet, items: &[Job]) -> BatchId {
    let any = (Quota::default(), BatchLimits::default());
    let of_items = Terms { retention_ms: 60_000, priority: Priority::Low, ..Terms::default() };
    let terms = BatchTerms { items: of_items, failure_budget: None, webhook: Some(webhook()) };
    let mut upload = fleet.queue.upload_batch(&fleet.tenant, any.0, any.1, terms).await.unwrap();
    for item in items {
        upload.add(String::new(), item).await.unwrap();
    }
    upload.seal(None).await.unwrap().id
}

fn field(redis: &Redis, job: JobId, field: &str) -> Option<Vec<u8>> {
    redis.run(&["HGET", &format!("v1:{{s0}}:job:{job}"), field])
}

fn assert_nothing_in_the_clear(redis: &Redis, when: &str) {
    for (place, bytes) in [("Redis", redis.contents()), ("file", redis.append_only_file())] {
        for secret in [SECRET, SIGNING, BOUND, "token=hush"] {
            assert!(!contains(&bytes, secret), "{when}: {secret} is in the {place}");
        }
    }
}

/// Claims a job, checks that it is whole, and ends it.
async fn run_one(fleet: &mut Fleet, redis: &Redis) -> JobId {
    let claimed = fleet.claim_one().await;
    assert_eq!(claimed.job, secret_job());
    assert_nothing_in_the_clear(redis, "while it runs");
    finish(fleet, &claimed, 0).await;
    claimed.lease.job
}

#[tokio::test]
async fn no_secret_is_ever_in_redis_in_the_clear_and_what_was_sealed_goes_with_the_job() {
    let redis = Redis::durable();
    let mut fleet = Fleet::new(&with(&redis, &keys())).await;

    let id = JobId::generate();
    let to = submission(&fleet.tenant, id, fleet.gateway);
    fleet.queue.enqueue(to, &secret_job()).await.unwrap();
    assert!(is_sealed(&field(&redis, id, "payload").unwrap()));
    assert_nothing_in_the_clear(&redis, "while it waits");
    assert_eq!(run_one(&mut fleet, &redis).await, id);
    assert_eq!(field(&redis, id, "payload"), None);

    let id = submit(&fleet, &secret_job()).await;
    assert!(is_sealed(&field(&redis, id, "webhook").unwrap()));
    assert_eq!(run_one(&mut fleet, &redis).await, id);
    assert_eq!(field(&redis, id, "payload"), None);
    // Whom to tell is kept until the job is forgotten.
    let told = claim(&fleet, LONG_MS).await;
    assert_eq!((told.len(), &told[0].webhook), (1, &webhook()));
    let deliveries = fleet.queue.deliveries(&fleet.tenant, Subject::Job(id)).await.unwrap();
    assert_eq!(deliveries.unwrap()[0].place, "https://hooks.example/in");

    let due = schedule(&fleet, &secret_job()).await;
    assert_nothing_in_the_clear(&redis, "while a schedule waits");
    let Fired::Submitted(id) = fleet.queue.fire_schedule(&due, Quota::default()).await.unwrap()
    else {
        panic!("it was due");
    };
    assert_eq!(run_one(&mut fleet, &redis).await, id);
    assert_eq!(claim(&fleet, LONG_MS).await[0].webhook, webhook());
    let id = fleet.queue.run_schedule(&fleet.tenant, due.id, Quota::default()).await.unwrap();
    assert_eq!(run_one(&mut fleet, &redis).await, id);
    fleet.queue.remove_schedule(&fleet.tenant, due.id).await.unwrap();

    let opening = fleet.call("s", &Call::Execute { job: secret_job() }).await.unwrap();
    let claimed = fleet.claim_one().await;
    assert_eq!((claimed.lease.job, &claimed.job), (opening, &secret_job()));
    finish(&fleet, &claimed, 0).await;
    let session = claimed.opens.unwrap();
    let id = fleet.call("s", &Call::Execute { job: secret_job() }).await.unwrap();
    assert!(is_sealed(&field(&redis, id, "payload").unwrap()));
    let call = fleet.next_call(&session).await;
    assert_eq!(call.call.job(), Some(&secret_job()));
    assert_nothing_in_the_clear(&redis, "while a session runs it");
    assert_eq!(fleet.finish_call(&session, id, "done").await, Commit::Done);
    assert_eq!(field(&redis, id, "payload"), None);
    assert_nothing_in_the_clear(&redis, "afterwards");
}

#[tokio::test]
async fn a_job_without_secrets_is_stored_as_it_is() {
    let redis = Redis::start();
    let fleet = Fleet::new(&with(&redis, &keys())).await;
    let id = JobId::generate();
    let to = submission(&fleet.tenant, id, fleet.gateway);
    fleet.queue.enqueue(to, &plain_job()).await.unwrap();
    let payload = field(&redis, id, "payload").unwrap();
    assert_eq!(serde_json::from_slice::<Job>(&payload).unwrap(), plain_job());
}

#[tokio::test]
async fn without_a_key_secrets_are_refused_unless_the_operator_wants_them_plain() {
    let redis = Redis::start();
    let config = config::Redis { allow_plain_secrets: false, ..redis.config() };
    let fleet = Fleet::new(&config).await;
    let id = JobId::generate();
    let to = submission(&fleet.tenant, id, fleet.gateway);
    let refused = fleet.queue.enqueue(to, &secret_job()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::NotSupported);
    assert!(refused.message().contains("redis.secretsKeyFile"), "{refused}");
    let terms = terms();
    let listing = Listing { terms: &terms, once: None };
    let to = submission(&fleet.tenant, id, fleet.gateway);
    let refused = fleet.queue.submit(to, listing, &plain_job()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::NotSupported, "a webhook has a secret too");
    assert!(matches!(fleet.state(id).await, JobState::Unknown));
    let to = submission(&fleet.tenant, id, fleet.gateway);
    fleet.queue.enqueue(to, &plain_job()).await.unwrap();
}

#[tokio::test]
async fn a_job_whose_key_no_worker_has_ends_and_can_be_had_again_with_it() {
    let redis = Redis::start();
    let (old, new) = (SecretsKeys::generate().unwrap(), SecretsKeys::generate().unwrap());
    let parse = |text: &str| SecretsKeys::parse(text).unwrap();
    let gateway = Fleet::new(&with(&redis, &parse(&old))).await;
    let id = submit(&gateway, &secret_job()).await;

    let mut worker = Fleet::new(&with(&redis, &parse(&new))).await;
    worker.queue.housekeep(Some((worker.worker, 1))).await.unwrap();
    worker.pass_on_unread().await;
    let failure = worker.failure(id).await;
    assert_eq!(failure.code, ErrorCode::SecretsUnreadable);
    let name = parse(&old).names().next().unwrap();
    assert!(failure.message.contains(&name), "{failure:?}");
    // A dead letter keeps what it would run, and as it was.
    assert!(is_sealed(&field(&redis, id, "payload").unwrap()));
    let unreadable = worker.queue.dead_job(&worker.tenant, id).await.unwrap_err();
    assert_eq!(unreadable.code(), ErrorCode::SecretsUnreadable);

    let mut both = Fleet::new(&with(&redis, &parse(&format!("{new}\n{old}")))).await;
    let (job, terms) = both.queue.dead_job(&both.tenant, id).await.unwrap();
    assert_eq!(job, secret_job());
    let submission =
        Submission { tenant: &both.tenant, id, reply_to: None, quota: Quota::default() };
    both.queue.redrive(submission, &job, &terms).await.unwrap();
    let claimed = worker.claim_one().await;
    assert_eq!((claimed.lease.job, &claimed.job), (id, &secret_job()), "sealed with the new key");
    finish(&worker, &claimed, 0).await;
    drop(both.claim(0).await);
}

#[tokio::test]
async fn a_worker_without_the_key_passes_a_job_on_to_one_that_has_it() {
    let redis = Redis::start();
    let keys = keys();
    let mut able = Fleet::new(&with(&redis, &keys)).await;
    let mut unable = Fleet::new(&redis.config()).await;
    for fleet in [&able, &unable] {
        fleet.queue.housekeep(Some((fleet.worker, 1))).await.unwrap();
    }
    let id = submit(&able, &secret_job()).await;
    unable.pass_on_unread().await;
    assert!(matches!(able.state(id).await, JobState::Queued));
    let claimed = able.claim_one().await;
    assert_eq!((claimed.lease.job, claimed.attempt), (id, 1));
    finish(&able, &claimed, 0).await;
}

#[tokio::test]
async fn a_session_call_that_cannot_be_decrypted_ends_and_the_next_one_runs() {
    let redis = Redis::start();
    let mut owner = Fleet::new(&with(&redis, &keys())).await;
    let session = owner.open("s").await;
    let stranger = Fleet::new(&with(&redis, &keys())).await;
    let id = stranger.call("s", &execute()).await.unwrap();
    let next = owner.call("s", &execute()).await.unwrap();
    assert_eq!(owner.next_call(&session).await.id, next);
    assert_eq!(owner.failure(id).await.code, ErrorCode::SecretsUnreadable);
}

#[tokio::test]
async fn what_was_moved_to_another_job_or_tenant_is_not_opened() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&with(&redis, &keys())).await;
    fleet.queue.housekeep(Some((fleet.worker, 1))).await.unwrap();
    let victim = JobId::generate();
    let to = submission(&fleet.tenant, victim, fleet.gateway);
    fleet.queue.enqueue(to, &secret_job()).await.unwrap();
    let claimed = fleet.claim_one().await;

    let other = TenantId::new("other");
    for (tenant, id) in [(&fleet.tenant.clone(), JobId::generate()), (&other, JobId::generate())] {
        let to = submission(tenant, id, fleet.gateway);
        fleet.queue.enqueue(to, &plain_job()).await.unwrap();
        let record = |job: JobId| format!("v1:{{s0}}:job:{job}");
        let stolen = field(&redis, victim, "payload").unwrap();
        let url = format!("redis+unix://{}", redis.socket().display());
        let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        let mut write = redis::cmd("HSET");
        write.arg(record(id)).arg("payload").arg(stolen);
        write.exec(&mut connection).unwrap();
        fleet.pass_on_unread().await;
        let state = fleet.queue.state(tenant, id).await.unwrap();
        let JobState::Finished(text) = state else { panic!("{state:?}") };
        assert!(text.get().contains("SECRETS_UNREADABLE"), "{text}");
        assert!(text.get().contains("belongs to another job"), "{text}");
    }
    // The record itself given to somebody else.
    let _: u64 = redis.run(&["HSET", &format!("v1:{{s0}}:job:{victim}"), "tenant", "other"]);
    let given =
        fleet.queue.give_back(fleet.worker, &claimed.lease, shared::redis::GiveBack::Shutdown);
    assert_eq!(given.await.unwrap(), Commit::Done);
    fleet.pass_on_unread().await;
    let state = fleet.queue.state(&other, victim).await.unwrap();
    let JobState::Finished(text) = state else { panic!("{state:?}") };
    assert!(text.get().contains("SECRETS_UNREADABLE"), "{text}");
}

#[tokio::test]
async fn items_of_a_batch_are_sealed_from_the_first_secret_on() {
    let redis = Redis::durable();
    let mut fleet = Fleet::new(&with(&redis, &keys())).await;
    let plain = |number: u64| Job { stdin: Some(format!("{number}")), ..plain_job() };
    let secret = |number: u64| Job { stdin: Some(format!("{number}")), ..secret_job() };

    // Nothing secret in the first chunk, so it is as it was; in the second one, there is.
    let mut items: Vec<Job> = (0..512).map(plain).collect();
    items.push(secret(512));
    let id = upload(&fleet, &items).await;
    let chunk = |first: &str| -> Vec<u8> {
        redis.run(&["HGET", &format!("v1:{{s0}}:batch-items:{id}"), first])
    };
    assert!(!is_sealed(&chunk("0")) && is_sealed(&chunk("512")));
    assert_nothing_in_the_clear(&redis, "of a batch");
    fleet.queue.cancel_batch(&fleet.tenant, id).await.unwrap();

    let id = upload(&fleet, &[secret(0), plain(1), secret(2)]).await;
    let base: Vec<u8> = redis.run(&["HGET", &format!("v1:{{s0}}:batch:{id}"), "base"]);
    let chunk: Vec<u8> = redis.run(&["HGET", &format!("v1:{{s0}}:batch-items:{id}"), "0"]);
    assert!(is_sealed(&base) && is_sealed(&chunk));
    tend(&fleet, &mut BatchCache::default()).await;
    assert_nothing_in_the_clear(&redis, "when items have become jobs");
    let mut claimed = fleet.claim(3).await;
    claimed.sort_by_key(|it| it.job.stdin.clone());
    let jobs: Vec<_> = claimed.iter().map(|it| it.job.clone()).collect();
    assert_eq!(jobs, [secret(0), plain(1), secret(2)]);
    for claimed in &claimed {
        finish(&fleet, claimed, 0).await;
    }
    let batch = fleet.queue.batch(&fleet.tenant, id).await.unwrap();
    assert_eq!((batch.state.as_str(), batch.progress.succeeded), ("finished", 3));
    assert_eq!(claim(&fleet, LONG_MS).await.last().unwrap().webhook, webhook());
    assert_nothing_in_the_clear(&redis, "afterwards");
}

#[tokio::test]
async fn a_batch_waits_for_a_worker_with_its_key_and_ends_if_there_is_none() {
    let redis = Redis::start();
    let keys = keys();
    let able = Fleet::new(&with(&redis, &keys)).await;
    let unable = Fleet::new(&redis.config()).await;
    let id = upload(&able, &[secret_job()]).await;
    let introduce = |fleet: &Fleet| WorkerFacts {
        secrets_keys: fleet.queue.secrets_keys(),
        ..WorkerFacts::new(fleet.worker, "w".into(), 1)
    };
    able.queue.housekeep(Some((able.worker, 1))).await.unwrap();
    able.queue.announce(&introduce(&able)).await.unwrap();
    let due = unable.queue.tend_batches().await.unwrap().remove(0);
    let refused = unable.queue.advance_batch(due, &mut BatchCache::default()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::SecretsUnreadable);
    assert_eq!(able.queue.batch(&able.tenant, id).await.unwrap().state, "running");

    // The worker with the key is gone.
    let stranger = WorkerFacts::new(able.worker, "w".into(), 1);
    able.queue.announce(&stranger).await.unwrap();
    come_due(&redis, id);
    unable.queue.advance_batch(due, &mut BatchCache::default()).await.unwrap();
    let batch = able.queue.batch(&able.tenant, id).await.unwrap();
    assert_eq!(batch.outcome.as_deref(), Some("items_lost"));
}

#[tokio::test]
async fn items_in_the_clear_are_not_told_from_a_sealed_base() {
    let redis = Redis::start();
    let fleet = Fleet::new(&with(&redis, &keys())).await;
    let sealed = upload(&fleet, &[secret_job()]).await;
    let plain = upload(&fleet, &[plain_job()]).await;
    let chunk: Vec<u8> = redis.run(&["HGET", &format!("v1:{{s0}}:batch-items:{plain}"), "0"]);
    let url = format!("redis+unix://{}", redis.socket().display());
    let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
    let mut write = redis::cmd("HSET");
    write.arg(format!("v1:{{s0}}:batch-items:{sealed}")).arg("0").arg(chunk);
    write.exec(&mut connection).unwrap();
    tend(&fleet, &mut BatchCache::default()).await;
    let batch = fleet.queue.batch(&fleet.tenant, sealed).await.unwrap();
    assert_eq!(batch.outcome.as_deref(), Some("items_lost"));
}
