//! Deliveries to webhooks: handed out to workers, noted, looked at, and had once more.

use std::collections::BTreeMap;

use redis::{cmd, pipe};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Queue, serialize};
use crate::error::{Error, ErrorCode};
use crate::execution::Terms;
use crate::id::TenantId;
use crate::redis::client::failure;
use crate::redis::keys;
use crate::redis::scripts::{ClaimWebhooks, SettledWebhook};
use crate::sealing::{Owner, Place, Purpose};
use crate::webhook::{Subject, Webhook, WebhookEvent};

/// Attempts that are kept of a delivery.
const MAX_LOGGED: usize = 50;
/// What begins the names of records whose webhooks are told.
const JOB: &str = "job:";
const BATCH: &str = "batch:";

/// How a delivery stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// It is tried now, or will be.
    #[default]
    Pending,
    /// The receiver took it.
    Delivered,
    /// It was given up.
    Failed,
    /// The webhook does not want to hear of this.
    Skipped,
    /// The job began anew before it was delivered.
    Superseded,
}

/// One attempt at a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryAttempt {
    /// When it began, in milliseconds since the epoch.
    pub at_ms: u64,
    /// How long it took.
    pub took_ms: u64,
    /// Who made it.
    pub worker: String,
    /// What the receiver answered, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why it came to nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What is noted of a delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeliveryLog {
    /// How it stands.
    pub state: DeliveryState,
    /// What it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<WebhookEvent>,
    /// The last attempts, oldest first.
    pub attempts: Vec<DeliveryAttempt>,
    /// How many there were.
    pub tries: u32,
    /// When the next one is due, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_ms: Option<u64>,
}

impl DeliveryLog {
    /// Notes one more attempt.
    pub fn note(&mut self, attempt: DeliveryAttempt) {
        self.tries = self.tries.saturating_add(1);
        self.attempts.push(attempt);
        let over = self.attempts.len().saturating_sub(MAX_LOGGED);
        self.attempts.drain(..over);
    }
}

/// A delivery as its tenant sees it.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its identifier, which the receiver gets as `webhook-id`.
    pub id: String,
    /// Where to, without what may be a token.
    pub place: String,
    /// What became of it.
    pub log: DeliveryLog,
}

/// A webhook that this worker is to tell now.
#[derive(Clone, Debug)]
pub struct ClaimedWebhook {
    /// Whose it is.
    pub tenant: TenantId,
    /// What has ended.
    pub subject: Subject,
    /// Whom to tell.
    pub webhook: Webhook,
    /// Which delivery about it this is, from 1.
    pub number: u64,
    /// What was noted so far.
    pub log: DeliveryLog,
    /// How long it is kept once it has ended, in milliseconds.
    pub retention_ms: u64,
    shard: u16,
    /// The step that handed it out.
    step: String,
}

impl ClaimedWebhook {
    /// Its identifier, the same in each attempt.
    #[must_use]
    pub fn id(&self) -> String {
        self.subject.message_id(self.number)
    }
}

/// The name of a record, behind its shard.
fn name_of(subject: Subject) -> String {
    match subject {
        Subject::Job(id) => format!("{JOB}{id}"),
        Subject::Batch(id) => format!("{BATCH}{id}"),
    }
}

/// What has that name.
fn named(name: &str) -> Option<Subject> {
    let job = name.strip_prefix(JOB).and_then(|id| id.parse().ok()).map(Subject::Job);
    job.or_else(|| name.strip_prefix(BATCH).and_then(|id| id.parse().ok()).map(Subject::Batch))
}

