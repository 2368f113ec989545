//! The items of a batch: how each is told from the first one while it waits, and what is kept of its
//! ending.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::egress::NetworkLogEntry;
use super::job::Job;
use super::result::{Ending, ExecutionResult, Failure, Outcome};
use crate::error::{Error, ErrorCode};

/// The job that the others of a batch are told from: its first one.
#[derive(Clone, Debug, PartialEq)]
pub struct BaseJob(Map<String, Value>);

/// In what a job differs from a [`BaseJob`]: fields that are others, and `null` for those it does not have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobDelta(Map<String, Value>);

impl BaseJob {
    /// A job as the base of others.
    ///
    /// # Errors
    /// [`ErrorCode::Internal`] if it cannot be written as JSON.
    pub fn new(job: &Job) -> Result<Self, Error> {
        fields_of(job).map(Self)
    }

    /// Reads what [`to_text`](Self::to_text) wrote.
    ///
    /// # Errors
    /// [`ErrorCode::Internal`] if that is not what it is.
    pub fn from_text(text: impl AsRef<[u8]>) -> Result<Self, Error> {
        serde_json::from_slice(text.as_ref()).map(Self).map_err(|error| {
            let message = "The first job of a batch cannot be read.";
            Error::new(ErrorCode::Internal, message).with_source(error)
        })
    }

    /// The base as JSON.
    ///
    /// # Errors
    /// [`ErrorCode::Internal`] if it cannot be written as JSON.
    pub fn to_text(&self) -> Result<String, Error> {
        serde_json::to_string(&self.0).map_err(|error| unwritable().with_source(error))
    }

    /// In what `job` differs.
    ///
    /// # Errors
    /// [`ErrorCode::Internal`] if it cannot be written as JSON.
    pub fn delta(&self, job: &Job) -> Result<JobDelta, Error> {
        let mut delta = fields_of(job)?;
        let gone: Vec<_> = self.0.keys().filter(|it| !delta.contains_key(*it)).cloned().collect();
        delta.retain(|name, value| self.0.get(name) != Some(value));
        delta.extend(gone.into_iter().map(|name| (name, Value::Null)));
        Ok(JobDelta(delta))
    }

    /// The job that differs so, as JSON.
    ///
    /// # Errors
    /// [`ErrorCode::Internal`] if it cannot be written as JSON.
    pub fn apply(&self, delta: JobDelta) -> Result<String, Error> {
        let mut whole = self.0.clone();
        for (name, value) in delta.0 {
            if value.is_null() {
                whole.remove(&name);
            } else {
                whole.insert(name, value);
            }
        }
        serde_json::to_string(&whole).map_err(|error| unwritable().with_source(error))
    }
}

fn fields_of(job: &Job) -> Result<Map<String, Value>, Error> {
    match serde_json::to_value(job) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(unwritable()),
        Err(error) => Err(unwritable().with_source(error)),
    }
}

fn unwritable() -> Error {
    Error::new(ErrorCode::Internal, "A job of a batch cannot be written as JSON.")
}

/// The ending of an item, as the results of its batch keep it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ItemEnding {
    /// Its program ran.
    Result(ItemResult),
    /// It could not be run.
    Error(Failure),
}

/// What a program left behind. There may be a million of them, so what is as mostly is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ItemResult {
    /// Standard output; secrets masked, trailing white space removed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stdout: String,
    /// Standard error, likewise.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stderr: String,
    /// Exit code.
    #[serde(skip_serializing_if = "is_zero")]
    pub exit_code: i32,
    /// Wall time of the program alone, in milliseconds.
    pub duration_ms: u64,
    /// Whether either stream was cut.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// How it ended, unless by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Requested files as base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<BTreeMap<String, String>>,
    /// Requests over the filtered network, if they were to be told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub network_logs: Vec<NetworkLogEntry>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

impl ItemEnding {
    /// What is kept of an ending.
    #[must_use]
    pub fn of(ending: &Ending) -> Self {
        match ending {
            Ending::Result(result) => Self::Result(ItemResult::of(result)),
            Ending::Error(failure) => Self::Error(failure.clone()),
            // Items are programs; there is nothing else to be told of.
            Ending::File(_) => Self::Result(ItemResult::default()),
        }
    }
}

impl ItemResult {
    fn of(result: &ExecutionResult) -> Self {
        Self {
            stdout: result.stdout.clone(),
            stderr: result.stderr.clone(),
            exit_code: result.exit_code,
            duration_ms: result.duration_ms,
            truncated: result.truncated,
            outcome: Some(result.outcome).filter(|outcome| *outcome != Outcome::Exited),
            files: result.files.clone(),
            network_logs: result.network_logs.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(change: Value) -> Job {
        let mut job = json!({
            "runtime": "python", "image": "isol8:python", "timeoutMs": 1000, "workdir": "/sandbox",
            "source": {"kind": "code", "text": "print(1)", "extension": ".py"}, "network": "none",
            "limits": {"memoryBytes": 1, "cpuMillis": 1, "pids": 1, "sandboxBytes": 1, "tmpBytes": 1,
                       "readonlyRoot": true, "maxOutputBytes": 1},
        });
        job.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        serde_json::from_value(job).unwrap()
    }

    #[test]
    fn a_job_is_its_base_and_the_difference() {
        let base = job(json!({"stdin": "first", "env": {"A": "1", "B": "2"}}));
        let based = BaseJob::from_text(BaseJob::new(&base).unwrap().to_text().unwrap()).unwrap();
        for change in [
            json!({"stdin": "first", "env": {"A": "1", "B": "2"}}),
            json!({"stdin": "other", "env": {"A": "1"}}),
            json!({}),
            json!({"timeoutMs": 5, "metadata": {"null": "null"}, "setupScript": "true"}),
        ] {
            let other = job(change.clone());
            let delta = serde_json::to_string(&based.delta(&other).unwrap()).unwrap();
            let whole = based.apply(serde_json::from_str(&delta).unwrap()).unwrap();
            assert_eq!(serde_json::from_str::<Job>(&whole).unwrap(), other, "{change}: {delta}");
        }
        assert_eq!(based.delta(&base).unwrap(), JobDelta::default());
    }

    #[test]
    fn what_succeeds_without_a_word_takes_next_to_nothing() {
        let ending = ItemEnding::Result(ItemResult { duration_ms: 7, ..ItemResult::default() });
        let text = serde_json::to_string(&ending).unwrap();
        assert_eq!(text, r#"{"result":{"durationMs":7}}"#);
        assert_eq!(serde_json::from_str::<ItemEnding>(&text).unwrap(), ending);
    }
}
