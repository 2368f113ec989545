//! Jobs that outlive their request, and dead letters.

use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use shared::execution::{ExecutionOptions, QueueOptions};

use crate::client::Client;
use crate::error::ClientError;
use crate::execute::Execution;
use crate::stream::Delivery;
use crate::stream::sse;

/// A job.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// Its identifier.
    pub id: String,
    /// `queued`, `running` or `finished`.
    pub state: String,
    /// When it was submitted; not told by the submission itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<DateTime<Utc>>,
    /// How it ended, like `exited` or `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Its program's exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// How often it was begun.
    #[serde(default)]
    pub attempts: u64,
    /// Words to find it by.
    #[serde(default)]
    pub tags: Vec<String>,
    /// All else that the server sent: `result`, `error`, `waiting`, `earlierAttempts` and more.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// Which jobs to list; what is absent excludes none.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobQuery {
    /// `queued`, `running` or `finished`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// One of their tags.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The `next_cursor` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most jobs on the page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Another tenant, for the master.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
}

/// Some jobs, newest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobPage {
    /// The jobs.
    pub jobs: Vec<Job>,
    /// Where the next page begins, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Something that happened in a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobEvent {
    /// What happened.
    #[serde(rename = "type")]
    pub kind: JobEventType,
    /// Output, or an error's words.
    #[serde(default)]
    pub data: String,
    /// How the job ended.
    #[serde(default)]
    pub outcome: Option<String>,
    /// Its program's exit code.
    #[serde(default)]
    pub exit_code: Option<i64>,
    /// Why it could not be run.
    #[serde(default)]
    pub error: Option<String>,
    /// Events that a gap stands for.
    #[serde(default)]
    pub count: u64,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobEventType {
    /// The program wrote to its standard output.
    Stdout,
    /// The program wrote to its standard error.
    Stderr,
    /// The setup script ended well.
    SetupEnded,
    /// The job begins anew.
    Restarted,
    /// Events are not kept any more.
    Gap,
    /// The job is over.
    End,
    /// The stream ends, the job does not.
    Error,
    /// Something this version does not know.
    #[serde(other)]
    Other,
}

/// The output of a job, event by event.
pub struct JobOutput(BoxStream<'static, Result<Delivery<JobEvent>, ClientError>>);

impl JobOutput {
    /// The next event; `None` when the server says no more, which is after the job's end if it was
    /// followed.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] if the connection breaks.
    pub async fn next(&mut self) -> Option<Result<JobEvent, ClientError>> {
        match self.0.next().await? {
            Ok(Delivery::Event(event)) => Some(Ok(event)),
            Ok(Delivery::End(_)) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

impl Client {
    /// Submits a job. The same key with the same request is the same job.
    ///
    /// # Errors
    /// [`ClientError::Refused`], [`ClientError::Unreachable`], [`ClientError::Response`].
    pub async fn submit_job(
        &self,
        execution: &Execution,
        queue: &QueueOptions,
        idempotency_key: Option<&str>,
    ) -> Result<Job, ClientError> {
        let body = execution.to_job(self.session_of(execution), queue)?;
        let mut request = self.request(Method::POST, &["v1", "jobs"]).json(&body);
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        self.fetch("Failed to submit the job", request).await
    }

    /// A job, at its end or after `wait_ms`, whichever comes first.
    ///
    /// # Errors
    /// Those of [`Self::submit_job`], and 404 for an unknown one.
    pub async fn job(&self, id: &str, wait_ms: u64) -> Result<Job, ClientError> {
        let request = self.request(Method::GET, &["v1", "jobs", id]).query(&[("wait", wait_ms)]);
        self.fetch("Failed to look at the job", request).await
    }

    /// A page of jobs.
    ///
    /// # Errors
    /// Those of [`Self::submit_job`].
    pub async fn list_jobs(&self, query: &JobQuery) -> Result<JobPage, ClientError> {
        let request = self.request(Method::GET, &["v1", "jobs"]).query(query);
        self.fetch("Failed to list jobs", request).await
    }

    /// Ends a job; returns once nothing of it runs any more.
    ///
    /// # Errors
    /// Those of [`Self::job`].
    pub async fn cancel_job(&self, id: &str) -> Result<Job, ClientError> {
        let request = self.request(Method::DELETE, &["v1", "jobs", id]);
        self.fetch("Failed to cancel the job", request).await
    }

    /// What a job wrote, and, if it is followed, writes until its end.
    ///
    /// # Errors
    /// Those of [`Self::job`].
    pub async fn job_output(&self, id: &str, follow: bool) -> Result<JobOutput, ClientError> {
        let request = self.request(Method::GET, &["v1", "jobs", id, "output"]);
        let request = request.query(&[("follow", follow)]);
        let response = self.send_ok("Failed to read the job's output", request).await?;
        Ok(JobOutput(sse::events(self, response)))
    }

    /// A page of dead letters; `state` and `tag` of the query are not asked for.
    ///
    /// # Errors
    /// Those of [`Self::submit_job`].
    pub async fn list_dead_letters(&self, query: &JobQuery) -> Result<JobPage, ClientError> {
        let request = self.request(Method::GET, &["v1", "dead-letters"]).query(query);
        self.fetch("Failed to list dead letters", request).await
    }

    /// A dead letter, with its evidence.
    ///
    /// # Errors
    /// Those of [`Self::job`].
    pub async fn dead_letter(&self, id: &str) -> Result<Job, ClientError> {
        let request = self.request(Method::GET, &["v1", "dead-letters", id]);
        self.fetch("Failed to look at the dead letter", request).await
    }

    /// Has a dead letter run after all, with the limits changed that `options` names.
    ///
    /// # Errors
    /// Those of [`Self::job`].
    pub async fn redrive(&self, id: &str, options: &ExecutionOptions) -> Result<Job, ClientError> {
        let request = self.request(Method::POST, &["v1", "dead-letters", id, "redrive"]);
        let request = request.json(&json!({"options": options}));
        self.fetch("Failed to drive the job again", request).await
    }

    /// Forgets a dead letter.
    ///
    /// # Errors
    /// Those of [`Self::job`].
    pub async fn forget_dead_letter(&self, id: &str) -> Result<(), ClientError> {
        let request = self.request(Method::DELETE, &["v1", "dead-letters", id]);
        self.send_ok("Failed to forget the dead letter", request).await.map(drop)
    }
}
