//! Making API keys: what may be asked for, and what it becomes when it is left open.

use std::collections::BTreeSet;

use serde::Deserialize;
use shared::Error;
use shared::id::TenantId;
use shared::redis::{KeyFacts, KeyId, PlainKey, Scope};

use crate::state::Gateway;
use shared::timestamp::now_ms;

/// Longest name of a key.
const MAX_NAME_BYTES: usize = 256;
/// Longest life of a key: a hundred years.
const MAX_TTL_MS: u64 = 100 * 366 * 86_400_000;

/// A key as it is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewKey {
    pub(crate) name: Option<String>,
    tenant_id: Option<String>,
    ttl_ms: Option<u64>,
    scopes: Option<BTreeSet<Scope>>,
}

/// A key just made. Its plain text is to be had here and nowhere else.
pub(crate) struct Made {
    pub(crate) key: PlainKey,
    pub(crate) facts: KeyFacts,
}

/// Makes a key, for `tenant` if the request names none.
///
/// # Errors
/// `INVALID_REQUEST` if it asks for what cannot be, and as `ApiKeys::create`.
pub(crate) async fn create(
    gateway: &Gateway,
    tenant: &TenantId,
    asked: NewKey,
) -> Result<Made, Error> {
    let facts = facts(gateway.keyring.default_ttl_ms(), tenant, asked)?;
    let key = PlainKey::generate()?;
    let facts = KeyFacts { prefix: key.shown(), ..facts };
    gateway.keyring.create(key.hash(), &facts).await?;
    tracing::info!(id = %facts.id, tenant = %facts.tenant, "key created");
    Ok(Made { key, facts })
}

fn facts(default_ttl_ms: u64, tenant: &TenantId, asked: NewKey) -> Result<KeyFacts, Error> {
    let name = asked.name.unwrap_or_default();
    if name.trim().is_empty() {
        return Err(Error::invalid("name is required"));
    }
    if name.len() > MAX_NAME_BYTES || name.contains(char::is_control) {
        return Err(Error::invalid(format!(
            "name must be at most {MAX_NAME_BYTES} bytes long, without control characters"
        )));
    }
    let ttl_ms = asked.ttl_ms.unwrap_or(default_ttl_ms);
    if !(1..=MAX_TTL_MS).contains(&ttl_ms) {
        return Err(Error::invalid(format!(
            "ttlMs must be a whole number of milliseconds from 1 to {MAX_TTL_MS}"
        )));
    }
    let scopes = asked.scopes.unwrap_or_else(|| Scope::ALL.into());
    if scopes.is_empty() {
        return Err(Error::invalid(
            "scopes must name at least one of execute, sessions, files, jobs; leave it out for all",
        ));
    }
    let tenant = match asked.tenant_id {
        Some(name) => name.parse()?,
        None => tenant.clone(),
    };
    let created_ms = now_ms();
    Ok(KeyFacts {
        id: KeyId::generate(),
        name,
        prefix: String::new(),
        tenant,
        scopes,
        created_ms,
        expires_ms: created_ms + ttl_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(json: &str) -> Result<KeyFacts, Error> {
        facts(1000, &TenantId::new("acting"), serde_json::from_str(json).unwrap())
    }

    #[test]
    fn what_is_left_open_is_filled_in() {
        let facts = asked(r#"{"name":"ci"}"#).unwrap();
        assert_eq!(facts.expires_ms - facts.created_ms, 1000);
        assert_eq!(facts.tenant.as_str(), "acting");
        assert_eq!(facts.scopes.len(), Scope::ALL.len());
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (json, field) in [
            ("{}", "name is required"),
            (r#"{"name":"  "}"#, "name is required"),
            (r#"{"name":"a\u0007"}"#, "name must"),
            (r#"{"name":"a","ttlMs":0}"#, "ttlMs"),
            (r#"{"name":"a","ttlMs":9007199254740991}"#, "ttlMs"),
            (r#"{"name":"a","tenantId":"a:b"}"#, "tenantId"),
            (r#"{"name":"a","tenantId":""}"#, "tenantId"),
            (r#"{"name":"a","scopes":[]}"#, "scopes"),
        ] {
            let error = asked(json).unwrap_err();
            assert!(error.message().starts_with(field), "{json}: {error}");
        }
    }
}
