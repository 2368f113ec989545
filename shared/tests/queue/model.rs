//! Random operations on the scripts, compared with a plain model of what must come of them. After each
//! one every job is where the model says, and the look for what does not fit together finds nothing.
//!
//! The sequence of cases is always the same; `PROPTEST_CASES` makes it longer.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use shared::config;
use shared::execution::{Priority, Terms};
use shared::id::{JobId, TenantId, WorkerId};
use shared::redis::{
    Cancelled, Commit, Consumer, Depth, GiveBack, JobState, Lease, Listing, Once, Queue, Quota,
    Submission,
};

use crate::harness::{BLOCK, Redis, ending, failure, job};

const CASES: u32 = 150;
const LONGEST: usize = 40;
/// Listed jobs of the capped tenant that stand in line or run.
const CAP: usize = 2;
const MAX_DELIVERIES: u32 = 2;
const FAR_MS: u64 = 3_600_000;

#[derive(Clone, Debug)]
enum Step {
    Submit {
        capped: bool,
        priority: Priority,
        delayed: bool,
        key: Option<u8>,
    },
    Enqueue {
        capped: bool,
    },
    Claim {
        worker: usize,
        max: usize,
    },
    Finish(Index),
    GiveBack {
        which: Index,
        counts: bool,
    },
    Retry {
        which: Index,
        paused: bool,
    },
    Cancel(Index),
    ComeDue(Index),
    /// All leases of the other worker run out.
    Steal {
        worker: usize,
    },
    FinishLate(Index),
    Redrive(Index),
    Forget(Index),
}

fn step() -> impl Strategy<Value = Step> {
    let priority = prop_oneof![Just(Priority::High), Just(Priority::Normal), Just(Priority::Low)];
    let submit =
        (any::<bool>(), priority, prop::bool::weighted(0.2), prop::option::weighted(0.2, 0..3_u8))
            .prop_map(|(capped, priority, delayed, key)| Step::Submit {
                capped,
                priority,
                delayed,
                key,
            });
    let which = any::<Index>;
    prop_oneof![
        6 => submit,
        2 => any::<bool>().prop_map(|capped| Step::Enqueue { capped }),
        6 => (0..2_usize, 1..4_usize).prop_map(|(worker, max)| Step::Claim { worker, max }),
        4 => which().prop_map(Step::Finish),
        3 => (which(), any::<bool>()).prop_map(|(which, counts)| Step::GiveBack { which, counts }),
        2 => (which(), any::<bool>()).prop_map(|(which, paused)| Step::Retry { which, paused }),
        2 => which().prop_map(Step::Cancel),
        1 => which().prop_map(Step::ComeDue),
        2 => (0..2_usize).prop_map(|worker| Step::Steal { worker }),
        1 => which().prop_map(Step::FinishLate),
        1 => which().prop_map(Step::Redrive),
        1 => which().prop_map(Step::Forget),
    ]
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    Delayed,
    /// In line or in its tenant's backlog.
    Waiting,
    Running {
        worker: usize,
        lease: Lease,
    },
    /// `cancelled`: that is how.
    Finished {
        cancelled: bool,
    },
}

#[derive(Clone, Debug)]
struct Known {
    capped: bool,
    listed: bool,
    key: Option<u8>,
    phase: Phase,
    attempt: u32,
    tries: u32,
    /// While it ran.
    cancelled: bool,
    dead: bool,
}

impl Known {
    /// The queue itself ends it.
    fn end(&mut self) {
        self.dead = self.listed && !self.cancelled;
        self.phase = Phase::Finished { cancelled: self.cancelled };
    }

    fn is_open(&self) -> bool {
        !matches!(self.phase, Phase::Finished { .. })
    }
}

/// What must be so, and the queue in which it is to be so.
struct World<'a> {
    redis: &'a Redis,
    queue: Queue,
    workers: [(WorkerId, Consumer); 2],
    jobs: BTreeMap<JobId, Known>,
    /// Leases that are over.
    late: Vec<(usize, Lease)>,
}

fn quota(capped: bool) -> Quota {
    let max_active = if capped { CAP } else { 1000 };
    Quota { max_active: u32::try_from(max_active).unwrap(), ..Quota::default() }
}

fn tenant(capped: bool) -> TenantId {
    TenantId::new(if capped { "capped" } else { "free" })
}

impl<'a> World<'a> {
    async fn new(redis: &'a Redis) -> Self {
        let config = config::Redis { max_deliveries: MAX_DELIVERIES, ..redis.config() };
        let queue = Queue::connect(&config).await.unwrap();
        let mut workers = Vec::new();
        for _ in 0..2 {
            let worker = WorkerId::generate();
            workers.push((worker, queue.consumer(worker).await.unwrap()));
        }
        let Ok(workers) = workers.try_into() else { panic!("there are two") };
        Self { redis, queue, workers, jobs: BTreeMap::new(), late: Vec::new() }
    }

