//! Sessions: which there are, and ending them.

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::client::Client;
use crate::error::ClientError;

/// An open session.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// Its name.
    pub id: String,
    /// Whether something runs in it.
    pub is_active: bool,
    /// When it was last used, ISO 8601.
    #[serde(default)]
    pub last_accessed_at: String,
    /// All else that the server sent.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// What a session may reach over the filtered network. As a change: what is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionNetwork {
    /// `filtered`, or `none` if it is sealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Hosts that may be reached; empty means all that the server allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whitelist: Option<Vec<String>>,
    /// Hosts that may not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blacklist: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Sessions {
    sessions: Vec<Session>,
}

impl Client {
    /// The open sessions, oldest first.
    ///
    /// # Errors
    /// [`ClientError::Refused`], [`ClientError::Unreachable`], [`ClientError::Response`].
    pub async fn list_sessions(&self) -> Result<Vec<Session>, ClientError> {
        let request = self.request(Method::GET, &["sessions"]);
        let found: Sessions = self.fetch("Failed to list sessions", request).await?;
        Ok(found.sessions)
    }

    /// Changes what a session may reach, in turn with its programs; returns what it may reach then.
    ///
    /// # Errors
    /// [`ClientError::Refused`], [`ClientError::Unreachable`], [`ClientError::Response`].
    pub async fn set_session_network(
        &self,
        id: &str,
        change: &SessionNetwork,
    ) -> Result<SessionNetwork, ClientError> {
        let request = self.request(Method::PATCH, &["v1", "sessions", id, "network"]);
        self.fetch("Failed to change the session's network", request.json(change)).await
    }

    /// Ends a session with all that is in it; one that is not there is no error.
    ///
    /// # Errors
    /// [`ClientError::Refused`], [`ClientError::Unreachable`].
    pub async fn delete_session(&self, id: &str) -> Result<(), ClientError> {
        let request = self.request(Method::DELETE, &["session", id]);
        self.send_ok("Failed to delete session", request).await.map(drop)
    }
}
