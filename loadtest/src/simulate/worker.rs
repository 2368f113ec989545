//! Simulated workers: they claim, end jobs at once, keep house and tell of themselves as often as real
//! ones, over connections of their own.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use shared::config;
use shared::error::ErrorCode;
use shared::execution::{Ending, Failure};
use shared::id::WorkerId;
use shared::redis::{Commit, Consumer, Queue, WorkerFacts};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Jobs that a worker runs at once.
const SLOTS: usize = 8;
/// As `worker/src/consumer.rs` and `worker/src/housekeeping.rs` have them.
const CLAIM_BLOCK: Duration = Duration::from_millis(500);
const REST: Duration = Duration::from_millis(500);
const RECLAIM: Duration = Duration::from_millis(1500);
const HOUSEKEEPING: Duration = Duration::from_millis(500);
/// Workers that start at the same time; thousands would wait for each other's connections.
const STARTING: usize = 32;

/// A growing fleet.
pub(super) struct Workers {
    config: config::Redis,
    tasks: JoinSet<Result<()>>,
    count: usize,
    stop: CancellationToken,
}

impl Workers {
    pub(super) fn new(config: &config::Redis) -> Self {
        let (config, stop) = (config.clone(), CancellationToken::new());
        Self { config, tasks: JoinSet::new(), count: 0, stop }
    }

    /// Adds workers until there are `count`.
    pub(super) async fn grow(&mut self, count: usize) -> Result<()> {
        while self.count < count {
            let some = STARTING.min(count - self.count);
            let starting = (0..some).map(|_| Worker::start(&self.config));
            for (number, worker) in
                (self.count..).zip(futures_util::future::join_all(starting).await)
            {
                // Real ones start at different times, so their beats are spread.
                let offset = HOUSEKEEPING * u32::try_from(number % 64).unwrap_or_default() / 64;
                self.tasks.spawn(worker?.live(offset, self.stop.clone()));
            }
            self.count += some;
        }
        Ok(())
    }

    /// Ends all; one that met an error has ended before, and says so here.
    pub(super) async fn stop(mut self) -> Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a simulated worker panicked")??;
        }
        Ok(())
    }
}

struct Worker {
    queue: Queue,
    id: WorkerId,
    consumer: Consumer,
}

impl Worker {
    async fn start(config: &config::Redis) -> Result<Self> {
        let (queue, id) = (Queue::connect(config).await?, WorkerId::generate());
        let consumer = queue.consumer(id).await?;
        Ok(Self { queue, id, consumer })
    }

    async fn live(self, offset: Duration, stop: CancellationToken) -> Result<()> {
        // Told nothing, but connected, as a real one is.
        let _orders = self.queue.orders(self.id).await?;
        let keeping = keep_house(self.queue.clone(), self.id, offset, stop.clone());
        let (queue, id) = (self.queue.clone(), self.id);
        let (kept, worked) = tokio::join!(keeping, self.work(stop));
        queue.leave(id).await?;
        kept.and(worked)
    }

    async fn work(mut self, stop: CancellationToken) -> Result<()> {
        let mut reclaimed = Instant::now();
        while !stop.is_cancelled() {
            if reclaimed.elapsed() >= self.queue.rhythm(RECLAIM) {
                self.queue.reap_sessions().await?;
                let jobs = self.queue.reclaim(&mut self.consumer, SLOTS).await?;
                anyhow::ensure!(jobs.is_empty(), "a simulated worker went silent");
                reclaimed = Instant::now();
            }
            if self.work_some(SLOTS).await? == 0 && self.queue.is_to_rest() {
                sleep(REST).await;
            }
        }
        Ok(())
    }

    /// Claims and ends at most `max` jobs; how many.
    async fn work_some(&mut self, max: usize) -> Result<usize> {
        let claimed = self.queue.claim(&mut self.consumer, max, CLAIM_BLOCK).await?;
        let (queue, id, ending) = (&self.queue, self.id, ending());
        let done = claimed.iter().map(|it| queue.finish(id, &it.lease, &ending));
        for committed in futures_util::future::join_all(done).await {
            anyhow::ensure!(committed? == Commit::Done, "a simulated worker was fenced");
        }
        Ok(claimed.len())
    }
}

async fn keep_house(
    queue: Queue,
    id: WorkerId,
    offset: Duration,
    stop: CancellationToken,
) -> Result<()> {
    let facts = WorkerFacts::new(id, format!("simulated-{id}"), SLOTS);
    let mut pause = offset;
    while stop.run_until_cancelled(sleep(pause)).await.is_some() {
        queue.housekeep(Some((id, SLOTS))).await?;
        queue.reconcile(id).await?;
        queue.announce(&facts).await?;
        pause = queue.rhythm(HOUSEKEEPING);
    }
    Ok(())
}

/// Has `workers` workers end exactly `jobs` jobs and leave.
pub(super) async fn drain(config: &config::Redis, workers: usize, jobs: usize) -> Result<()> {
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    for number in 0..workers {
        let mut worker = Worker::start(config).await?;
        let mut left = jobs / workers + usize::from(number < jobs % workers);
        tasks.spawn(async move {
            while left > 0 {
                left -= worker.work_some(left.min(SLOTS)).await?;
                if left > 0 {
                    // Its place in line is for others too.
                    sleep(Duration::ZERO).await;
                }
            }
            worker.queue.leave(worker.id).await.map_err(Into::into)
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a simulated worker panicked")??;
    }
    Ok(())
}

/// About as long as that of a program with a little output.
fn ending() -> Ending {
    Ending::Error(Failure::new(ErrorCode::Internal, "x".repeat(400)))
}
