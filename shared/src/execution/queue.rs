//! How a job is to be queued: what a client asks for, and the terms that come of it.

use serde::{Deserialize, Serialize};

use crate::config::Policy;
use crate::error::{Error, ErrorCode};

/// Most tags of a job.
const MAX_TAGS: usize = 16;
/// Longest tag, in bytes.
const MAX_TAG_BYTES: usize = 128;

/// The `queue` part of a submission. A field nobody knows is refused: a misspelt one would be a wish
/// that nobody hears.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct QueueOptions {
    /// Words to find it by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    /// How long it is kept once it has ended, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_ms: Option<u64>,
    /// How safe it is to be before its submission is answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
}

/// The `queue` part of a request that waits for its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Wish {
    /// How safe it is to be before it counts as queued.
    pub durability: Durability,
}

/// What a job survives once its submission was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// What Redis is set to: with `appendfsync everysec`, a death of Redis costs about a second.
    #[default]
    Fast,
    /// The loss of the primary: one replica has it too.
    Replicated,
    /// A loss of power: it is on the primary's disk. Needs Redis 7.2 or Valkey.
    Synced,
}

/// What holds for a listed job, every default filled in. Kept with the job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Terms {
    /// Words to find it by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// How long it is kept once it has ended, in milliseconds.
    pub retention_ms: u64,
}

impl QueueOptions {
    /// The terms that a tenant with this policy gets. Kept for `retention_ms` unless asked otherwise.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidRequest`] and [`ErrorCode::PolicyViolation`], naming the field.
    pub fn into_terms(self, policy: &Policy, retention_ms: u64) -> Result<Terms, Error> {
        Ok(Terms {
            tags: tags(self.tags.unwrap_or_default())?,
            retention_ms: retention(self.retention_ms, policy, retention_ms)?,
        })
    }
}

fn tags(tags: Vec<String>) -> Result<Vec<String>, Error> {
    if tags.len() > MAX_TAGS {
        return Err(Error::invalid(format!("queue.tags: at most {MAX_TAGS} tags")));
    }
    let is_plain = |tag: &String| {
        !tag.is_empty() && tag.len() <= MAX_TAG_BYTES && !tag.contains(char::is_control)
    };
    if !tags.iter().all(is_plain) {
        return Err(Error::invalid(format!(
            "queue.tags: a tag is 1 to {MAX_TAG_BYTES} bytes long, without control characters"
        )));
    }
    Ok(tags)
}

fn retention(asked: Option<u64>, policy: &Policy, default: u64) -> Result<u64, Error> {
    let most = policy.max_retention_ms;
    match asked {
        Some(asked) if asked > most => Err(Error::new(
            ErrorCode::PolicyViolation,
            format!(
                "queue.retentionMs is {asked}, over this server's ceiling of {most} \
                 (policy.maxRetentionMs)"
            ),
        )),
        Some(0) => Err(Error::invalid("queue.retentionMs must be at least 1")),
        Some(asked) => Ok(asked),
        None => Ok(default.min(most)),
    }
}
