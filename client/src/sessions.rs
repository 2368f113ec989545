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

    /// Ends a session with all that is in it; one that is not there is no error.
    ///
    /// # Errors
    /// [`ClientError::Refused`], [`ClientError::Unreachable`].
    pub async fn delete_session(&self, id: &str) -> Result<(), ClientError> {
        let request = self.request(Method::DELETE, &["session", id]);
        self.send_ok("Failed to delete session", request).await.map(drop)
    }
}
