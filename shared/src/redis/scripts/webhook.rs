//! The scripts about webhooks.

use redis::RedisResult;

use super::Scripts;
use crate::id::TenantId;
use crate::redis::keys;

/// Webhooks of one shard to hand out.
pub(in crate::redis) struct ClaimWebhooks<'a> {
    pub(in crate::redis) shard: u16,
    /// A name for this step.
    pub(in crate::redis) step: &'a str,
    pub(in crate::redis) max: usize,
    pub(in crate::redis) lease_ms: u64,
    pub(in crate::redis) max_of_tenant: usize,
    /// Tenants with some under way, and how many more they may have.
    pub(in crate::redis) room: &'a [(TenantId, usize)],
}

/// A webhook handed out: the record's name, tenant, webhook, number of the delivery, its log, terms.
pub(in crate::redis) type ClaimedWebhook = (String, String, Vec<u8>, u64, String, String);

/// How an attempt ended.
pub(in crate::redis) struct SettledWebhook<'a> {
    pub(in crate::redis) shard: u16,
    /// Of the record, and what it is of.
    pub(in crate::redis) name: &'a str,
    pub(in crate::redis) of: &'a str,
    pub(in crate::redis) step: &'a str,
    pub(in crate::redis) number: u64,
    pub(in crate::redis) log: &'a str,
    /// `None` if it is not tried again.
    pub(in crate::redis) pause_ms: Option<u64>,
    /// How long it is kept once it has ended.
    pub(in crate::redis) retention_ms: u64,
}

impl Scripts {
    /// Hands out webhooks that are to be told by now; first, whether there are more than were looked at.
    pub(in crate::redis) async fn claim_webhooks(
        &self,
        claim: &ClaimWebhooks<'_>,
    ) -> RedisResult<(bool, Vec<ClaimedWebhook>)> {
        let mut call = self.claim_webhooks.call(&[keys::webhooks(claim.shard)]);
        call.arg(claim.step).arg(claim.max).arg(claim.lease_ms).arg(claim.max_of_tenant);
        for (tenant, room) in claim.room {
            call.arg(tenant.as_str()).arg(room);
        }
        self.claim_webhooks.run(&self.client, &call).await
    }

    /// Notes how an attempt ended; false if fenced.
    pub(in crate::redis) async fn settle_webhook(
        &self,
        it: &SettledWebhook<'_>,
    ) -> RedisResult<bool> {
        let mut call = self.settle_webhook.call(&[
            keys::notifier(it.shard, it.name),
            keys::deliveries(it.shard, it.of),
            keys::webhooks(it.shard),
        ]);
        let pause_ms = it.pause_ms.map(|it| it.to_string()).unwrap_or_default();
        call.arg(it.name)
            .arg(it.step)
            .arg(it.number)
            .arg(it.log)
            .arg(pause_ms)
            .arg(it.retention_ms);
        self.settle_webhook.run(&self.client, &call).await
    }

    /// Has the webhook of a record of this name told once more: 'queued', 'underway', 'unknown' or
    /// 'outdated'.
    pub(in crate::redis) async fn retry_webhook(
        &self,
        shard: u16,
        tenant: &TenantId,
        name: &str,
        number: u64,
    ) -> RedisResult<String> {
        let record = keys::notifier(shard, name);
        let mut call = self.retry_webhook.call(&[record, keys::webhooks(shard)]);
        call.arg(tenant.as_str()).arg(name).arg(number);
        self.retry_webhook.run(&self.client, &call).await
    }
}
