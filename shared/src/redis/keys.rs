//! The names of everything the queue keeps in Redis. No other file names a key.
//!
//! All keys of a tenant share the hash tag `{s<n>}`, so that one script may change several of them
//! on a Redis Cluster too.

use std::fmt::Display;

use crate::id::{GatewayId, TenantId};

/// Consumer group of every work stream; its consumers are workers, named by their `WorkerId`.
pub(super) const GROUP: &str = "workers";

/// Field of a stream entry that names the job.
pub(super) const ENTRY_JOB: &str = "job";

/// What the whole fleet must agree on.
///
/// Type: hash (`shards`). Owner: whoever connects first. Lifetime: permanent.
pub(super) const FLEET: &str = "v1:fleet";

/// Start of the reply channels' names; scripts append the gateway.
pub(super) const REPLY_PREFIX: &str = "v1:reply:";

/// Where a gateway hears that its jobs ended.
///
/// Type: pub/sub channel. Owner: the gateway. Lifetime: that of its subscription.
pub(super) fn replies(gateway: GatewayId) -> String {
    format!("{REPLY_PREFIX}{gateway}")
}

/// Jobs of a shard that wait or run, oldest first; an entry holds the job's identifier alone.
///
/// Type: stream with group [`GROUP`]. Owner: the queue's scripts. Lifetime: permanent; an entry
/// goes when its job ends. Never trimmed by length: that would lose jobs.
pub(super) fn jobs(shard: u16) -> String {
    format!("v1:{{s{shard}}}:jobs")
}

/// The truth about one job.
///
/// Type: hash (`tenant`, `state`, `payload` until it ends, `reply_to`, `attempt`, `enqueued_us`,
/// `queued_us`, `started_us`, `entry`, `worker`, `ended_by`,
/// `result`). Owner: the queue's
/// scripts. Lifetime: until the job ends, then `redis.resultTtlMs`.
pub(super) fn record(shard: u16, job: impl Display) -> String {
    format!("v1:{{s{shard}}}:job:{job}")
}

/// The shard of a tenant: the same on every machine and in every version, so FNV-1a rather than
/// the standard library's seeded hash.
pub(super) fn shard_of(tenant: &TenantId, shards: u16) -> u16 {
    let hash = tenant.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // FNV's low bits are its weakest; fold the upper half in before taking the remainder.
    let folded = hash ^ (hash >> 32);
    u16::try_from(folded % u64::from(shards.max(1))).expect("a remainder is below its u16 divisor")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shard_of_a_tenant_never_changes() {
        // Written down once: another value would send queued jobs' owners to other keys.
        assert_eq!(shard_of(&TenantId::new(""), 1000), 945);
        assert_eq!(shard_of(&TenantId::new("acme"), 1000), 196);
    }

    #[test]
    fn tenants_spread_evenly() {
        let mut counts = [0_u32; 8];
        for number in 0..8000 {
            counts[usize::from(shard_of(&TenantId::new(format!("tenant-{number}")), 8))] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn keys_of_a_shard_share_its_hash_tag() {
        assert_eq!(jobs(3), "v1:{s3}:jobs");
        assert_eq!(record(3, "x"), "v1:{s3}:job:x");
    }
}