    /// One of the jobs that `is_meant`, if there is one.
    fn pick(&self, which: Index, is_meant: impl Fn(&Known) -> bool) -> Option<JobId> {
        let meant: Vec<JobId> =
            self.jobs.iter().filter(|(_, job)| is_meant(job)).map(|(id, _)| *id).collect();
        (!meant.is_empty()).then(|| *which.get(&meant))
    }

    fn known(&mut self, id: JobId) -> &mut Known {
        self.jobs.get_mut(&id).unwrap()
    }

    fn count(&self, is_meant: impl Fn(&Known) -> bool) -> usize {
        self.jobs.values().filter(|job| is_meant(job)).count()
    }

    /// Jobs that a worker could have now.
    fn in_line(&self) -> usize {
        let waits = |job: &Known| job.phase == Phase::Waiting;
        let runs = |job: &Known| matches!(job.phase, Phase::Running { .. });
        let limited = |job: &Known| job.capped && job.listed;
        let running = self.count(|job| limited(job) && runs(job));
        self.count(|job| waits(job) && !limited(job))
            + self.count(|job| waits(job) && limited(job)).min(CAP.saturating_sub(running))
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Submit { capped, priority, delayed, key } => {
                self.submit(capped, priority, delayed, key).await;
            }
            Step::Enqueue { capped } => {
                let (id, tenant) = (JobId::generate(), tenant(capped));
                let submission =
                    Submission { tenant: &tenant, id, reply_to: None, quota: Quota::default() };
                self.queue.enqueue(submission, &job()).await.unwrap();
                self.add(id, capped, false, None, Phase::Waiting);
            }
            Step::Claim { worker, max } => self.claim(worker, max).await,
            Step::Finish(which) => {
                if let Some((id, worker, lease)) = self.running(which) {
                    assert_eq!(self.finish(worker, &lease).await, Commit::Done);
                    self.known(id).phase = Phase::Finished { cancelled: false };
                }
            }
            Step::GiveBack { which, counts } => self.give_back(which, counts).await,
            Step::Retry { which, paused } => self.retry(which, paused).await,
            Step::Cancel(which) => self.cancel(which).await,
            Step::ComeDue(which) => {
                if let Some(id) = self.pick(which, |job| job.phase == Phase::Delayed) {
                    self.come_due(id).await;
                }
            }
            Step::Steal { worker } => self.steal(worker).await,
            Step::FinishLate(which) => {
                if !self.late.is_empty() {
                    let (worker, lease) = which.get(&self.late).clone();
                    assert_eq!(self.finish(worker, &lease).await, Commit::Fenced);
                }
            }
            Step::Redrive(which) => {
                if let Some(id) = self.pick(which, |job| job.dead) {
                    let tenant = tenant(self.jobs[&id].capped);
                    let (job, terms) = self.queue.dead_job(&tenant, id).await.unwrap();
                    let quota = quota(self.jobs[&id].capped);
                    let submission = Submission { tenant: &tenant, id, reply_to: None, quota };
                    self.queue.redrive(submission, &job, &terms).await.unwrap();
                    let known = self.known(id);
                    (known.dead, known.attempt, known.tries) = (false, 0, 0);
                    known.phase = Phase::Waiting;
                }
            }
            Step::Forget(which) => {
                if let Some(id) = self.pick(which, |job| job.dead) {
                    let tenant = tenant(self.jobs[&id].capped);
                    self.queue.forget(&tenant, id).await.unwrap();
                    self.jobs.remove(&id);
                }
            }
        }
    }

    fn add(&mut self, id: JobId, capped: bool, listed: bool, key: Option<u8>, phase: Phase) {
        let (attempt, tries, cancelled, dead) = (0, 0, false, false);
        let known = Known { capped, listed, key, phase, attempt, tries, cancelled, dead };
        assert!(self.jobs.insert(id, known).is_none());
    }

    async fn submit(&mut self, capped: bool, priority: Priority, delayed: bool, key: Option<u8>) {
        let delay_ms = delayed.then_some(FAR_MS);
        let terms = Terms { priority, delay_ms, retention_ms: FAR_MS, ..Terms::default() };
        let once = key.map(|key| Once::new(&[key], b"request"));
        let (id, tenant, quota) = (JobId::generate(), tenant(capped), quota(capped));
        let submission = Submission { tenant: &tenant, id, reply_to: None, quota };
        let listing = Listing { terms: &terms, once: once.as_ref() };
        let accepted = self.queue.submit(submission, listing, &job()).await.unwrap();
        let is_same = |known: &Known| key.is_some() && known.key == key && known.capped == capped;
        match self.jobs.iter().find(|(_, known)| is_same(known)) {
            Some((former, _)) => assert_eq!((accepted.id, accepted.is_repeated), (*former, true)),
            None => {
                assert_eq!((accepted.id, accepted.is_repeated), (id, false));
                let phase = if delayed { Phase::Delayed } else { Phase::Waiting };
                self.add(id, capped, true, key, phase);
            }
        }
    }

    async fn finish(&self, worker: usize, lease: &Lease) -> Commit {
        self.queue.finish(self.workers[worker].0, lease, &ending("done")).await.unwrap()
    }

    async fn claim(&mut self, worker: usize, max: usize) {
        let expected = self.in_line().min(max);
        if expected == 0 {
            return;
        }
        let claimed = self.queue.claim(&mut self.workers[worker].1, max, BLOCK).await.unwrap();
        assert_eq!(claimed.len(), expected);
        for claimed in claimed {
            let known = self.known(claimed.lease.job);
            assert_eq!(known.phase, Phase::Waiting);
            known.attempt += 1;
            assert_eq!((claimed.attempt, claimed.tries), (known.attempt, known.tries));
            known.phase = Phase::Running { worker, lease: claimed.lease };
        }
    }

    fn running(&self, which: Index) -> Option<(JobId, usize, Lease)> {
        let id = self.pick(which, |job| matches!(job.phase, Phase::Running { .. }))?;
        match &self.jobs[&id].phase {
            Phase::Running { worker, lease } => Some((id, *worker, lease.clone())),
            _ => None,
        }
    }

    async fn give_back(&mut self, which: Index, counts: bool) {
        let Some((id, worker, lease)) = self.running(which) else { return };
        let why = if counts { GiveBack::Failed(failure("broken")) } else { GiveBack::Shutdown };
        let done = self.queue.give_back(self.workers[worker].0, &lease, why).await.unwrap();
        assert_eq!(done, Commit::Done);
        self.late.push((worker, lease));
        let known = self.known(id);
        if known.cancelled || (counts && known.attempt >= MAX_DELIVERIES) {
            known.end();
        } else {
            known.phase = Phase::Waiting;
            known.attempt -= u32::from(!counts);
        }
    }

    async fn retry(&mut self, which: Index, paused: bool) {
        let Some((id, worker, lease)) = self.running(which) else { return };
        if !self.jobs[&id].listed {
            return;
        }
        let pause = if paused { Duration::from_millis(FAR_MS) } else { Duration::ZERO };
        let worker_id = self.workers[worker].0;
        let done = self.queue.retry(worker_id, &lease, pause, &ending("tried")).await.unwrap();
        assert_eq!(done, Commit::Done);
        self.late.push((worker, lease));
        let known = self.known(id);
        if known.cancelled {
            known.end();
        } else {
            known.phase = if paused { Phase::Delayed } else { Phase::Waiting };
            known.attempt = 0;
            known.tries += 1;
        }
    }

    async fn cancel(&mut self, which: Index) {
        let Some(id) = self.pick(which, |_| true) else { return };
        let tenant = tenant(self.jobs[&id].capped);
        let cancelled = self.queue.cancel(&tenant, id).await.unwrap();
        let known = self.known(id);
        match known.phase {
            Phase::Delayed | Phase::Waiting => {
                assert_eq!(cancelled, Cancelled::Now);
                known.phase = Phase::Finished { cancelled: true };
            }
            Phase::Running { .. } => {
                assert_eq!(cancelled, Cancelled::Asked);
                known.cancelled = true;
            }
            // Asked for again it is what it was before.
            Phase::Finished { cancelled: true } => assert_eq!(cancelled, Cancelled::Now),
            Phase::Finished { cancelled: false } => assert_eq!(cancelled, Cancelled::TooLate),
        }
    }

    async fn come_due(&mut self, id: JobId) {
        let _: u64 = self.redis.run(&["ZADD", "v1:{s0}:delayed", "XX", "1", &id.to_string()]);
        self.queue.housekeep(None).await.unwrap();
        self.known(id).phase = Phase::Waiting;
    }

    async fn steal(&mut self, thief: usize) {
        let victim = 1 - thief;
        let is_victims = |known: &&Known| matches!(&known.phase, Phase::Running { worker, .. } if *worker == victim);
        let stolen: Vec<JobId> =
            self.jobs.iter().filter(|(_, it)| is_victims(it)).map(|(id, _)| *id).collect();
        let owner = self.workers[victim].0.to_string();
        for id in &stolen {
            let record = format!("v1:{{s0}}:job:{id}");
            let (entry, priority): (String, Option<String>) =
                self.redis.run(&["HMGET", &record, "entry", "priority"]);
            let suffix = priority.map(|it| format!("-{it}")).unwrap_or_default();
            let stream = format!("v1:{{s0}}:jobs{suffix}");
            let long =
                ["XCLAIM", &stream, "workers", &owner, "0", &entry, "IDLE", "99999999", "JUSTID"];
            let _: Vec<String> = self.redis.run(&long);
        }
        let most = stolen.len().max(1);
        let claimed = self.queue.reclaim(&mut self.workers[thief].1, most).await.unwrap();
        let mut claimed: BTreeMap<JobId, _> =
            claimed.into_iter().map(|it| (it.lease.job, it)).collect();
        for id in stolen {
            let taken = claimed.remove(&id);
            let known = self.jobs.get_mut(&id).unwrap();
            let Phase::Running { worker, lease } = known.phase.clone() else { panic!("{id} ran") };
            self.late.push((worker, lease));
            if known.cancelled || known.attempt >= MAX_DELIVERIES {
                assert!(taken.is_none(), "it was to end");
                known.end();
            } else {
                known.attempt += 1;
                let taken = taken.expect("it was to be taken over");
                assert_eq!(taken.attempt, known.attempt);
                known.phase = Phase::Running { worker: thief, lease: taken.lease };
            }
        }
        assert!(claimed.is_empty(), "nobody else's lease had run out");
    }

    /// Asserts that everything is as the model has it.
    async fn check(&self) {
        let running = self.count(|job| matches!(job.phase, Phase::Running { .. }));
        let expected = Depth { queued: self.in_line() as u64, running: running as u64 };
        assert_eq!(self.queue.depth().await.unwrap(), expected);
        for (id, known) in &self.jobs {
            let state = self.queue.state(&tenant(known.capped), *id).await.unwrap();
            let is_right = match known.phase {
                Phase::Delayed | Phase::Waiting => matches!(state, JobState::Queued),
                Phase::Running { .. } => matches!(state, JobState::Running),
                Phase::Finished { .. } => matches!(state, JobState::Finished(_)),
            };
            assert!(is_right, "{id} is {state:?}, expected {known:?}");
        }
        for capped in [false, true] {
            let tenant = tenant(capped);
            let dead = self.queue.dead_letters(&tenant, None, 500).await.unwrap();
            let mut dead: Vec<JobId> = dead.jobs.iter().map(|job| job.id).collect();
            dead.reverse();
            let expected = self.jobs.iter().filter(|(_, job)| job.dead && job.capped == capped);
            assert_eq!(dead, expected.map(|(id, _)| *id).collect::<Vec<_>>());
            let open: Option<usize> =
                self.redis.run(&["HGET", &format!("v1:{{s0}}:usage:{tenant}"), "jobs"]);
            let is_open = |job: &Known| job.listed && job.capped == capped && job.is_open();
            assert_eq!(open.unwrap_or(0), self.count(is_open));
        }
        let worker = self.workers[0].0;
        loop {
            assert_eq!(self.queue.reconcile(worker).await.unwrap(), []);
            if self.redis.run::<String>(&["HGET", "v1:{s0}:reconciler", "tenant"]).is_empty() {
                break;
            }
        }
    }

    /// Runs everything to its end.
    async fn run_out(&mut self) {
        let delayed: Vec<JobId> = self.jobs.keys().copied().collect();
        for id in delayed {
            if self.jobs[&id].phase == Phase::Delayed {
                self.come_due(id).await;
            }
        }
        while self.count(Known::is_open) > 0 {
            self.claim(0, 64).await;
            let running: Vec<(JobId, usize, Lease)> = self
                .jobs
                .iter()
                .filter_map(|(id, known)| match &known.phase {
                    Phase::Running { worker, lease } => Some((*id, *worker, lease.clone())),
                    _ => None,
                })
                .collect();
            assert!(!running.is_empty(), "jobs wait, and none can be had");
            for (id, worker, lease) in running {
                assert_eq!(self.finish(worker, &lease).await, Commit::Done);
                self.known(id).phase = Phase::Finished { cancelled: false };
            }
        }
        self.check().await;
    }
}

#[test]
fn whatever_happens_in_whatever_order_the_queue_is_as_the_model_has_it() {
    let redis = Redis::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|it| it.parse().ok());
    let config = Config {
        cases: cases.unwrap_or(CASES),
        failure_persistence: None,
        max_shrink_iters: 500,
        ..Config::default()
    };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let outcome = runner.run(&vec(step(), 1..LONGEST), |steps| {
        let _: String = redis.run(&["FLUSHALL"]);
        runtime.block_on(async {
            let mut world = World::new(&redis).await;
            for step in steps {
                world.take(step).await;
                world.check().await;
            }
            world.run_out().await;
        });
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
