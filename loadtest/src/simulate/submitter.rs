//! Simulated tenants: they submit listed jobs, at a rate or as fast as the queue takes them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use shared::config::Seccomp;
use shared::execution::{Job, Limits, Network, PackageSet, Source, Terms};
use shared::id::{JobId, TenantId};
use shared::isolation::Isolation;
use shared::redis::{Listing, Queue, Quota, Submission};
use shared::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Submissions under way at once, as through one busy gateway.
const AT_ONCE: usize = 128;
/// How often jobs are submitted where there is a rate: so many of them at a time.
const TICK: Duration = Duration::from_millis(10);
/// Ended jobs are kept for so long: what is kept is not what is measured.
const RETENTION_MS: u64 = 1000;
/// How long the last jobs may take to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// Submits jobs for so many tenants, in turn.
pub(super) struct Submitter {
    queue: Queue,
    tenants: Vec<TenantId>,
    job: Job,
    terms: Terms,
    submitted: usize,
}

impl Submitter {
    pub(super) fn new(queue: Queue, tenants: usize, code_bytes: usize) -> Self {
        Self {
            queue,
            tenants: (0..tenants.max(1)).map(|it| TenantId::new(format!("tenant-{it}"))).collect(),
            job: job(code_bytes),
            terms: Terms { retention_ms: RETENTION_MS, ..Terms::default() },
            submitted: 0,
        }
    }

    /// Bytes of a job as it is kept.
    pub(super) fn payload_bytes(&self) -> usize {
        serde_json::to_string(&self.job).map_or(0, |text| text.len())
    }

    /// Submits at a rate for so long; how many.
    pub(super) async fn at_rate(&mut self, rate: f64, length: Duration) -> Result<usize> {
        let begun = Instant::now();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sent = 0;
        while begun.elapsed() < length {
            ticks.tick().await;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "as many as are due, of some thousands"
            )]
            let due = (rate * begun.elapsed().min(length).as_secs_f64()) as usize;
            self.at_once(due - sent).await?;
            sent = due;
        }
        Ok(sent)
    }

    /// Submits so many as fast as they are taken.
    pub(super) async fn at_once(&mut self, count: usize) -> Result<()> {
        let mut sending: JoinSet<Result<()>> = JoinSet::new();
        for _ in 0..count {
            if sending.len() >= AT_ONCE {
                let sent = sending.join_next().await.context("there were some")?;
                sent.context("a submission panicked")??;
            }
            let tenant = self.tenants[self.submitted % self.tenants.len()].clone();
            self.submitted += 1;
            let (queue, job, terms) = (self.queue.clone(), self.job.clone(), self.terms.clone());
            sending.spawn(async move {
                let (id, quota) = (JobId::generate(), Quota::default());
                let submission = Submission { tenant: &tenant, id, reply_to: None, quota };
                let listing = Listing { terms: &terms, once: None };
                queue.submit(submission, listing, &job).await?;
                Ok(())
            });
        }
        while let Some(sent) = sending.join_next().await {
            sent.context("a submission panicked")??;
        }
        Ok(())
    }

    /// Waits until nothing waits or runs any more.
    pub(super) async fn await_all_ended(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let depth = self.queue.depth().await?;
            if depth.queued + depth.running == 0 {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "jobs do not end: {depth:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

fn job(code_bytes: usize) -> Job {
    Job {
        runtime: Runtime::Python,
        image: "isol8:python".into(),
        source: Source::Code { text: "x".repeat(code_bytes), extension: ".py".into() },
        timeout_ms: 30_000,
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        stdin: None,
        files: Vec::new(),
        output_paths: None,
        packages: PackageSet::default(),
        substitutes: Vec::new(),
        setup_script: None,
        workdir: "/sandbox".into(),
        network: Network::None,
        egress: None,
        agent_flags: Vec::new(),
        isolation: Isolation::Container,
        seccomp: Seccomp::Strict,
        limits: Limits {
            memory_bytes: 512 << 20,
            cpu_millis: 1000,
            pids: 64,
            sandbox_bytes: 512 << 20,
            tmp_bytes: 256 << 20,
            readonly_root: true,
            max_output_bytes: 1 << 20,
        },
        metadata: BTreeMap::new(),
        stream: false,
        interactive: false,
        signals: false,
    }
}
