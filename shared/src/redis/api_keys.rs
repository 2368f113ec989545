//! API keys: who may call, on whose account, until when. What is stored is a key's SHA-256; the key
//! itself is shown once and then known to its holder alone.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use redis::{cmd, pipe};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::client::{Client, failure};
use super::keys;
use super::scripts::{ALLOW_OOM, Script};
use crate::error::{Error, ErrorCode};
use crate::id::TenantId;

/// Every key starts with this.
const PREFIX: &str = "isol8_";
/// Random bytes in a key; each is two hex digits.
const RANDOM_BYTES: usize = 32;
/// How much of a key is shown in lists.
const SHOWN_BYTES: usize = 10;
/// Keys there may be, dead ones that wait for removal included.
const MAX_KEYS: usize = 100_000;
/// Keys read in one go.
const LIST_BATCH: usize = 1000;

/// What a key lets its holder do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Run programs, in sessions too.
    Execute,
    /// List and close sessions, and clean up.
    Sessions,
    /// Read and write files of sessions.
    Files,
    /// Submit, watch and cancel jobs.
    Jobs,
}

impl Scope {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Execute, Self::Sessions, Self::Files, Self::Jobs];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Execute => "execute",
            Self::Sessions => "sessions",
            Self::Files => "files",
            Self::Jobs => "jobs",
        }
    }
}

/// A key in plain text. Never stored, never printed.
pub struct PlainKey(String);

impl PlainKey {
    /// A new one.
    ///
    /// # Errors
    /// [`ErrorCode::Internal`] if the system has no randomness to give.
    pub fn generate() -> Result<Self, Error> {
        let mut bytes = [0; RANDOM_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| {
            Error::new(ErrorCode::Internal, "No random bytes for a key").with_source(error)
        })?;
        Ok(Self(format!("{PREFIX}{}", hex(&bytes))))
    }

    /// The text, for its holder.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is stored in its place.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash(Sha256::digest(&self.0).into())
    }

    /// What lists show of it.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("{}...", &self.0[..SHOWN_BYTES])
    }
}

impl fmt::Debug for PlainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainKey(***)")
    }
}

/// SHA-256 of a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// Of a token, if it looks like a key at all.
    #[must_use]
    pub fn of_token(token: &[u8]) -> Option<Self> {
        let digits = token.strip_prefix(PREFIX.as_bytes())?;
        let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_key = digits.len() == 2 * RANDOM_BYTES && digits.iter().all(is_hex);
        is_key.then(|| Self(Sha256::digest(token).into()))
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(***)")
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all that is written to it");
        text
    })
}

/// Names a key without revealing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(Uuid);

impl KeyId {
    /// A new one.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::new_v4())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for KeyId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// What never changes about a key. Times are milliseconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyFacts {
    /// Names it.
    pub id: KeyId,
    /// What its maker called it.
    pub name: String,
    /// Its beginning, for lists.
    pub prefix: String,
    /// On whose account it calls.
    pub tenant: TenantId,
    /// What it may do.
    pub scopes: BTreeSet<Scope>,
    /// When it was made.
    pub created_ms: u64,
    /// From when on it is refused.
    pub expires_ms: u64,
}

/// A key as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// What never changes.
    pub facts: KeyFacts,
    /// When it was last used, about; milliseconds since the epoch.
    pub used_ms: Option<u64>,
    /// Whether it was taken back.
    pub is_revoked: bool,
}

impl KeyRecord {
    /// Whether it opens anything at a time, in milliseconds since the epoch.
    #[must_use]
    pub const fn is_valid_at(&self, now_ms: u64) -> bool {
        !self.is_revoked && now_ms < self.facts.expires_ms
    }
}

/// The keys of the whole fleet. Clones share one connection.
#[derive(Clone)]
pub struct ApiKeys {
    client: Client,
    scripts: std::sync::Arc<Scripts>,
}

struct Scripts {
    create: Script,
    mark: Script,
    remove: Script,
}

/// The stored form of a key: what never changes, whether it is revoked, when it was used.
type Fields = (Option<String>, Option<u8>, Option<u64>);

impl ApiKeys {
    pub(super) fn new(client: Client) -> Self {
        let scripts = Scripts {
            create: Script::new("", include_str!("scripts/create_key.lua")),
            mark: Script::new(ALLOW_OOM, include_str!("scripts/mark_key.lua")),
            remove: Script::new(ALLOW_OOM, include_str!("scripts/remove_key.lua")),
        };
        Self { client, scripts: scripts.into() }
    }

    /// Writes down a new key.
    ///
    /// # Errors
    /// [`ErrorCode::QueueFull`] if there are too many, [`ErrorCode::QueueUnavailable`] if Redis
    /// cannot be reached.
    pub async fn create(&self, hash: KeyHash, facts: &KeyFacts) -> Result<(), Error> {
        let json = serde_json::to_string(facts).map_err(|error| {
            Error::new(ErrorCode::Internal, "A key could not be written as JSON").with_source(error)
        })?;
        let script = &self.scripts.create;
        let mut call = script.call(&[keys::api_key(hash), keys::API_KEYS.to_owned()]);
        call.arg(facts.id.to_string()).arg(hash.to_string()).arg(json).arg(MAX_KEYS);
        if script.run(&self.client, &call).await.map_err(failure)? {
            return Ok(());
        }
        let message =
            format!("There are {MAX_KEYS} keys already. Revoke some and wait for their removal.");
        Err(Error::new(ErrorCode::QueueFull, message))
    }

