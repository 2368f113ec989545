//! How a job is to be queued: what a client asks for, and the terms that come of it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::retry::{RetryOn, RetryPolicy};
use super::validate::matches_pattern;
use crate::config::Policy;
use crate::error::{Error, ErrorCode};
use crate::id::BatchId;
use crate::labels::Labels;
use crate::timestamp;
use crate::webhook::{Webhook, WebhookOptions};

/// Most tags of a job.
const MAX_TAGS: usize = 16;
/// Longest tag, in bytes.
const MAX_TAG_BYTES: usize = 128;
/// Longest that a job may have to wait, or may take to begin: 30 days.
const MAX_WAIT_MS: u64 = 30 * 86_400_000;
/// Most times that a job is tried.
const MAX_ATTEMPTS: u32 = 100;
/// Longest pause between two tries.
const MAX_BACKOFF_MS: u64 = 86_400_000;
/// First pause and longest one, unless asked otherwise.
const DEFAULT_BACKOFF_MS: u64 = 1000;
const DEFAULT_MAX_BACKOFF_MS: u64 = 300_000;

/// Which jobs begin first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Before others.
    High,
    /// Like everything else.
    #[default]
    Normal,
    /// When there is nothing else, and now and then all the same.
    Low,
}

impl Priority {
    /// All there are, most urgent first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// Its word on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

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
    /// Which jobs begin first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// How long it is to wait at least, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// The moment before which it is not to begin; instead of `delay_ms`.
    #[serde(deserialize_with = "timestamp::optional", skip_serializing_if = "Option::is_none")]
    pub run_at: Option<DateTime<Utc>>,
    /// How long after its submission it may still begin, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// How often the program is tried in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Pause before the second try, in milliseconds; doubled for each further one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff_ms: Option<u64>,
    /// Longest pause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_backoff_ms: Option<u64>,
    /// After which endings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_on: Option<Vec<RetryOn>>,
    /// What its worker must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// How safe it is to be before its submission is answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// Who is to be told how it ended. Not part of the terms: see
    /// [`WebhookRules::admit`](crate::webhook::WebhookRules::admit).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookOptions>,
}

/// The `queue` part of a request that waits for its result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Wish {
    /// How safe it is to be before it counts as queued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// What its worker must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
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
    /// Which jobs begin first.
    pub priority: Priority,
    /// What its worker must have.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// How long it is to wait at least, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// The moment before which it is not to begin, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_at_ms: Option<u64>,
    /// How long after its submission it may still begin, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// Whether and when a program that does not end well is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// Who is told how it ended. Kept apart from the terms: it has a secret in it, and no worker that runs
    /// the job needs it.
    #[serde(skip)]
    pub webhook: Option<Webhook>,
    /// The batch that it is an item of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchId>,
}

impl Wish {
    /// The labels that a job of a tenant with this policy requires.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidRequest`] and [`ErrorCode::PolicyViolation`], naming the field.
    pub fn labels(&self, policy: &Policy) -> Result<Labels, Error> {
        required(self.labels.clone().unwrap_or_default(), policy)
    }
}

impl QueueOptions {
    /// The terms that a tenant with this policy gets. Kept for `retention_ms` unless asked otherwise.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidRequest`] and [`ErrorCode::PolicyViolation`], naming the field.
    pub fn into_terms(self, policy: &Policy, retention_ms: u64) -> Result<Terms, Error> {
        if self.delay_ms.is_some() && self.run_at.is_some() {
            return Err(Error::invalid("queue.delayMs and queue.runAt: give one of them"));
        }
        let delay_ms = within("queue.delayMs", self.delay_ms, 0, MAX_WAIT_MS)?;
        let run_at_ms = self.run_at.map(run_at).transpose()?;
        let expires_ms = within("queue.expiresMs", self.expires_ms, 1, MAX_WAIT_MS)?;
        let (name, wait_ms) = match run_at_ms {
            Some(run_at_ms) => ("runAt", run_at_ms.saturating_sub(timestamp::now_ms())),
            None => ("delayMs", delay_ms.unwrap_or_default()),
        };
        if let Some(expires_ms) = expires_ms.filter(|expires_ms| *expires_ms <= wait_ms) {
            return Err(Error::invalid(format!(
                "queue.{name} is {wait_ms} ms ahead, and queue.expiresMs is {expires_ms}: the job would be over before it \
                 may begin. Both count from its submission"
            )));
        }
        Ok(Terms {
            retry: self.retry()?,
            tags: tags(self.tags.unwrap_or_default())?,
            retention_ms: retention(self.retention_ms, policy, retention_ms)?,
            priority: self.priority.unwrap_or_default(),
            labels: required(self.labels.unwrap_or_default(), policy)?,
            delay_ms,
            run_at_ms,
            expires_ms,
            webhook: None,
            batch: None,
        })
    }

