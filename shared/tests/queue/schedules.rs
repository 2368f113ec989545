//! Schedules: due, run once by whoever is first, moved on in the same step, and what comes of runs that
//! cannot be.

use chrono::{DateTime, Datelike as _, Utc};
use shared::error::ErrorCode;
use shared::execution::{Missed, Overlap, Terms, Timetable};
use shared::id::{JobId, ScheduleId, TenantId};
use shared::redis::{
    Cancelled, DueSchedule, Fired, JobFilter, JobState, Quota, ScheduleFacts, ScheduleOrder,
    ScheduleRun, WorkerOrder,
};
use tokio::task::JoinSet;

use crate::harness::{Fleet, Redis, SOON, job};

const RETENTION_MS: u64 = 60_000;

fn facts(timetable: Timetable) -> ScheduleFacts {
    ScheduleFacts { name: Some("nightly".into()), runtime: "python".into(), timetable }
}

/// Once a year; tests have it run when they want to.
fn yearly() -> Timetable {
    Timetable {
        cron: Some("0 0 1 1 *".into()),
        at: None,
        timezone: "Europe/Berlin".into(),
        missed: Missed::All,
        overlap: Overlap::Allow,
    }
}

fn now_ms() -> u64 {
    u64::try_from(Utc::now().timestamp_millis()).unwrap()
}

async fn create(fleet: &Fleet, timetable: Timetable) -> ScheduleId {
    create_within(fleet, &fleet.tenant, timetable, 100).await.unwrap()
}

async fn create_within(
    fleet: &Fleet,
    tenant: &TenantId,
    timetable: Timetable,
    max: u64,
) -> Result<ScheduleId, shared::Error> {
    let id = ScheduleId::generate();
    let terms = Terms { retention_ms: RETENTION_MS, tags: vec!["t".into()], ..Terms::default() };
    let (facts, job) = (facts(timetable), job());
    let order = ScheduleOrder {
        id,
        tenant,
        max,
        facts: &facts,
        job: &job,
        terms: &terms,
        is_enabled: true,
    };
    fleet.queue.create_schedule(order).await.map(|()| id)
}

/// Moves the next run of a schedule to a moment, as if it had been due then all along.
fn due_at(redis: &Redis, id: ScheduleId, ms: u64) {
    let (id, ms) = (id.to_string(), ms.to_string());
    let _: u64 = redis.run(&["HSET", &format!("v1:{{s0}}:schedule:{id}"), "next_ms", &ms]);
    let _: u64 = redis.run(&["ZADD", "v1:{s0}:scheduled", &ms, &id]);
}

async fn due_one(fleet: &Fleet) -> DueSchedule {
    let mut due = fleet.queue.due_schedules().await.unwrap();
    assert_eq!(due.len(), 1);
    due.remove(0)
}

async fn fire(fleet: &Fleet, due: &DueSchedule) -> Fired {
    fleet.queue.fire_schedule(due, Quota::default()).await.unwrap()
}

async fn runs(fleet: &Fleet, id: ScheduleId) -> Vec<ScheduleRun> {
    fleet.queue.schedule(&fleet.tenant, id).await.unwrap().runs
}

async fn jobs(fleet: &Fleet) -> Vec<JobId> {
    let page = fleet.queue.jobs(&fleet.tenant, &JobFilter::default(), None, 100).await.unwrap();
    page.jobs.iter().map(|job| job.id).collect()
}

#[tokio::test]
async fn of_many_workers_that_see_a_run_due_one_submits_it() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let id = create(&fleet, yearly()).await;
    assert!(!fleet.queue.housekeep(None).await.unwrap().schedules);
    assert!(fleet.queue.due_schedules().await.unwrap().is_empty());
    let due_ms = now_ms() - 1000;
    due_at(&redis, id, due_ms);
    assert!(fleet.queue.housekeep(None).await.unwrap().schedules);

    let due = due_one(&fleet).await;
    assert_eq!((due.id, &due.tenant, due.due_ms), (id, &fleet.tenant, due_ms));
    let mut workers = JoinSet::new();
    for _ in 0..16 {
        let (queue, due) = (fleet.queue.clone(), due.clone());
        workers.spawn(async move { queue.fire_schedule(&due, Quota::default()).await.unwrap() });
    }
    let outcomes = workers.join_all().await;
    let submitted: Vec<JobId> = outcomes
        .iter()
        .filter_map(|it| match it {
            Fired::Submitted(job) => Some(*job),
            other => {
                assert_eq!(*other, Fired::Moved);
                None
            }
        })
        .collect();
    assert_eq!((submitted.len(), jobs(&fleet).await), (1, submitted.clone()));

    let schedule = fleet.queue.schedule(&fleet.tenant, id).await.unwrap();
    let run = &schedule.runs[0];
    assert_eq!(
        (run.due_ms, run.job, &*run.outcome),
        (Some(due_ms), Some(submitted[0]), "submitted")
    );
    assert!(schedule.next_ms.unwrap() > now_ms() && schedule.is_enabled);
    let page = fleet.queue.schedules(&fleet.tenant, None, 10).await.unwrap();
    assert_eq!((page.schedules[0].id, page.schedules[0].runs.len()), (id, 1));

    // It is a listed job like any other.
    let claimed = fleet.claim_one().await;
    assert_eq!((claimed.lease.job, claimed.terms.as_ref().unwrap().tags.len()), (submitted[0], 1));
    fleet.finish(&claimed, "done").await;
}

