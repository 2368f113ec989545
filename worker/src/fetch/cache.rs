//! Texts fetched a while ago, and those being fetched now: whoever asks for one of these waits for
//! it. What one tenant fetched, no other is given.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::future::Cache as Moka;
use shared::id::TenantId;
use url::Url;

use super::error::FetchError;
use super::text::Fetched;

/// Most bytes kept, addresses included.
const MAX_BYTES: u64 = 64 << 20;
/// What an entry takes besides its texts; bounds how many there can be.
const ENTRY_BYTES: usize = 1024;

/// What makes two fetches the same. A text that came over a plain connection is not for those who
/// did not allow that.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) tenant: TenantId,
    pub(super) url: Url,
    pub(super) hash: Option<String>,
    pub(super) allows_insecure: bool,
}

pub(super) struct Cache(Moka<Key, Fetched>);

impl Cache {
    /// Keeps texts for `lifetime`.
    pub(super) fn new(lifetime: Duration) -> Self {
        let weigh = |key: &Key, fetched: &Fetched| {
            let bytes = ENTRY_BYTES + key.url.as_str().len() + fetched.text.len();
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        let cache = Moka::builder()
            .max_capacity(MAX_BYTES)
            .weigher(weigh)
            .expire_after(Lifetime(lifetime))
            .build();
        Self(cache)
    }

    /// The text kept under `key`, else the one that `fetch` brings. Failures are not kept.
    pub(super) async fn get<F>(
        &self,
        key: Key,
        fetch: impl FnOnce(Key) -> F,
    ) -> Result<Arc<str>, FetchError>
    where
        F: Future<Output = Result<Fetched, FetchError>>,
    {
        let fetched = self.0.try_get_with(key.clone(), fetch(key)).await;
        fetched.map(|fetched| fetched.text).map_err(Arc::unwrap_or_clone)
    }
}

struct Lifetime(Duration);

impl Expiry<Key, Fetched> for Lifetime {
    fn expire_after_create(&self, _: &Key, fetched: &Fetched, _: Instant) -> Option<Duration> {
        Some(if fetched.may_be_kept { self.0 } else { Duration::ZERO })
    }
}
