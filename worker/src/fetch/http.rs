//! The way to the text: every hop is checked before it is taken, redirects are followed by us alone,
//! and what is dialled is an address that passed. No proxy, no cookies, no kept connections.

use std::collections::HashMap;
use std::error::Error as _;
use std::io;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT_ENCODING, LOCATION};
use reqwest::redirect::Policy as Redirects;
use reqwest::{Client, Response};
use shared::Error;
use shared::config::Policy;
use shared::id::TenantId;
use shared::net::{AddressRules, Host, ResolveError, Resolver};
use shared::remote_code::{RemoteCodeRules, blocked};
use tokio::time::Instant;
use url::Url;

use super::cache::Key;
use super::error::FetchError;
use super::text::{self, Fetched};

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
            Way::new(addresses, resolver.clone(), timeout)
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

impl Way {
    fn new(addresses: AddressRules, resolver: Resolver, timeout: Duration) -> Result<Self, Error> {
        // The provider is the process's; whoever embeds this crate may have chosen one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .user_agent(concat!("isol8/", env!("CARGO_PKG_VERSION")))
            .redirect(Redirects::none())
            .referer(false)
            .no_proxy()
            .pool_max_idle_per_host(0)
            .dns_resolver(Checked { resolver, addresses: addresses.clone(), timeout })
            .build()
            .map_err(|error| {
                let message = format!("code by URL cannot be set up: {}", root_cause(&error));
                Error::new(shared::ErrorCode::Internal, message).with_source(error)
            })?;
        Ok(Self { addresses, client })
    }
}

/// Resolves for the client: what it is given is all it can dial.
struct Checked {
    resolver: Resolver,
    addresses: AddressRules,
    timeout: Duration,
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let (resolver, addresses) = (self.resolver.clone(), self.addresses.clone());
        let deadline = Instant::now() + self.timeout;
        Box::pin(async move {
            let host: Host = name.as_str().parse()?;
            // The client puts the port of the address it was given in place of none.
            let passed = resolver.resolve(&host, 0, &addresses, deadline).await?;
            Ok(Box::new(passed.into_iter()) as Addrs)
        })
    }
}

/// What a failure of the client means to the caller: the innermost cause, without the address, which
/// may hold a token.
pub(super) fn failed(error: &reqwest::Error) -> FetchError {
    let mut cause = error.source();
    while let Some(found) = cause {
        match found.downcast_ref::<ResolveError>() {
            Some(ResolveError::Refused { host, reason }) => return blocked(host, *reason).into(),
            Some(ResolveError::NotFound { host, .. } | ResolveError::TimedOut { host }) => {
                return FetchError::NotResolved(host.to_string());
            }
            None => cause = found.source(),
        }
    }
    let detail = root_cause(error);
    let context = if error.is_connect() { "the server cannot be reached: " } else { "" };
    FetchError::Failed(format!("{context}{detail}"))
}

fn root_cause(error: &reqwest::Error) -> String {
    let mut innermost: &(dyn std::error::Error + 'static) = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    // The words of the system alone, without its number.
    match innermost.downcast_ref::<io::Error>() {
        Some(error) => error.to_string().split(" (os error").next().unwrap_or_default().to_owned(),
        None => innermost.to_string(),
    }
}