#[tokio::test]
async fn one_moment_is_over_after_its_run() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    let at = DateTime::from_timestamp_millis(i64::try_from(now_ms() + 3_600_000).unwrap()).unwrap();
    let id = create(&fleet, Timetable { cron: None, at: Some(at), ..yearly() }).await;
    let due_ms = now_ms();
    due_at(&redis, id, due_ms);
    // Its time, as it is written down, is what counts for the next run.
    let due = DueSchedule {
        facts: facts(Timetable {
            cron: None,
            at: DateTime::from_timestamp_millis(i64::try_from(due_ms).unwrap()),
            ..yearly()
        }),
        ..due_one(&fleet).await
    };
    assert!(matches!(fire(&fleet, &due).await, Fired::Submitted(_)));
    let schedule = fleet.queue.schedule(&fleet.tenant, id).await.unwrap();
    assert_eq!((schedule.next_ms, schedule.runs.len()), (None, 1));
    assert_eq!(redis.run::<u64>(&["EXISTS", "v1:{s0}:scheduled"]), 0);

    // Where there is no room, it makes way.
    let new = create_within(&fleet, &fleet.tenant, yearly(), 1).await.unwrap();
    let page = fleet.queue.schedules(&fleet.tenant, None, 10).await.unwrap();
    assert_eq!(page.schedules.iter().map(|it| it.id).collect::<Vec<_>>(), [new]);
    let full = create_within(&fleet, &fleet.tenant, yearly(), 1).await.unwrap_err();
    assert_eq!(full.code(), ErrorCode::TooManyJobs);
    assert!(full.message().contains("policy.maxSchedules"), "{full}");
    let past = Timetable { cron: None, at: Some(DateTime::UNIX_EPOCH), ..yearly() };
    let never = create_within(&fleet, &fleet.tenant, past, 9).await.unwrap_err();
    assert_eq!(never.code(), ErrorCode::InvalidRequest);
}

#[tokio::test]
async fn runs_that_were_missed_are_noted_or_made_up_for() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    let late_ms = now_ms() - 3 * 3_600_000;
    let hourly = |missed| Timetable { cron: Some("0 * * * *".into()), missed, ..yearly() };
    for (missed, expected) in [
        (Missed::Skip, ["missed"].as_slice()),
        (Missed::Once, ["submitted"].as_slice()),
        (Missed::All, ["submitted", "submitted", "submitted"].as_slice()),
    ] {
        let id = create(&fleet, hourly(missed)).await;
        due_at(&redis, id, late_ms);
        let mut outcomes = Vec::new();
        loop {
            let due = fleet.queue.due_schedules().await.unwrap();
            let Some(due) = due.first() else { break };
            fire(&fleet, due).await;
            outcomes.push(runs(&fleet, id).await[0].outcome.clone());
        }
        // An hour may have ended meanwhile, and that run is on time.
        assert!(outcomes.len() <= expected.len() + 2, "{missed:?}: {outcomes:?}");
        assert!(
            outcomes.starts_with(&expected.iter().map(ToString::to_string).collect::<Vec<_>>())
        );
        fleet.queue.remove_schedule(&fleet.tenant, id).await.unwrap();
    }
}

