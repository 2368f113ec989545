//! API keys, and removing everything: what a master key may do.

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::client::Client;
use crate::error::ClientError;

/// A key to be made; what is absent is the server's choice.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewKey {
    /// What people call it.
    pub name: String,
    /// Whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// How long it lives, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// What it may do; empty leaves that to the server.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

/// A key just made: the only time it is seen.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreatedKey {
    /// For revoking it.
    pub id: String,
    /// The key itself.
    pub key: String,
    /// All else that the server sent.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// What is known of a key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Key {
    /// For revoking it.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// How it begins.
    pub key_prefix: String,
    /// Whose it is.
    pub tenant_id: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
    /// When it was last used.
    pub last_used_at: Option<DateTime<Utc>>,
    /// Whether it was revoked.
    pub revoked: bool,
    /// What it may do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// All else that the server sent.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

#[derive(Deserialize)]
struct Keys {
    keys: Vec<Key>,
}

/// A key for this caller.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Login {
    /// The key itself.
    pub token: String,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
    /// For revoking it.
    pub key_id: String,
}

/// What a clean-up removed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cleanup {
    /// Sessions.
    pub sessions: Removed,
    /// Containers.
    pub containers: Removed,
    /// Images, if they were to go too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Removed>,
}

/// Things of one kind that were removed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Removed {
    /// How many are gone.
    pub removed: u64,
    /// How many are not.
    pub failed: u64,
    /// Why.
    pub errors: Vec<String>,
}

impl Client {
    /// Makes a key.
    ///
    /// # Errors
    /// [`ClientError::Refused`] (403 without the master key, 400 where there are no other keys),
    /// [`ClientError::Unreachable`], [`ClientError::Response`].
    pub async fn create_key(&self, key: &NewKey) -> Result<CreatedKey, ClientError> {
        let request = self.request(Method::POST, &["auth", "keys"]).json(key);
        self.fetch("Failed to create the key", request).await
    }

    /// The keys of a tenant, or of all.
    ///
    /// # Errors
    /// Those of [`Self::create_key`].
    pub async fn list_keys(&self, tenant: Option<&str>) -> Result<Vec<Key>, ClientError> {
        let mut request = self.request(Method::GET, &["auth", "keys"]);
        if let Some(tenant) = tenant {
            request = request.query(&[("tenantId", tenant)]);
        }
        let found: Keys = self.fetch("Failed to list keys", request).await?;
        Ok(found.keys)
    }

    /// Ends a key at once.
    ///
    /// # Errors
    /// Those of [`Self::create_key`], and 404 for an unknown one.
    pub async fn revoke_key(&self, id: &str) -> Result<(), ClientError> {
        let request = self.request(Method::DELETE, &["auth", "keys", id]);
        self.send_ok("Failed to revoke the key", request).await.map(drop)
    }

    /// Makes a key for whoever holds the master key.
    ///
    /// # Errors
    /// Those of [`Self::create_key`].
    pub async fn login(&self, name: &str, ttl_ms: Option<u64>) -> Result<Login, ClientError> {
        let mut body = json!({"name": name});
        if let Some(ttl_ms) = ttl_ms {
            body["ttlMs"] = ttl_ms.into();
        }
        let request = self.request(Method::POST, &["auth", "login"]).json(&body);
        self.fetch("Login failed", request).await
    }

    /// Removes sessions and containers, and images too if asked to.
    ///
    /// # Errors
    /// [`ClientError::Refused`], [`ClientError::Unreachable`], [`ClientError::Response`].
    pub async fn cleanup(&self, images: bool) -> Result<Cleanup, ClientError> {
        let request = self.request(Method::POST, &["cleanup"]).json(&json!({"images": images}));
        self.fetch("Cleanup failed", request).await
    }
}
