//! An HTTP client that dials only what its rules let pass: names are resolved by us, and what it is given
//! is all it can dial. No redirects, no proxy, no cookies, no kept connections.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use reqwest::Client;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy as Redirects;
use shared::net::{AddressRules, Host, ResolveError, Resolver};
use shared::{Error, ErrorCode};
use tokio::time::Instant;

/// A client by these rules. An address that stands in a URL itself is not resolved: whoever sends a
/// request judges that first.
///
/// # Errors
/// If TLS cannot be set up.
pub(crate) fn client(
    resolver: Resolver,
    addresses: AddressRules,
    timeout: Duration,
) -> Result<Client, Error> {
    // The provider is the process's; whoever embeds this crate may have chosen one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .user_agent(concat!("isol8/", env!("CARGO_PKG_VERSION")))
        .redirect(Redirects::none())
        .referer(false)
        .no_proxy()
        .pool_max_idle_per_host(0)
        .dns_resolver(Checked { resolver, addresses, timeout })
        .build()
        .map_err(|error| {
            let message = format!("An HTTP client cannot be set up: {}", root_cause(&error));
            Error::new(ErrorCode::Internal, message).with_source(error)
        })
}

/// Resolves for the client.
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

/// Why the host of a request was not dialled, if that is why it failed.
pub(crate) fn unresolved(error: &reqwest::Error) -> Option<&ResolveError> {
    let mut cause = error.source();
    while let Some(found) = cause {
        if let Some(found) = found.downcast_ref() {
            return Some(found);
        }
        cause = found.source();
    }
    None
}

/// What a failure of the client comes down to: the innermost cause, without the address, which may hold a
/// token.
pub(crate) fn words(error: &reqwest::Error) -> String {
    let detail = root_cause(error);
    let context = if error.is_connect() { "the server cannot be reached: " } else { "" };
    format!("{context}{detail}")
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
