//! What is seen in one look, by the rights of the key.

use std::time::Instant;

use client::{Client, ClientError, Job, JobQuery, Stats, Worker};
use futures_util::future::try_join_all;
use serde_json::{Value, json};

/// Dead letters that are shown, and tenants that are asked for theirs.
const DEAD_LETTERS: usize = 5;
const ASKED_TENANTS: usize = 5;

/// One look at a server.
pub(super) struct Snapshot {
    pub(super) taken: Instant,
    pub(super) stats: Stats,
    /// `None` without the master key.
    pub(super) workers: Option<Vec<Worker>>,
    /// The latest, with their tenants.
    pub(super) dead_letters: Vec<(String, Job)>,
}

impl Snapshot {
    /// Takes one.
    ///
    /// # Errors
    /// If the server cannot be reached, or refuses the key.
    pub(super) async fn take(client: &Client) -> anyhow::Result<Self> {
        let (stats, workers) = tokio::try_join!(client.stats(), list_workers(client))?;
        // The master may ask for anybody's; another key has but one tenant, and need not name it.
        let is_master = stats.fleet.is_some();
        let asked = stats.tenants.iter().filter(|it| it.dead_letters > 0).take(ASKED_TENANTS);
        let pages = asked.map(|it| async move {
            let query = JobQuery {
                limit: Some(DEAD_LETTERS),
                tenant_id: is_master.then(|| it.tenant_id.clone()),
                ..JobQuery::default()
            };
            let page = client.list_dead_letters(&query).await?;
            let named = page.jobs.into_iter().map(|job| (it.tenant_id.clone(), job));
            Ok::<_, ClientError>(named.collect::<Vec<_>>())
        });
        let mut dead_letters: Vec<_> = try_join_all(pages).await?.into_iter().flatten().collect();
        // Identifiers are in the order of time.
        dead_letters.sort_by(|(_, one), (_, other)| other.id.cmp(&one.id));
        dead_letters.truncate(DEAD_LETTERS);
        Ok(Self { taken: Instant::now(), stats, workers, dead_letters })
    }

    /// The same for scripts.
    pub(super) fn to_json(&self) -> Value {
        let dead_letters: Vec<Value> = self
            .dead_letters
            .iter()
            .map(|(tenant, job)| json!({"tenantId": tenant, "job": job}))
            .collect();
        json!({
            "fleet": self.stats.fleet,
            "tenants": self.stats.tenants,
            "workers": self.workers,
            "deadLetters": dead_letters,
        })
    }
}

async fn list_workers(client: &Client) -> Result<Option<Vec<Worker>>, ClientError> {
    match client.list_workers().await {
        Ok(workers) => Ok(Some(workers)),
        Err(ClientError::Refused { status: 403, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
