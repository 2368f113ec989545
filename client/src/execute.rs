//! Running a program and waiting for its result.

use std::collections::BTreeMap;

use bytes::Bytes;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared::execution::{ExecuteEnvelope, ExecutionOptions, ExecutionRequest, QueueOptions, Wish};

use crate::client::Client;
use crate::error::ClientError;

/// What to run and how. The `more_` fields are sent beside the typed ones: what only some servers
/// read, such as isol8's own `mode` and `persist`.
#[derive(Clone, Debug, Default)]
pub struct Execution {
    /// What to run.
    pub request: ExecutionRequest,
    /// More fields of `request`.
    pub more_request: Map<String, Value>,
    /// How to run it.
    pub options: ExecutionOptions,
    /// More fields of `options`.
    pub more_options: Map<String, Value>,
    /// The session to run it in, instead of the client's own.
    pub session_id: Option<String>,
    /// How to queue it.
    pub queue: Option<Wish>,
}

impl From<ExecuteEnvelope> for Execution {
    fn from(envelope: ExecuteEnvelope) -> Self {
        let ExecuteEnvelope { request, options, session_id, queue } = envelope;
        Self { request, options, session_id, queue, ..Self::default() }
    }
}

/// A part of the body with what is sent beside it.
#[derive(Serialize)]
struct Part<'a, T> {
    #[serde(flatten)]
    typed: &'a T,
    #[serde(flatten)]
    more: &'a Map<String, Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    /// Of a WebSocket message only.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    /// Likewise: whether standard input stays open for more messages.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    interactive: bool,
    request: Part<'a, ExecutionRequest>,
    options: Part<'a, ExecutionOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<&'a Wish>,
}

impl Execution {
    /// The JSON body of the execute routes.
    pub(crate) fn to_body(&self, session_id: Option<&str>) -> Result<String, ClientError> {
        self.to_json(None, false, session_id)
    }

    /// The JSON body of a job's submission: the same, with all that a job can ask of the queue.
    pub(crate) fn to_job(
        &self,
        session_id: Option<&str>,
        queue: &QueueOptions,
    ) -> Result<Value, ClientError> {
        let body = self.to_body(session_id)?;
        let mut body: Value = serde_json::from_str(&body).map_err(ClientError::Request)?;
        body["queue"] = serde_json::to_value(queue).map_err(ClientError::Request)?;
        Ok(body)
    }

    /// The first message over a WebSocket.
    pub(crate) fn to_message(
        &self,
        interactive: bool,
        session_id: Option<&str>,
    ) -> Result<String, ClientError> {
        self.to_json(Some("execute"), interactive, session_id)
    }

    fn to_json(
        &self,
        kind: Option<&'static str>,
        interactive: bool,
        session_id: Option<&str>,
    ) -> Result<String, ClientError> {
        let body = Body {
            kind,
            interactive,
            request: Part { typed: &self.request, more: &self.more_request },
            options: Part { typed: &self.options, more: &self.more_options },
            session_id,
            queue: self.queue.as_ref(),
        };
        serde_json::to_string(&body).map_err(ClientError::Request)
    }
}

/// What came of a program. A failing program is a result.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionResult {
    /// Standard output, without trailing white space.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
    /// Exit code; 137 on timeout.
    pub exit_code: i64,
    /// Wall time of the program alone, in milliseconds.
    #[serde(default)]
    pub duration_ms: f64,
    /// Whether either stream was cut.
    #[serde(default)]
    pub truncated: bool,
    /// The execution, in the server's records.
    #[serde(default)]
    pub execution_id: String,
    /// Requests made over the network, in order, if they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network_logs: Vec<Value>,
    /// Requested files as base64, by path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// All else that the server sent.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Client {
    /// Runs a program and waits for its result. A failing program is a result, not an error.
    ///
    /// # Errors
    /// [`ClientError::Refused`] if the server refuses or fails, [`ClientError::Unreachable`], and
    /// [`ClientError::Response`] if the answer is not a result.
    pub async fn execute(&self, execution: &Execution) -> Result<ExecutionResult, ClientError> {
        let body = execution.to_body(self.session_of(execution))?;
        let request = self.request(Method::POST, &["execute"]).body(body);
        self.fetch("Execution failed", request).await
    }

    /// Posts a finished body to `/execute` and returns status and body as they are.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] alone; a bad status is not an error here.
    pub async fn post_execute(&self, body: Bytes) -> Result<(u16, Bytes), ClientError> {
        let response = self.send(self.request(Method::POST, &["execute"]).body(body)).await?;
        let status = response.status().as_u16();
        Ok((status, self.body(response).await?))
    }

    /// The session an execution belongs to; an empty name is none.
    pub(crate) fn session_of<'a>(&'a self, execution: &'a Execution) -> Option<&'a str> {
        let session = execution.session_id.as_deref().or(self.session_id.as_deref());
        session.filter(|id| !id.is_empty())
    }
}
