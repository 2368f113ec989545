//! Code by URL: fetched before a sandbox is taken, checked at each hop, kept for a while. No Redis and
//! no Docker in here; a local run uses it as a worker does.

mod cache;
mod error;
mod http;
mod text;

use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::Error;
use shared::config::Config;
use shared::execution::{Job, Source};
use shared::id::TenantId;
use shared::net::Resolver;
use shared::remote_code::RemoteCodeRules;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::engine::JobError;
use cache::{Cache, Key};
pub use error::FetchError;
use http::Http;

/// Fetches program texts; cheap to clone. The default one fetches nothing.
#[derive(Clone, Default)]
pub struct Fetcher {
    /// `None` where code by URL is disabled.
    inner: Option<Arc<Inner>>,
}

struct Inner {
    http: Http,
    cache: Option<Cache>,
    timeout: Duration,
}

impl Fetcher {
    /// A fetcher by the rules of `config`.
    ///
    /// # Errors
    /// If a host pattern is none, or TLS cannot be set up.
    pub fn new(config: &Config) -> Result<Self, Error> {
        Self::with_resolver(config, &Resolver::of_servers(&config.worker.resolvers)?)
    }

    /// Likewise, with a resolver other than the one configured.
    ///
    /// # Errors
    /// As there.
    pub fn with_resolver(config: &Config, resolver: &Resolver) -> Result<Self, Error> {
        let settings = &config.remote_code;
        if !settings.enabled {
            return Ok(Self::default());
        }
        let rules = RemoteCodeRules::new(settings)?;
        let lifetime = Duration::from_secs(settings.cache_ttl);
        let inner = Inner {
            timeout: Duration::from_millis(settings.fetch_timeout_ms),
            cache: settings.enable_cache.then(|| Cache::new(lifetime)),
            http: Http::new(rules, &config.policy, resolver)?,
        };
        Ok(Self { inner: Some(Arc::new(inner)) })
    }

    /// Puts the program text into a job whose program is still at its address; returns how long that
    /// took.
    ///
    /// # Errors
    /// [`JobError::Fetch`] if it cannot be had, [`JobError::Cancelled`] if nobody wants it any more.
    pub async fn fetch(
        &self,
        tenant: &TenantId,
        job: &mut Job,
        cancel: &CancellationToken,
    ) -> Result<Duration, JobError> {
        let Source::Url { url, hash, allows_insecure, extension } = &job.source else {
            return Ok(Duration::ZERO);
        };
        let inner = self.inner.as_ref().ok_or(FetchError::Disabled)?;
        let asked = Instant::now();
        let key = Key {
            tenant: tenant.clone(),
            url: Url::parse(url).map_err(|error| FetchError::Failed(error.to_string()))?,
            hash: hash.clone(),
            allows_insecure: *allows_insecure,
        };
        // Boxed: most jobs bring their program along.
        let fetching = cancel.run_until_cancelled(Box::pin(inner.text(key)));
        let text = fetching.await.ok_or(JobError::Cancelled)??;
        let extension = extension.clone();
        job.source = Source::Code { text: text.as_ref().to_owned(), extension };
        Ok(asked.elapsed())
    }
}

impl Inner {
    /// One time limit over everything: waiting for somebody else's fetch, names, connections, hops,
    /// and a body that drips.
    async fn text(&self, key: Key) -> Result<Arc<str>, FetchError> {
        let host = key.url.host_str().unwrap_or_default().to_owned();
        let fetching = async {
            match &self.cache {
                Some(cache) => cache.get(key, |key| self.http.fetch(key)).await,
                None => Ok(self.http.fetch(key).await?.text),
            }
        };
        let timeout_ms = self.timeout.as_millis();
        let outcome = tokio::time::timeout(self.timeout, fetching)
            .await
            .unwrap_or(Err(FetchError::TimedOut { timeout_ms }));
        match &outcome {
            Ok(text) => tracing::debug!(host, bytes = text.len(), "code is here"),
            Err(error) => tracing::debug!(host, %error, "code cannot be fetched"),
        }
        outcome
    }
}

#[cfg(test)]
mod tests;