    /// The key with this hash.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn find(&self, hash: KeyHash) -> Result<Option<KeyRecord>, Error> {
        let mut look = cmd("HMGET");
        look.arg(keys::api_key(hash)).arg("facts").arg("revoked").arg("used_ms");
        record(self.client.run(&look).await.map_err(failure)?)
    }

    /// All keys, newest first.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn list(&self) -> Result<Vec<KeyRecord>, Error> {
        let hashes: Vec<String> =
            self.client.run(cmd("HVALS").arg(keys::API_KEYS)).await.map_err(failure)?;
        let mut records = Vec::with_capacity(hashes.len());
        for batch in hashes.chunks(LIST_BATCH) {
            let mut look = pipe();
            for hash in batch {
                let key = keys::api_key(hash);
                look.cmd("HMGET").arg(key).arg("facts").arg("revoked").arg("used_ms");
            }
            let found: Vec<Fields> = self.client.run_all(&look).await.map_err(failure)?;
            for fields in found {
                records.extend(record(fields)?);
            }
        }
        records.sort_by_key(|key| std::cmp::Reverse((key.facts.created_ms, key.facts.id.0)));
        Ok(records)
    }

    /// Takes a key back, for good. Returns its hash, `None` if there is no such key.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn revoke(&self, id: KeyId) -> Result<Option<KeyHash>, Error> {
        let Some(hash) = self.hash_of(id).await? else { return Ok(None) };
        let is_there = self.mark(hash, "revoked", 1).await?;
        Ok(is_there.then_some(hash))
    }

    async fn hash_of(&self, id: KeyId) -> Result<Option<KeyHash>, Error> {
        let mut look = cmd("HGET");
        look.arg(keys::API_KEYS).arg(id.to_string());
        let hash: Option<String> = self.client.run(&look).await.map_err(failure)?;
        hash.map(|hash| parse_hash(&hash)).transpose()
    }

    /// Notes when a key was used, in milliseconds since the epoch.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn note_use(&self, hash: KeyHash, used_ms: u64) -> Result<(), Error> {
        self.mark(hash, "used_ms", used_ms).await.map(drop)
    }

    async fn mark(&self, hash: KeyHash, field: &str, value: u64) -> Result<bool, Error> {
        let script = &self.scripts.mark;
        let mut call = script.call(&[keys::api_key(hash)]);
        call.arg(field).arg(value);
        script.run(&self.client, &call).await.map_err(failure)
    }

    /// Removes keys that are revoked or expired; returns how many there were.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn purge(&self, now_ms: u64) -> Result<usize, Error> {
        let mut removed = 0;
        for key in self.list().await?.iter().filter(|key| !key.is_valid_at(now_ms)) {
            let Some(hash) = self.hash_of(key.facts.id).await? else { continue };
            let script = &self.scripts.remove;
            let mut call = script.call(&[keys::api_key(hash), keys::API_KEYS.to_owned()]);
            call.arg(key.facts.id.to_string());
            let was_there: bool = script.run(&self.client, &call).await.map_err(failure)?;
            removed += usize::from(was_there);
        }
        Ok(removed)
    }
}

fn record((facts, revoked, used_ms): Fields) -> Result<Option<KeyRecord>, Error> {
    let Some(facts) = facts else { return Ok(None) };
    let facts = serde_json::from_str(&facts).map_err(unreadable)?;
    Ok(Some(KeyRecord { facts, used_ms, is_revoked: revoked.is_some() }))
}

fn parse_hash(text: &str) -> Result<KeyHash, Error> {
    let mut hash = [0; 32];
    let is_whole = text.len() == 2 * hash.len() && text.is_ascii();
    for (index, byte) in hash.iter_mut().enumerate().take_while(|_| is_whole) {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(unreadable)?;
    }
    if is_whole { Ok(KeyHash(hash)) } else { Err(unreadable("its hash is too short or too long")) }
}

fn unreadable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorCode::Internal, "A stored key cannot be read by this version")
        .with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_isol8s_form() {
        let key = PlainKey::generate().unwrap();
        assert_eq!(key.reveal().len(), 70);
        assert_eq!(key.shown(), format!("{}...", &key.reveal()[..10]));
        assert_eq!(KeyHash::of_token(key.reveal().as_bytes()), Some(key.hash()));
        assert_ne!(key.reveal(), PlainKey::generate().unwrap().reveal());
        assert!(!format!("{key:?} {:?}", key.hash()).contains(&key.reveal()[6..]));
    }

    #[test]
    fn a_hash_survives_its_text() {
        let hash = PlainKey::generate().unwrap().hash();
        assert_eq!(parse_hash(&hash.to_string()).unwrap(), hash);
        assert!(parse_hash("ab").is_err());
        assert!(parse_hash(&"xy".repeat(32)).is_err());
    }

    #[test]
    fn what_does_not_look_like_a_key_is_not_looked_up() {
        let digits = "0a".repeat(32);
        assert!(KeyHash::of_token(format!("isol8_{digits}").as_bytes()).is_some());
        for token in ["", "isol8_", "test", &digits, &format!("isol8_{}", digits.to_uppercase())] {
            assert!(KeyHash::of_token(token.as_bytes()).is_none(), "{token}");
        }
    }
}