    /// Whether it asks for what the calls of a session, one at a time and in order, cannot have.
    #[must_use]
    pub const fn suits_sessions(&self) -> bool {
        self.priority.is_none()
            && self.delay_ms.is_none()
            && self.run_at.is_none()
            && self.expires_ms.is_none()
            && self.max_attempts.is_none()
    }

    /// Whether it asks for what the items of a batch, which begin as others end, cannot have.
    #[must_use]
    pub const fn suits_batches(&self) -> bool {
        self.delay_ms.is_none() && self.run_at.is_none() && self.expires_ms.is_none()
    }

    fn retry(&self) -> Result<Option<RetryPolicy>, Error> {
        let max_attempts =
            within("queue.maxAttempts", self.max_attempts.map(u64::from), 1, MAX_ATTEMPTS.into())?;
        let backoff_ms = within("queue.backoffMs", self.backoff_ms, 0, MAX_BACKOFF_MS)?;
        let max_backoff_ms = within("queue.maxBackoffMs", self.max_backoff_ms, 0, MAX_BACKOFF_MS)?;
        if let (Some(first), Some(longest)) = (backoff_ms, max_backoff_ms)
            && first > longest
        {
            return Err(Error::invalid(format!(
                "queue.backoffMs is {first}, more than queue.maxBackoffMs, the longest pause, which is {longest}"
            )));
        }
        let Some(max_attempts) = max_attempts.filter(|attempts| *attempts > 1) else {
            return Ok(None);
        };
        Ok(Some(RetryPolicy {
            max_attempts: u32::try_from(max_attempts).unwrap_or(MAX_ATTEMPTS),
            backoff_ms: backoff_ms.unwrap_or(DEFAULT_BACKOFF_MS),
            max_backoff_ms: max_backoff_ms
                .unwrap_or_else(|| DEFAULT_MAX_BACKOFF_MS.max(backoff_ms.unwrap_or_default())),
            retry_on: self.retry_on.clone().unwrap_or_else(|| RetryOn::ALL.to_vec()),
        }))
    }
}

fn within(name: &str, asked: Option<u64>, least: u64, most: u64) -> Result<Option<u64>, Error> {
    match asked {
        Some(asked) if !(least..=most).contains(&asked) => {
            Err(Error::invalid(format!("{name} must be {least} to {most}")))
        }
        asked => Ok(asked),
    }
}

fn run_at(time: DateTime<Utc>) -> Result<u64, Error> {
    let ms = u64::try_from(time.timestamp_millis()).unwrap_or_default();
    if ms > timestamp::now_ms().saturating_add(MAX_WAIT_MS) {
        return Err(Error::invalid("queue.runAt must be within 30 days"));
    }
    Ok(ms)
}

/// The labels that a job requires, if it may.
///
/// # Errors
/// [`ErrorCode::InvalidRequest`] and [`ErrorCode::PolicyViolation`], naming the field.
fn required(labels: Labels, policy: &Policy) -> Result<Labels, Error> {
    labels.check_required()?;
    for (name, value) in labels.iter() {
        let label = format!("{name}={value}");
        if !policy.labels.iter().any(|pattern| matches_pattern(pattern, &label)) {
            return Err(Error::new(
                ErrorCode::PolicyViolation,
                format!(
                    "queue.labels: {label} is not allowed by this server's policy (policy.labels)"
                ),
            ));
        }
    }
    Ok(labels)
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