impl Queue {
    /// Webhooks that are to be told by now, at most `max`, for `lease_ms` milliseconds: whoever has not said
    /// by then what became of one has lost it to others. `under_way` is how many a tenant has at this
    /// worker already; it gets no more than `max_of_tenant`. Also returns whether there is more to look at at
    /// once: what a tenant may not have is put off for a moment.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn claim_webhooks(
        &self,
        max: usize,
        lease_ms: u64,
        max_of_tenant: usize,
        under_way: &BTreeMap<TenantId, usize>,
    ) -> Result<(Vec<ClaimedWebhook>, bool), Error> {
        self.ready().await?;
        let room: Vec<_> = under_way
            .iter()
            .map(|(tenant, count)| (tenant.clone(), max_of_tenant.saturating_sub(*count)))
            .collect();
        let (mut claimed, mut has_more) = (Vec::new(), false);
        // One after the other, as they share `max`; so no time is spent here on one that is away.
        let waiting = self.shards_in_reach(|shard| self.has_webhooks(shard)).await?;
        for shard in waiting.into_iter().flatten() {
            if claimed.len() >= max {
                break;
            }
            let (step, max) = (Uuid::new_v4().to_string(), max - claimed.len());
            let claim =
                ClaimWebhooks { shard, step: &step, max, lease_ms, max_of_tenant, room: &room };
            let (is_cut, found) = match self.inner.scripts.claim_webhooks(&claim).await {
                Ok(found) => found,
                Err(error) => {
                    // What others handed out is under way; this one is asked again with the next look.
                    tracing::warn!(%error, shard, "cannot ask a shard for webhooks to tell");
                    continue;
                }
            };
            has_more |= is_cut;
            for (name, tenant, webhook, number, log, terms) in found {
                let (tenant, subject) = (TenantId::new(tenant), named(&name));
                let webhook = subject.map(|subject| self.read_webhook(&tenant, subject, webhook));
                let (Some(subject), Some(Ok(webhook))) = (subject, &webhook) else {
                    // Of a later version, or with another key; it is due again for those who know it.
                    let error = webhook.and_then(Result::err).map(|error| error.to_string());
                    tracing::warn!(name, error, "a webhook cannot be read by this worker");
                    continue;
                };
                let terms: Terms = serde_json::from_str(&terms).unwrap_or_default();
                claimed.push(ClaimedWebhook {
                    tenant,
                    subject,
                    webhook: webhook.clone(),
                    number,
                    log: serde_json::from_str(&log).unwrap_or_default(),
                    retention_ms: terms.retention_ms,
                    shard,
                    step: step.clone(),
                });
            }
        }
        Ok((claimed, has_more))
    }

    /// The shard, if webhooks are to be told there, now or later.
    async fn has_webhooks(&self, shard: u16) -> Result<Option<u16>, Error> {
        let mut look = cmd("EXISTS");
        look.arg(keys::webhooks(shard));
        let there_are = self.inner.client.run::<bool>(&look).await.map_err(failure)?;
        Ok(there_are.then_some(shard))
    }

    /// Notes what became of a delivery; it is tried again after `pause_ms`, or never. False if it is not
    /// this worker's any more.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn settle_webhook(
        &self,
        claimed: &ClaimedWebhook,
        log: &DeliveryLog,
        pause_ms: Option<u64>,
    ) -> Result<bool, Error> {
        let (log, of) = (serialize(log)?, claimed.subject.id());
        let settled = SettledWebhook {
            shard: claimed.shard,
            name: &name_of(claimed.subject),
            of: &of,
            step: &claimed.step,
            number: claimed.number,
            log: &log,
            pause_ms,
            retention_ms: claimed.retention_ms,
        };
        self.inner.scripts.settle_webhook(&settled).await.map_err(failure)
    }

    /// A webhook as it was stored.
    fn read_webhook(
        &self,
        tenant: &TenantId,
        subject: Subject,
        mut stored: Vec<u8>,
    ) -> Result<Webhook, Error> {
        let owner = match subject {
            Subject::Job(id) => Owner::Job(id),
            Subject::Batch(id) => Owner::Batch(id),
        };
        let place = Place { tenant, owner, purpose: Purpose::Webhook };
        serde_json::from_slice(self.unseal(place, &mut stored)?).map_err(|error| {
            let message =
                format!("The webhook of {subject} cannot be read by this version of isol8");
            Error::new(ErrorCode::Internal, message).with_source(error)
        })
    }

    /// The deliveries to the webhook of a job or a batch of this tenant, oldest first; `None` if there is no
    /// such one.
    ///
    /// # Errors
    /// [`ErrorCode::SecretsUnreadable`]; [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn deliveries(
        &self,
        tenant: &TenantId,
        subject: Subject,
    ) -> Result<Option<Vec<Delivery>>, Error> {
        let shard = self.shard_of(tenant);
        let mut read = pipe();
        let fields = ["tenant", "webhook", "delivery", "delivering"];
        read.cmd("HMGET").arg(keys::notifier(shard, &name_of(subject))).arg(&fields);
        read.cmd("HGETALL").arg(keys::deliveries(shard, subject.id()));
        type Record = (Option<String>, Option<Vec<u8>>, Option<String>, Option<String>);
        let (record, mut logs): (Record, BTreeMap<u64, String>) =
            self.inner.client.run_all(&read).await.map_err(failure)?;
        let (owner, webhook, last, delivering) = record;
        if owner.as_deref() != Some(tenant.as_str()) {
            return Ok(None);
        }
        let Some(webhook) = webhook else {
            return Ok(Some(Vec::new()));
        };
        let webhook = self.read_webhook(tenant, subject, webhook)?;
        let last = last.and_then(|it| it.parse().ok()).unwrap_or_default();
        if last > 0 {
            // Nothing is noted before the first attempt.
            logs.entry(last).or_default();
        }
        let deliveries = logs.into_iter().map(|(number, log)| {
            let mut log: DeliveryLog = serde_json::from_str(&log).unwrap_or_default();
            let is_under_way = number == last && delivering.is_some();
            match log.state {
                _ if is_under_way => log.state = DeliveryState::Pending,
                DeliveryState::Pending => {
                    log = DeliveryLog { state: DeliveryState::Superseded, next_ms: None, ..log };
                }
                _ => {}
            }
            Delivery { id: subject.message_id(number), place: webhook.place(), log }
        });
        Ok(Some(deliveries.collect()))
    }

    /// Has the webhook of a job or a batch of this tenant told once more, or sooner than it would be.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] if there is no such delivery; [`ErrorCode::InvalidRequest`] if a job has
    /// another end by now; [`ErrorCode::QueueUnavailable`].
    pub async fn retry_webhook(
        &self,
        tenant: &TenantId,
        subject: Subject,
        number: u64,
    ) -> Result<(), Error> {
        self.ready().await?;
        let (shard, name) = (self.shard_of(tenant), name_of(subject));
        let id = subject.message_id(number);
        let outcome = self.inner.scripts.retry_webhook(shard, tenant, &name, number).await;
        match outcome.map_err(failure)?.as_str() {
            "queued" | "underway" => Ok(()),
            "outdated" => Err(Error::invalid(format!(
                "{subject} began anew, and has not the end any more that delivery {id} is about; only \
                 the last one can be had again"
            ))),
            _ => Err(Error::new(ErrorCode::NotFound, format!("{subject} has no delivery {id}"))),
        }
    }
}