#[tokio::test]
async fn each_run_that_is_skipped_is_noted_and_of_very_many_how_many() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    let skip = |cron: &str| Timetable {
        cron: Some(cron.into()),
        timezone: "UTC".into(),
        missed: Missed::Skip,
        ..yearly()
    };
    let first = DateTime::parse_from_rfc3339("2020-01-01T00:00:00Z").unwrap();
    let first_ms = u64::try_from(first.timestamp_millis()).unwrap();
    let id = create(&fleet, skip("0 0 1 1 *")).await;
    due_at(&redis, id, first_ms);
    assert_eq!(fire(&fleet, &due_one(&fleet).await).await, Fired::Noted("missed".into()));
    let schedule = fleet.queue.schedule(&fleet.tenant, id).await.unwrap();
    let year = |ms: Option<u64>| {
        let ms = i64::try_from(ms.unwrap()).unwrap();
        DateTime::from_timestamp_millis(ms).unwrap().year()
    };
    let years: Vec<i32> = schedule.runs.iter().map(|run| year(run.due_ms)).collect();
    assert_eq!(years, (2020..year(schedule.next_ms)).rev().collect::<Vec<_>>());
    assert!(schedule.runs.iter().all(|run| run.outcome == "missed" && run.count.is_none()));
    fleet.queue.remove_schedule(&fleet.tenant, id).await.unwrap();

    let id = create(&fleet, skip("0 0 * * *")).await;
    due_at(&redis, id, first_ms);
    assert_eq!(fire(&fleet, &due_one(&fleet).await).await, Fired::Noted("missed".into()));
    let runs = runs(&fleet, id).await;
    let (oldest, others) = runs.split_last().unwrap();
    assert_eq!((oldest.due_ms, oldest.count), (Some(first_ms), Some(1000)));
    assert_eq!(others.len(), 49);
    assert!(others.is_sorted_by(|newer, older| newer.due_ms > older.due_ms));
    assert!(jobs(&fleet).await.is_empty());
}

#[tokio::test]
async fn a_run_while_the_job_before_is_open_is_left_out_or_takes_its_place() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&redis.config()).await;
    let run = async |fleet: &Fleet, id| {
        due_at(&redis, id, now_ms());
        fire(fleet, &due_one(fleet).await).await
    };
    let id = create(&fleet, Timetable { overlap: Overlap::Skip, ..yearly() }).await;
    let Fired::Submitted(first) = run(&fleet, id).await else { panic!("it is the first") };
    assert_eq!(run(&fleet, id).await, Fired::Noted("overlaps".into()));
    assert_eq!(runs(&fleet, id).await[0].outcome, "overlaps");
    let claimed = fleet.claim_one().await;
    assert_eq!(claimed.lease.job, first);
    fleet.finish(&claimed, "done").await;
    assert!(matches!(run(&fleet, id).await, Fired::Submitted(_)), "it has ended");
    fleet.queue.remove_schedule(&fleet.tenant, id).await.unwrap();
    let claimed = fleet.claim_one().await;
    fleet.finish(&claimed, "done").await;

    let id = create(&fleet, Timetable { overlap: Overlap::Replace, ..yearly() }).await;
    let Fired::Submitted(waiting) = run(&fleet, id).await else { panic!("it is the first") };
    let Fired::Submitted(second) = run(&fleet, id).await else { panic!("it takes its place") };
    assert_eq!(fleet.failure(waiting).await.code, ErrorCode::Cancelled);
    let claimed = fleet.claim_one().await;
    assert_eq!(claimed.lease.job, second);
    let mut orders = fleet.queue.orders(fleet.worker).await.unwrap();
    assert!(matches!(run(&fleet, id).await, Fired::Submitted(_)));
    let order = tokio::time::timeout(SOON, orders.next()).await.unwrap();
    assert_eq!(order, WorkerOrder::Cancel(second), "its worker hears of it at once");
    let flag: String = redis.run(&["HGET", &format!("v1:{{s0}}:job:{second}"), "cancel"]);
    assert_eq!(flag, "1", "its worker is to stop it");
    assert_eq!(fleet.queue.cancel(&fleet.tenant, second).await.unwrap(), Cancelled::Asked);
}

#[tokio::test]
async fn a_run_that_the_queue_refuses_is_noted_and_the_schedule_goes_on() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    let id = create(&fleet, yearly()).await;
    let quota = Quota { max_open: 1, ..Quota::default() };
    for expected in ["submitted", "jobs"] {
        due_at(&redis, id, now_ms());
        fleet.queue.fire_schedule(&due_one(&fleet).await, quota).await.unwrap();
        assert_eq!(runs(&fleet, id).await[0].outcome, expected);
    }
    let schedule = fleet.queue.schedule(&fleet.tenant, id).await.unwrap();
    assert!(schedule.next_ms.unwrap() > now_ms());
    assert_eq!(jobs(&fleet).await.len(), 1);
    let refused = fleet.queue.run_schedule(&fleet.tenant, id, quota).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::TooManyJobs, "whoever asks is told");
}

