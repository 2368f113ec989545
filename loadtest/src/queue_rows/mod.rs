//! Load rows of the queue, each on a fleet of its own processes: how fast one gateway takes submissions,
//! what one tenant's flood does to another's interactive jobs, how a large batch goes through, and how soon
//! a killed worker's jobs begin anew.

mod batch;
mod fleet;
mod flood;
mod reclaim;
mod submit;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

pub use batch::Batch;
pub use flood::Flood;
pub use reclaim::Reclaim;
pub use submit::Submitted;

/// What to measure.
#[derive(Clone, Debug)]
pub struct QueueRows {
    /// The `isol8` binary under test.
    pub isol8: PathBuf,
    /// Measured time of each part.
    pub length: Duration,
    /// Jobs of the flood.
    pub flood_jobs: usize,
    /// Items of the batch.
    pub batch_items: usize,
    /// How often a worker is killed.
    pub kills: usize,
}

/// What was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    /// Submissions through one gateway.
    pub submitted: Submitted,
    /// Another tenant's jobs in a flood, for each kind of workers and of flood.
    pub floods: Vec<Flood>,
    /// A large batch.
    pub batch: Batch,
    /// Jobs of killed workers.
    pub reclaim: Reclaim,
}

impl QueueRows {
    /// Measures everything; a few minutes.
    ///
    /// # Errors
    /// A process cannot be started, or does not answer as it should.
    pub async fn run(&self, tell: &impl Fn(&str)) -> Result<Found> {
        let submitted = submit::measure(&self.isol8, self.length).await?;
        tell(&format!("submissions through one gateway: {:.0}/s", submitted.per_second));
        let mut floods = Vec::new();
        for kind in flood::KINDS {
            let flood = flood::measure(&self.isol8, kind, self.flood_jobs, self.length).await?;
            tell(&format!(
                "{}: p95 {:.2} ms alone, {:.2} ms in the flood",
                flood.kind, flood.alone_ms.p95, flood.flooded_ms.p95
            ));
            floods.push(flood);
        }
        let batch = batch::measure(&self.isol8, self.batch_items).await?;
        tell(&format!("a batch of {} items: {:.0} s", batch.items, batch.upload_s + batch.run_s));
        let reclaim = reclaim::measure(&self.isol8, self.kills).await?;
        tell(&format!("jobs of a killed worker begin anew within {:.0} ms", reclaim.longest_ms));
        Ok(Found { submitted, floods, batch, reclaim })
    }
}

impl Found {
    /// As a page.
    #[must_use]
    pub fn markdown(&self) -> String {
        let Self { submitted, floods, batch, reclaim } = self;
        let mut out = format!(
            "# Load rows of the queue\n\nWritten by `loadtest queue`, everything on one machine.\n\n\
             | what | seen | goal |\n| --- | --: | --: |\n\
             | submissions to `/v1/jobs` through one gateway, {} connections with {} requests under way each | \
             {:.0}/s | ≥ 15,000/s |\n",
            submitted.connections, submitted.depth, submitted.per_second
        );
        for flood in floods {
            let _ = writeln!(
                out,
                "| {}: p95 of another tenant's `/execute` alone, and while {} jobs wait | {:.2} → {:.2} ms \
                 ({:.1}×) | ≤ 2× |",
                flood.kind,
                flood.jobs,
                flood.alone_ms.p95,
                flood.flooded_ms.p95,
                flood.flooded_ms.p95 / flood.alone_ms.p95
            );
        }
        #[expect(clippy::cast_precision_loss, reason = "a million")]
        let rate = batch.items as f64 / batch.run_s;
        let [gateway_before, gateway_most] = batch.gateway_kib.map(|kib| kib / 1024);
        let [redis_before, redis_most] = batch.redis_bytes.map(|bytes| bytes >> 20);
        let _ = writeln!(
            out,
            "| a batch of {} items ({} MB), not run, its results read and acknowledged as they come: upload, then \
             the rest | {:.1} s, {:.0} s ({rate:.0}/s) | |\n\
             | the same: resident memory of the gateway, before and at most | {gateway_before} → {gateway_most} MiB | |\n\
             | the same: memory of Redis, before and at most | {redis_before} → {redis_most} MiB | |",
            batch.items,
            batch.bytes / 1_000_000,
            batch.upload_s,
            batch.run_s,
        );
        let _ = writeln!(
            out,
            "| {} jobs of {} killed workers begin anew, longest | {:.1} s | ≤ lease + 2 s = {:.0} s |",
            reclaim.jobs,
            reclaim.kills,
            reclaim.longest_ms / 1000.0,
            reclaim.lease_ms / 1000.0 + 2.0
        );
        out
    }
}
