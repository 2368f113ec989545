//! The way to the text: every hop is checked before it is taken, redirects are followed by us alone,
//! and what is dialled is an address that passed.

use std::collections::HashMap;
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, LOCATION};
use reqwest::{Client, Response};
use shared::Error;
use shared::config::Policy;
use shared::id::TenantId;
use shared::net::{AddressRules, ResolveError, Resolver};
use shared::remote_code::{RemoteCodeRules, blocked};
use url::Url;

use super::cache::Key;
use super::error::FetchError;
use super::text::{self, Fetched};
use crate::checked_http::{self, unresolved, words};

/// Redirects followed; more is a loop or a game.
const MAX_REDIRECTS: usize = 5;

/// Asks servers, by the rules.
pub(super) struct Http {
    rules: RemoteCodeRules,
    general: Way,
    /// For tenants that may reach other addresses.
    tenants: HashMap<TenantId, Way>,
}

/// A client that reaches what its rules allow, and nothing else.
struct Way {
    addresses: AddressRules,
    client: Client,
}

impl Http {
    pub(super) fn new(
        rules: RemoteCodeRules,
        policy: &Policy,
        resolver: &Resolver,
    ) -> Result<Self, Error> {
        let timeout = Duration::from_millis(rules.settings.fetch_timeout_ms);
        let way = |policy: &Policy| {
            let allowed = policy.allow_private_addresses.clone();
            let addresses = AddressRules::of_this_machine(allowed)?;
            let client = checked_http::client(resolver.clone(), addresses.clone(), timeout)?;
            Ok::<_, Error>(Way { addresses, client })
        };
        let own = policy.tenants.iter().filter(|(_, own)| own.allow_private_addresses.is_some());
        let tenants = own.map(|(name, _)| {
            let tenant = TenantId::new(name);
            let way = way(&policy.of(&tenant))?;
            Ok((tenant, way))
        });
        Ok(Self { tenants: tenants.collect::<Result<_, Error>>()?, general: way(policy)?, rules })
    }

    /// Fetches the text of `key`.
    pub(super) async fn fetch(&self, key: Key) -> Result<Fetched, FetchError> {
        let way = self.tenants.get(&key.tenant).unwrap_or(&self.general);
        let mut url = key.url;
        for _ in 0..=MAX_REDIRECTS {
            self.rules.check(&url, key.allows_insecure, &way.addresses)?;
            let request = way.client.get(url.clone()).header(ACCEPT_ENCODING, "identity");
            let response = request.send().await.map_err(|error| failed(&error))?;
            match redirect(&response)? {
                Some(next) => url = next,
                None if response.status().is_success() => {
                    let max_bytes = self.rules.settings.max_code_size;
                    return text::read(response, max_bytes, key.hash.as_deref()).await;
                }
                None => {
                    let status = response.status().as_u16();
                    return Err(FetchError::Failed(format!("HTTP {status}")));
                }
            }
        }
        Err(FetchError::Failed(format!("more than {MAX_REDIRECTS} redirects")))
    }
}

/// Where `response` sends us, if it does.
fn redirect(response: &Response) -> Result<Option<Url>, FetchError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let nowhere = || FetchError::Failed("a redirect that leads nowhere".into());
    let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    response.url().join(location.ok_or_else(nowhere)?).map(Some).map_err(|_| nowhere())
}

/// What a failure of the client means to the caller.
pub(super) fn failed(error: &reqwest::Error) -> FetchError {
    match unresolved(error) {
        Some(ResolveError::Refused { host, reason }) => blocked(host, *reason).into(),
        Some(ResolveError::NotFound { host, .. } | ResolveError::TimedOut { host }) => {
            FetchError::NotResolved(host.to_string())
        }
        None => FetchError::Failed(words(error)),
    }
}
