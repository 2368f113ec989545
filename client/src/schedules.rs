//! Schedules: programs that are submitted as jobs when their time comes.

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use shared::execution::{Missed, Overlap, QueueOptions};

use crate::client::Client;
use crate::error::ClientError;
use crate::execute::Execution;

/// When a schedule's jobs are to be submitted.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleOptions {
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Cron pattern of five fields, or six with seconds in front.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// The one moment, instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
    /// Where the pattern's clock hangs, like `Europe/Paris`; UTC unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// What becomes of runs that were missed.
    pub missed: Missed,
    /// What becomes of runs that would overlap.
    pub overlap: Overlap,
    /// Whether it is made paused.
    #[serde(skip)]
    pub is_paused: bool,
}

/// A schedule.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// Its identifier.
    pub id: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it runs; else it is paused.
    pub enabled: bool,
    /// Its pattern, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// Its one moment, if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
    /// Where the pattern's clock hangs.
    pub timezone: String,
    /// When it runs next; nothing if it is paused or over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run_at: Option<DateTime<Utc>>,
    /// Its last runs, newest first; in a list, the last one.
    pub runs: Vec<ScheduleRun>,
    /// All else that the server sent.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// A run of a schedule.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleRun {
    /// When it was due; nothing if somebody asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<DateTime<Utc>>,
    /// How many missed runs it stands for, the first of which was due then; nothing if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// When it was dealt with.
    pub at: DateTime<Utc>,
    /// `submitted`, `missed`, `skipped` or `refused`.
    pub outcome: String,
    /// The job that was submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// Why none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Some schedules, newest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SchedulePage {
    /// The schedules.
    pub schedules: Vec<Schedule>,
    /// Where the next page begins, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Which schedules to list.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleQuery {
    /// The `next_cursor` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most schedules on the page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Another tenant, for the master.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Submitted {
    job_id: String,
}

impl Client {
    /// Makes a schedule of what `execution` runs.
    ///
    /// # Errors
    /// [`ClientError::Refused`], [`ClientError::Unreachable`], [`ClientError::Response`].
    pub async fn create_schedule(
        &self,
        execution: &Execution,
        queue: &QueueOptions,
        options: &ScheduleOptions,
    ) -> Result<Schedule, ClientError> {
        let mut body = execution.to_job(None, queue)?;
        let options_json = serde_json::to_value(options).map_err(ClientError::Request)?;
        if let (Value::Object(body), Value::Object(options)) = (&mut body, options_json) {
            body.extend(options);
        }
        body["enabled"] = json!(!options.is_paused);
        let request = self.request(Method::POST, &["v1", "schedules"]).json(&body);
        self.fetch("Failed to make the schedule", request).await
    }

    /// A schedule, with its last runs.
    ///
    /// # Errors
    /// Those of [`Self::create_schedule`], and 404 for an unknown one.
    pub async fn schedule(&self, id: &str) -> Result<Schedule, ClientError> {
        let request = self.request(Method::GET, &["v1", "schedules", id]);
        self.fetch("Failed to look at the schedule", request).await
    }

    /// A page of schedules.
    ///
    /// # Errors
    /// Those of [`Self::create_schedule`].
    pub async fn list_schedules(&self, query: &ScheduleQuery) -> Result<SchedulePage, ClientError> {
        let request = self.request(Method::GET, &["v1", "schedules"]).query(query);
        self.fetch("Failed to list schedules", request).await
    }

    /// Has a schedule run from now on, or not.
    ///
    /// # Errors
    /// Those of [`Self::schedule`].
    pub async fn enable_schedule(&self, id: &str, enabled: bool) -> Result<Schedule, ClientError> {
        let request = self.request(Method::PATCH, &["v1", "schedules", id]);
        let request = request.json(&json!({"enabled": enabled}));
        self.fetch("Failed to change the schedule", request).await
    }

    /// Has a schedule run now; the job that was submitted.
    ///
    /// # Errors
    /// Those of [`Self::schedule`].
    pub async fn run_schedule(&self, id: &str) -> Result<String, ClientError> {
        let request = self.request(Method::POST, &["v1", "schedules", id, "run"]);
        let submitted: Submitted = self.fetch("Failed to run the schedule", request).await?;
        Ok(submitted.job_id)
    }

    /// Removes a schedule; jobs that it has submitted go on.
    ///
    /// # Errors
    /// Those of [`Self::schedule`].
    pub async fn delete_schedule(&self, id: &str) -> Result<(), ClientError> {
        let request = self.request(Method::DELETE, &["v1", "schedules", id]);
        self.send_ok("Failed to delete the schedule", request).await.map(drop)
    }
}
