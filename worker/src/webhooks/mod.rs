//! Tells webhooks how jobs and batches ended. A delivery is put down by the script that ends one; whichever
//! worker finds it due tries it, for a lease's time, until the receiver takes it or it is given up.

mod message;
mod news;
mod post;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::Utc;
use reqwest::Client;
use shared::Error;
use shared::config::{self, Config};
use shared::execution::backoff;
use shared::id::TenantId;
use shared::net::Resolver;
use shared::redis::{ClaimedWebhook, DeliveryAttempt, DeliveryLog, DeliveryState};
use shared::webhook::WebhookRules;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{Context, checked_http};
use news::News;
use post::{Answer, Letter, post};

/// What a delivery may take besides its receiver's time.
const MARGIN: Duration = Duration::from_secs(5);
/// Longest that a receiver's `Retry-After` is heeded.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Longest from the first try to the last: for longer, what it is about is not kept.
const MAX_DELIVERY: Duration = Duration::from_secs(2 * 24 * 3600);

/// Delivers to webhooks; cheap to clone.
#[derive(Clone)]
pub struct Webhooks {
    inner: Arc<Inner>,
}

struct Inner {
    settings: config::Webhooks,
    rules: WebhookRules,
    client: Client,
    slots: Arc<Semaphore>,
    under_way: Mutex<BTreeMap<TenantId, usize>>,
    wake: Notify,
}

impl Webhooks {
    /// By the rules of `config`.
    ///
    /// # Errors
    /// If a secret's file cannot be read, or TLS cannot be set up.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let (rules, settings) = (WebhookRules::new(config)?, config.webhooks.clone());
        let timeout = Duration::from_millis(settings.timeout_ms);
        let resolver = Resolver::of_servers(&config.worker.resolvers)?;
        let client = checked_http::client(resolver, rules.addresses().clone(), timeout)?;
        let inner = Inner {
            rules,
            client,
            slots: Arc::new(Semaphore::new(settings.max_concurrent)),
            under_way: Mutex::default(),
            wake: Notify::new(),
            settings,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Something is due.
    pub(crate) fn wake(&self) {
        self.inner.wake.notify_one();
    }

    fn under_way(&self) -> MutexGuard<'_, BTreeMap<TenantId, usize>> {
        self.inner.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a delivery of a tenant for as long as what is returned lives.
    fn count(&self, tenant: &TenantId) -> UnderWay {
        *self.under_way().entry(tenant.clone()).or_default() += 1;
        UnderWay { webhooks: self.clone(), tenant: tenant.clone() }
    }
}

/// A delivery that is under way.
struct UnderWay {
    webhooks: Webhooks,
    tenant: TenantId,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut counts = self.webhooks.under_way();
        if let Some(count) = counts.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.tenant);
            }
        }
    }
}

/// Delivers what is due, whenever something may be, until `token` is cancelled; what is under way then is
/// left to other workers.
pub(crate) async fn deliver(context: Arc<Context>, token: CancellationToken) {
    let tasks = TaskTracker::new();
    while token.run_until_cancelled(context.webhooks.inner.wake.notified()).await.is_some() {
        if let Err(error) = deliver_due(&context, &token, &tasks).await {
            tracing::warn!(%error, "cannot ask for webhooks to tell; trying again");
        }
    }
    tasks.close();
    tasks.wait().await;
}

async fn deliver_due(
    context: &Arc<Context>,
    token: &CancellationToken,
    tasks: &TaskTracker,
) -> shared::Result<()> {
    let inner = &context.webhooks.inner;
    let settings = &inner.settings;
    let lease = Duration::from_millis(settings.timeout_ms) + MARGIN;
    let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
    let of_tenant = settings.max_concurrent.div_ceil(4);
    loop {
        let acquired = token.run_until_cancelled(Arc::clone(&inner.slots).acquire_owned()).await;
        let Some(Ok(first)) = acquired else { return Ok(()) };
        // Only this task takes them.
        let more = inner.slots.available_permits();
        let under_way = context.webhooks.under_way().clone();
        let claiming = context.queue.claim_webhooks(1 + more, lease_ms, of_tenant, &under_way);
        let (claimed, has_more) = claiming.await?;
        drop(first);
        if claimed.is_empty() && !has_more {
            return Ok(());
        }
        for webhook in claimed {
            let slot = Arc::clone(&inner.slots).acquire_owned().await;
            let counted = context.webhooks.count(&webhook.tenant);
            let (context, token) = (Arc::clone(context), token.clone());
            tasks.spawn(async move {
                if let Err(error) = tell(&context, &token, &webhook).await {
                    let id = webhook.id();
                    tracing::warn!(id, %error, "a webhook could not be told; it is due again");
                }
                drop((slot, counted));
            });
        }
    }
}

/// Makes one attempt at a delivery, and notes how it ended.
async fn tell(
    context: &Context,
    token: &CancellationToken,
    claimed: &ClaimedWebhook,
) -> shared::Result<()> {
    let mut log = claimed.log.clone();
    let Some(outcome) = token.run_until_cancelled(attempt(context, claimed, &mut log)).await else {
        // This worker goes; somebody else does it at once, and this attempt does not count.
        context.queue.settle_webhook(claimed, &claimed.log, Some(0)).await?;
        return Ok(());
    };
    let pause = outcome?;
    let pause_ms = pause.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX));
    let now_ms = u64::try_from(Utc::now().timestamp_millis()).unwrap_or_default();
    log.next_ms = pause_ms.map(|pause_ms| now_ms.saturating_add(pause_ms));
    let is_ours = context.queue.settle_webhook(claimed, &log, pause_ms).await?;
    let outcome = match log.state {
        _ if !is_ours => "fenced",
        DeliveryState::Delivered => "delivered",
        DeliveryState::Skipped => "skipped",
        DeliveryState::Pending => "retried",
        DeliveryState::Failed | DeliveryState::Superseded => "failed",
    };
    context.metrics.webhook_tried(outcome);
    tracing::debug!(id = claimed.id(), outcome, "told a webhook");
    Ok(())
}

