//! The script that takes in listed jobs, many in one call.

use redis::{Cmd, RedisResult};

use super::{Refusal, Scripts};
use crate::id::TenantId;
use crate::redis::keys;
use crate::redis::queue::Quota;

/// A tenant and what it may have.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::redis) struct Account {
    pub(in crate::redis) tenant: TenantId,
    pub(in crate::redis) quota: Quota,
}

impl Account {
    /// As `read_account` of `functions/submitting.lua` takes it.
    pub(super) fn add_to(&self, call: &mut Cmd) {
        let Self { tenant, quota } = self;
        call.arg(tenant.as_str())
            .arg(quota.max_active)
            .arg(quota.per_second)
            .arg(quota.weight)
            .arg(quota.max_open)
            .arg(quota.max_open_bytes)
            .arg(quota.max_kept)
            .arg(quota.max_kept_bytes);
    }
}

/// A listed job to take in.
#[derive(Clone, Debug)]
pub(in crate::redis) struct NewSubmission {
    pub(in crate::redis) account: Account,
    pub(in crate::redis) id: String,
    /// As it is stored, sealed or not.
    pub(in crate::redis) payload: Vec<u8>,
    pub(in crate::redis) reply_to: String,
    pub(in crate::redis) interactive: bool,
    pub(in crate::redis) listing: NewListing,
}

/// What a new job that outlives its request comes with.
#[derive(Clone, Debug)]
pub(in crate::redis) struct NewListing {
    /// How long it is kept once it has ended.
    pub(in crate::redis) keep_ms: u64,
    /// Its terms as JSON.
    pub(in crate::redis) terms: String,
    /// Its idempotency key and what tells its request from others; '' if there is none.
    pub(in crate::redis) once: String,
    pub(in crate::redis) request: String,
    /// What names its lines; '' for the normal ones, without placement.
    pub(in crate::redis) priority: String,
    pub(in crate::redis) delay_ms: u64,
    pub(in crate::redis) run_at_ms: u64,
    pub(in crate::redis) expires_ms: u64,
    /// Its webhook as it is stored, sealed or not; '' if it has none.
    pub(in crate::redis) webhook: Vec<u8>,
}

impl NewSubmission {
    /// How much of the call it takes, about, in bytes.
    pub(in crate::redis) fn size(&self) -> usize {
        self.payload.len() + self.listing.terms.len() + self.listing.webhook.len()
    }

    /// As `read_new_job` of `functions/submitting.lua` takes it. `account` is which of the tenants' it is,
    /// counted from one.
    pub(super) fn add_to(&self, call: &mut Cmd, account: usize) {
        let it = &self.listing;
        call.arg(account)
            .arg(&self.id)
            .arg(&self.payload)
            .arg(&self.reply_to)
            .arg(u8::from(self.interactive))
            .arg(it.keep_ms)
            .arg(&it.terms)
            .arg(&it.once)
            .arg(&it.request)
            .arg(&it.priority)
            .arg(it.delay_ms)
            .arg(it.run_at_ms)
            .arg(it.expires_ms)
            .arg(&it.webhook);
    }
}

impl Scripts {
    /// Takes in listed jobs of one shard, or says of each why not.
    pub(in crate::redis) async fn submit(
        &self,
        shard: u16,
        new: &[NewSubmission],
        max_queued: u64,
    ) -> RedisResult<Vec<Refusal>> {
        let mut accounts: Vec<&Account> = Vec::new();
        let mut places = Vec::with_capacity(new.len());
        for submission in new {
            let known = accounts.iter().position(|it| **it == submission.account);
            places.push(known.unwrap_or(accounts.len()) + 1);
            if known.is_none() {
                accounts.push(&submission.account);
            }
        }
        let records: Vec<String> = new.iter().map(|it| keys::record(shard, &it.id)).collect();
        let mut call = self.submit.call(&records);
        call.arg(max_queued).arg(accounts.len());
        for account in accounts {
            account.add_to(&mut call);
        }
        for (submission, place) in new.iter().zip(places) {
            submission.add_to(&mut call, place);
        }
        self.submit.run(&self.client, &call).await
    }
}
