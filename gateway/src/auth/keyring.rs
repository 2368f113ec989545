//! Keys other than the master's: looked up in Redis, remembered for half a second. A revoked key is
//! refused everywhere within that time, and a busy one costs no round trip.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::future::Cache;
use shared::Error;
use shared::config::Auth;
use shared::redis::{ApiKeys, KeyFacts, KeyHash, KeyId, KeyRecord};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use shared::timestamp::now_ms;

/// How long an answer of Redis holds, counted from the question.
const MEMORY: Duration = Duration::from_millis(500);
/// Keys remembered at once, known or unknown.
const MAX_REMEMBERED: u64 = 10_000;
/// How often it is written down when keys were used, and of how many at most.
const NOTE_EVERY: Duration = Duration::from_secs(3);
const MAX_NOTES: usize = 10_000;

/// The keys, as one gateway sees them.
pub(crate) struct Keyring {
    keys: ApiKeys,
    settings: Auth,
    remembered: Cache<KeyHash, Answer>,
    /// Keys used since it was last written down, and when.
    notes: Mutex<HashMap<KeyHash, u64>>,
}

/// Whoever has a key.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    pub(super) hash: KeyHash,
    pub(super) key: Arc<KeyRecord>,
}

/// What Redis said about a key, and when it was asked.
#[derive(Clone)]
struct Answer {
    asked: Instant,
    key: Option<Arc<KeyRecord>>,
}

/// Forgets an answer when its time is up.
struct Forgetting;

impl Expiry<KeyHash, Answer> for Forgetting {
    fn expire_after_create(&self, _: &KeyHash, answer: &Answer, now: Instant) -> Option<Duration> {
        Some(MEMORY.saturating_sub(now.saturating_duration_since(answer.asked)))
    }

    fn expire_after_update(
        &self,
        hash: &KeyHash,
        answer: &Answer,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(hash, answer, now)
    }
}

impl Keyring {
    /// The keys of a configuration.
    pub(crate) fn new(keys: ApiKeys, settings: Auth) -> Self {
        let remembered =
            Cache::builder().max_capacity(MAX_REMEMBERED).expire_after(Forgetting).build();
        Self { keys, settings, remembered, notes: Mutex::default() }
    }

    /// Whether there are keys other than the master's.
    pub(crate) fn is_enabled(&self) -> bool {
        self.settings.enabled
    }

    /// Life of a key whose maker does not say, in milliseconds.
    pub(crate) fn default_ttl_ms(&self) -> u64 {
        self.settings.default_ttl_ms
    }

    /// What opens with a token, `None` if nothing does.
    ///
    /// # Errors
    /// `QUEUE_UNAVAILABLE` if that cannot be learnt now.
    pub(crate) async fn holder(&self, token: &[u8]) -> Result<Option<Holder>, Arc<Error>> {
        let Some(hash) = KeyHash::of_token(token) else { return Ok(None) };
        let key = self.valid(hash).await?;
        Ok(key.map(|key| Holder { hash, key }))
    }

    /// A key, unless it is unknown, expired or revoked.
    ///
    /// # Errors
    /// As [`holder`](Self::holder).
    pub(crate) async fn valid(&self, hash: KeyHash) -> Result<Option<Arc<KeyRecord>>, Arc<Error>> {
        if !self.is_enabled() {
            return Ok(None);
        }
        // Those who ask for the same key at once share one question.
        let answer = self.remembered.try_get_with(hash, self.ask(hash)).await?;
        Ok(answer.key.filter(|key| key.is_valid_at(now_ms())))
    }

    async fn ask(&self, hash: KeyHash) -> Result<Answer, Error> {
        let asked = Instant::now();
        let key = self.keys.find(hash).await?;
        if key.as_ref().is_some_and(|key| key.is_valid_at(now_ms())) {
            self.note(hash);
        }
        Ok(Answer { asked, key: key.map(Arc::new) })
    }

    fn note(&self, hash: KeyHash) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        // Beyond the bound, the use of further keys is not noted this time.
        if notes.len() < MAX_NOTES || notes.contains_key(&hash) {
            notes.insert(hash, now_ms());
        }
    }

    /// Writes down a new key.
    ///
    /// # Errors
    /// As [`ApiKeys::create`].
    pub(crate) async fn create(&self, hash: KeyHash, facts: &KeyFacts) -> Result<(), Error> {
        self.keys.create(hash, facts).await
    }

    /// All keys, newest first.
    ///
    /// # Errors
    /// As [`ApiKeys::list`].
    pub(crate) async fn list(&self) -> Result<Vec<KeyRecord>, Error> {
        // What was used a moment ago is to be seen.
        self.write_notes().await;
        self.keys.list().await
    }

    /// Takes a key back; here at once, on other gateways in half a second. False if there is none.
    ///
    /// # Errors
    /// As [`ApiKeys::revoke`].
    pub(crate) async fn revoke(&self, id: KeyId) -> Result<bool, Error> {
        let Some(hash) = self.keys.revoke(id).await? else { return Ok(false) };
        self.remembered.invalidate(&hash).await;
        Ok(true)
    }

    /// Writes down uses and removes dead keys until `token` is cancelled.
    ///
    /// On cancel: writes down the last uses, then ends. On error: logged, tried again next time.
    pub(crate) async fn keep(&self, token: &CancellationToken) {
        if !self.is_enabled() {
            return;
        }
        let mut noting = interval(NOTE_EVERY);
        let mut purging = interval(Duration::from_millis(self.settings.cleanup_interval_ms.max(1)));
        for timer in [&mut noting, &mut purging] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            tokio::select! {
                () = token.cancelled() => break,
                _ = noting.tick() => self.write_notes().await,
                _ = purging.tick() => self.purge().await,
            }
        }
        self.write_notes().await;
    }

    async fn write_notes(&self) {
        let notes = std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner));
        for (hash, used_ms) in notes {
            if let Err(error) = self.keys.note_use(hash, used_ms).await {
                // The rest would fail too; the next use of each is noted again.
                warn!(%error, "cannot write down when keys were used");
                return;
            }
        }
    }

    async fn purge(&self) {
        match self.keys.purge(now_ms()).await {
            Ok(0) => {}
            Ok(removed) => info!(removed, "removed keys that were revoked or expired"),
            Err(error) => warn!(%error, "cannot remove dead keys; trying again later"),
        }
    }
}
