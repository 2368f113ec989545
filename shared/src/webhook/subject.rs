//! What a webhook is told of: the end of a job or of a batch, what that was, and how a delivery about it is
//! named.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{BatchId, JobId};
use crate::redis::{BatchRecord, JobRecord};

/// What may bring a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectKind {
    /// A job.
    Job,
    /// A batch.
    Batch,
}

impl SubjectKind {
    /// What a webhook of such a thing may want to hear of.
    #[must_use]
    pub const fn events(self) -> &'static [WebhookEvent] {
        match self {
            Self::Job => &[
                WebhookEvent::Succeeded,
                WebhookEvent::Failed,
                WebhookEvent::Cancelled,
                WebhookEvent::Expired,
                WebhookEvent::DeadLetter,
            ],
            Self::Batch => {
                &[WebhookEvent::Completed, WebhookEvent::Failed, WebhookEvent::Cancelled]
            }
        }
    }

    /// The `type` that an event has in a delivery, like `job.failed`.
    #[must_use]
    pub fn type_of(self, event: WebhookEvent) -> String {
        format!("{self}.{}", event.name())
    }
}

impl fmt::Display for SubjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Job => "job",
            Self::Batch => "batch",
        })
    }
}

/// What has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A job.
    Job(JobId),
    /// A batch.
    Batch(BatchId),
}

impl Subject {
    /// What it is.
    #[must_use]
    pub const fn kind(self) -> SubjectKind {
        match self {
            Self::Job(_) => SubjectKind::Job,
            Self::Batch(_) => SubjectKind::Batch,
        }
    }

    /// Its identifier alone.
    #[must_use]
    pub fn id(self) -> String {
        match self {
            Self::Job(id) => id.to_string(),
            Self::Batch(id) => id.to_string(),
        }
    }

    /// The identifier of a delivery, the same for each attempt: `number` is which end of it this is, from 1.
    #[must_use]
    pub fn message_id(self, number: u64) -> String {
        format!("msg_{}_{number}", self.id())
    }

    /// The number in the identifier of a delivery about it.
    #[must_use]
    pub fn message_number(self, id: &str) -> Option<u64> {
        id.strip_prefix(&format!("msg_{}_", self.id()))?.parse().ok()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Job(id) => write!(f, "Job {id}"),
            Self::Batch(id) => write!(f, "Batch {id}"),
        }
    }
}

/// What a webhook may want to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookEvent {
    /// The program of the job ended with exit code 0.
    Succeeded,
    /// All items of the batch were run, however they ended.
    Completed,
    /// The program ended otherwise, or could not be run; the batch was stopped as too many items failed, or
    /// as items got lost.
    Failed,
    /// It was cancelled.
    Cancelled,
    /// The job did not begin in time.
    Expired,
    /// The job was given up because workers or sandboxes failed under it.
    DeadLetter,
}

impl WebhookEvent {
    /// What became of a job that has ended.
    #[must_use]
    pub fn of_job(record: &JobRecord) -> Self {
        if record.is_dead {
            return Self::DeadLetter;
        }
        let summary = record.summary.as_ref();
        match summary.map(|it| (it.outcome.as_str(), it.exit_code)) {
            Some(("exited", Some(0) | None)) => Self::Succeeded,
            Some(("cancelled", _)) => Self::Cancelled,
            Some(("expired", _)) => Self::Expired,
            _ => Self::Failed,
        }
    }

    /// What became of a batch that has ended.
    #[must_use]
    pub fn of_batch(record: &BatchRecord) -> Self {
        match record.outcome.as_deref() {
            Some("completed") => Self::Completed,
            Some("cancelled") => Self::Cancelled,
            _ => Self::Failed,
        }
    }

    /// Its name, as requests and deliveries spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::DeadLetter => "dead_letter",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_are_named_by_what_they_are_about() {
        for subject in [Subject::Job(JobId::generate()), Subject::Batch(BatchId::generate())] {
            assert_eq!(subject.message_number(&subject.message_id(7)), Some(7));
            let other = Subject::Job(JobId::generate());
            assert_eq!(other.message_number(&subject.message_id(7)), None);
            assert_eq!(subject.message_number("msg_x"), None);
        }
    }

    #[test]
    fn events_are_spelt_in_one_way() {
        for kind in [SubjectKind::Job, SubjectKind::Batch] {
            for event in kind.events() {
                assert_eq!(serde_json::to_value(event).unwrap(), event.name());
                assert_eq!(kind.type_of(*event), format!("{kind}.{}", event.name()));
            }
        }
    }
}