/// Makes it; when to try again, if at all.
async fn attempt(
    context: &Context,
    claimed: &ClaimedWebhook,
    log: &mut DeliveryLog,
) -> shared::Result<Option<Duration>> {
    let (queue, webhook) = (&context.queue, &claimed.webhook);
    let inner = &context.webhooks.inner;
    let Some(news) = News::read(queue, &claimed.tenant, claimed.subject).await? else {
        // It was forgotten, or driven again, in this moment.
        log.state = DeliveryState::Superseded;
        return Ok(None);
    };
    let event = news.event();
    log.event = Some(event);
    if !webhook.wants(event) {
        log.state = DeliveryState::Skipped;
        return Ok(None);
    }
    let body = news.into_body(queue, inner.settings.max_body_bytes).await?;
    let (id, begun, now) = (claimed.id(), Instant::now(), Utc::now());
    let timestamp_s = now.timestamp();
    let signature = message::signature(&webhook.secret, &id, timestamp_s, &body);
    let letter = Letter { url: &webhook.url, id: &id, timestamp_s, signature: &signature, body };
    let timeout = Duration::from_millis(inner.settings.timeout_ms);
    let answer = post(&inner.client, &inner.rules, timeout, letter).await;
    let (status, error) = describe(&answer);
    log.note(DeliveryAttempt {
        at_ms: u64::try_from(now.timestamp_millis()).unwrap_or_default(),
        took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        worker: context.worker.to_string(),
        status,
        error,
    });
    let chance = RandomState::new().hash_one(&id);
    let pause = next_pause(&inner.settings, &answer, log.tries, chance)
        .filter(|pause| since_first(log) + *pause <= MAX_DELIVERY);
    log.state = match (&answer, pause) {
        (Answer::Taken(_), _) => DeliveryState::Delivered,
        (_, Some(_)) => DeliveryState::Pending,
        (_, None) => DeliveryState::Failed,
    };
    Ok(pause)
}

/// How long ago the first attempt was that is still noted.
fn since_first(log: &DeliveryLog) -> Duration {
    let now_ms = u64::try_from(Utc::now().timestamp_millis()).unwrap_or_default();
    let first_ms = log.attempts.first().map_or(now_ms, |first| first.at_ms);
    Duration::from_millis(now_ms.saturating_sub(first_ms))
}

/// What is noted of an answer: its status, and what was wrong with it.
fn describe(answer: &Answer) -> (Option<u16>, Option<String>) {
    match answer {
        Answer::Taken(status) => (Some(*status), None),
        Answer::Gone(status) => {
            (Some(*status), Some("the receiver wants no more of this".to_owned()))
        }
        Answer::Refused(status @ 300..=399, _) => {
            (Some(*status), Some("the receiver redirects, which is not followed".to_owned()))
        }
        Answer::Refused(status, _) => {
            (Some(*status), Some(format!("the receiver answered {status}")))
        }
        Answer::Nothing(why) | Answer::Forbidden(why) => (None, Some(why.clone())),
    }
}

/// How long to wait before the next of the tries, `tries` of which were made; `None` if there is none.
fn next_pause(
    settings: &config::Webhooks,
    answer: &Answer,
    tries: u32,
    chance: u64,
) -> Option<Duration> {
    let asked_for = match answer {
        Answer::Taken(_) | Answer::Gone(_) | Answer::Forbidden(_) => return None,
        _ if tries >= settings.max_attempts => return None,
        Answer::Refused(_, wait) => wait.unwrap_or_default().min(MAX_RETRY_AFTER),
        Answer::Nothing(_) => Duration::ZERO,
    };
    let earlier = tries.saturating_sub(1);
    let pause = backoff(settings.backoff_ms, settings.max_backoff_ms, earlier, chance);
    Some(pause.max(asked_for))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_spaced_and_bounded() {
        let settings = config::Webhooks {
            max_attempts: 3,
            backoff_ms: 100,
            max_backoff_ms: 150,
            ..config::Webhooks::default()
        };
        let pause = |answer: Answer, tries| {
            next_pause(&settings, &answer, tries, 0).map(|it| it.as_millis())
        };
        let nothing = || Answer::Nothing(String::new());
        assert_eq!(pause(nothing(), 1), Some(50));
        assert_eq!(pause(nothing(), 2), Some(75));
        assert_eq!(pause(nothing(), 3), None);
        let asked = |seconds| Answer::Refused(503, Some(Duration::from_secs(seconds)));
        assert_eq!(pause(asked(7), 1), Some(7000));
        assert_eq!(pause(asked(1 << 40), 1), Some(86_400_000));
        assert_eq!(pause(Answer::Refused(500, None), 1), Some(50));
        for last in [Answer::Taken(204), Answer::Gone(410), Answer::Forbidden(String::new())] {
            assert_eq!(pause(last, 1), None);
        }
    }
}