#[tokio::test]
async fn a_paused_schedule_runs_only_when_asked_to() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    let id = create(&fleet, yearly()).await;
    due_at(&redis, id, now_ms());
    let due = due_one(&fleet).await;
    fleet.queue.enable_schedule(&fleet.tenant, id, false).await.unwrap();
    assert_eq!(fire(&fleet, &due).await, Fired::Moved, "it was seen due just before");
    assert!(fleet.queue.due_schedules().await.unwrap().is_empty());
    let schedule = fleet.queue.schedule(&fleet.tenant, id).await.unwrap();
    assert!(!schedule.is_enabled && schedule.next_ms.is_none());
    let job = fleet.queue.run_schedule(&fleet.tenant, id, Quota::default()).await.unwrap();
    assert!(matches!(fleet.state(job).await, JobState::Queued));
    let run = runs(&fleet, id).await.remove(0);
    assert_eq!((run.due_ms, run.job), (None, Some(job)));

    fleet.queue.enable_schedule(&fleet.tenant, id, true).await.unwrap();
    let schedule = fleet.queue.schedule(&fleet.tenant, id).await.unwrap();
    assert!(schedule.next_ms.unwrap() > now_ms(), "what was due meanwhile is not made up for");
    // What waits to be made up for is not lost by resuming what runs.
    let late_ms = now_ms() - 3_600_000;
    due_at(&redis, id, late_ms);
    fleet.queue.enable_schedule(&fleet.tenant, id, true).await.unwrap();
    assert_eq!(due_one(&fleet).await.due_ms, late_ms);
}

#[tokio::test]
async fn a_schedule_is_its_tenants_and_leaves_nothing() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    let before = redis.keys();
    let id = create(&fleet, yearly()).await;
    let stranger = TenantId::new("stranger");
    let queue = &fleet.queue;
    for refused in [
        queue.schedule(&stranger, id).await.map(drop),
        queue.enable_schedule(&stranger, id, false).await,
        queue.enable_schedule(&stranger, id, true).await,
        queue.remove_schedule(&stranger, id).await,
        queue.run_schedule(&stranger, id, Quota::default()).await.map(drop),
    ] {
        assert_eq!(refused.unwrap_err().code(), ErrorCode::NotFound);
    }
    assert!(queue.schedules(&stranger, None, 10).await.unwrap().schedules.is_empty());
    queue.remove_schedule(&fleet.tenant, id).await.unwrap();
    let left = redis.keys().into_iter().filter(|key| key != "v1:{s0}:tenants");
    assert_eq!(left.collect::<Vec<_>>(), before);
}

#[tokio::test]
async fn pages_go_on_where_the_one_before_ended() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(create(&fleet, yearly()).await);
    }
    made.reverse();
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = fleet.queue.schedules(&fleet.tenant, cursor, 2).await.unwrap();
        assert!(page.schedules.len() <= 2);
        seen.extend(page.schedules.iter().map(|it| it.id));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, made);
}

#[tokio::test]
async fn a_schedule_that_got_lost_is_put_back() {
    let redis = Redis::start();
    let fleet = Fleet::new(&redis.config()).await;
    let id = create(&fleet, yearly()).await;
    let _: u64 = redis.run(&["DEL", "v1:{s0}:scheduled"]);
    let begun = std::time::Instant::now();
    let repaired = loop {
        let repaired = fleet.queue.reconcile(fleet.worker).await.unwrap();
        if !repaired.is_empty() {
            break repaired;
        }
        assert!(begun.elapsed() < SOON, "nobody noticed");
    };
    assert_eq!(repaired, [("schedule".to_owned(), id.to_string())]);
    assert_eq!(redis.run::<u64>(&["ZCARD", "v1:{s0}:scheduled"]), 1);
}

#[tokio::test]
async fn a_worker_runs_schedules_as_the_user_of_its_role() {
    let (redis, users) = crate::roles::start();
    let gateway = crate::roles::config(&redis, users.path(), "gateway");
    let worker = crate::roles::config(&redis, users.path(), "worker");
    let tenant = TenantId::new("acme");
    let gateway = shared::redis::Queue::connect(&gateway).await.unwrap();
    let worker = shared::redis::Queue::connect(&worker).await.unwrap();
    let (facts, job, terms) = (facts(yearly()), job(), Terms::default());
    let id = ScheduleId::generate();
    let order = ScheduleOrder {
        id,
        tenant: &tenant,
        max: 1,
        facts: &facts,
        job: &job,
        terms: &terms,
        is_enabled: true,
    };
    gateway.create_schedule(order).await.unwrap();
    assert!(worker.due_schedules().await.unwrap().is_empty());
    let due_ms = gateway.schedule(&tenant, id).await.unwrap().next_ms.unwrap();
    let due = DueSchedule { id, tenant: tenant.clone(), facts, terms, due_ms };
    let fired = worker.fire_schedule(&due, Quota::default()).await.unwrap();
    assert!(matches!(fired, Fired::Submitted(_)));
    let none = std::collections::BTreeMap::new();
    assert!(worker.claim_webhooks(1, 1000, 1, &none).await.unwrap().0.is_empty());
    gateway.remove_schedule(&tenant, id).await.unwrap();
}
