//! From a host to the addresses that may be dialled. Only what comes out of here is dialled, so an
//! answer that changes between check and use changes nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::address::{AddressRules, Reason};
use super::host::Host;
use super::servers::{NameServer, ServerLookup};
use crate::error::Error;

/// Addresses of one host that are tried; a name with more is no service of anybody's.
const MAX_ADDRESSES: usize = 16;
/// Look-ups under way at once. Each holds a thread until the system's resolver gives up.
pub(super) const MAX_LOOKUPS: usize = 64;

/// Finds the addresses of a name. Tests put their own in.
pub trait Lookup: Send + Sync {
    /// All addresses of `name`, unchecked. `turn` is kept for as long as anything is busy with it,
    /// which may be longer than whoever asked waits.
    ///
    /// # Errors
    /// If it has none, or nobody can tell.
    fn lookup<'a>(&'a self, name: &'a str, turn: Turn) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// One look-up of those that a share allows at once; given back when dropped.
#[derive(Debug, Default)]
pub struct Turn {
    _permit: Option<OwnedSemaphorePermit>,
}

/// Why a host cannot be dialled.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// It leads to addresses that may not be dialled, and to no other.
    #[error("{host} leads to {} {reason} address, which may not be reached", reason.article())]
    Refused {
        /// The host.
        host: Host,
        /// Why the first of its addresses may not.
        reason: Reason,
    },
    /// It has no address.
    #[error("{host} could not be resolved")]
    NotFound {
        /// The host.
        host: Host,
        /// What the resolver said, if anything.
        #[source]
        source: Option<io::Error>,
    },
    /// The resolver did not answer in time.
    #[error("{host} was not resolved in time")]
    TimedOut {
        /// The host.
        host: Host,
    },
}

/// Resolves hosts to addresses that passed the rules.
#[derive(Clone)]
pub struct Resolver {
    lookup: Arc<dyn Lookup>,
    /// Look-ups that may be under way at once for whoever has this resolver; `None`: any number.
    share: Option<Arc<Semaphore>>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("share", &self.share).finish_non_exhaustive()
    }
}

impl Default for Resolver {
    /// The system's own resolver.
    fn default() -> Self {
        Self::new(SystemLookup { slots: Arc::new(Semaphore::new(MAX_LOOKUPS)) })
    }
}

impl Resolver {
    /// A resolver that asks `lookup`.
    #[must_use]
    pub fn new(lookup: impl Lookup + 'static) -> Self {
        Self { lookup: Arc::new(lookup), share: None }
    }

    /// A resolver that asks these name servers and nobody else; the system's own if there are none.
    ///
    /// # Errors
    /// If they cannot be used.
    pub fn of_servers(servers: &[NameServer]) -> Result<Self, Error> {
        if servers.is_empty() {
            return Ok(Self::default());
        }
        ServerLookup::new(servers).map(Self::new)
    }

    /// The same resolver for one of many who use it: at most `lookups` of its own are under way at
    /// once, so that it cannot take those of all others.
    #[must_use]
    pub fn share(&self, lookups: usize) -> Self {
        Self { lookup: Arc::clone(&self.lookup), share: Some(Arc::new(Semaphore::new(lookups))) }
    }

    async fn look_up(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let permit = match &self.share {
            None => None,
            Some(share) => Some(Arc::clone(share).acquire_owned().await.map_err(io::Error::other)?),
        };
        self.lookup.lookup(name, Turn { _permit: permit }).await
    }

    /// The addresses of `host` that `rules` let pass, in the resolver's order; at least one.
    ///
    /// # Errors
    /// If all of them are refused, or there is none, or `deadline` passes first.
    pub async fn resolve(
        &self,
        host: &Host,
        port: u16,
        rules: &AddressRules,
        deadline: Instant,
    ) -> Result<Vec<SocketAddr>, ResolveError> {
        let found = match host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => match timeout_at(deadline, self.look_up(name)).await {
                Ok(Ok(found)) => found,
                Ok(Err(error)) => {
                    return Err(ResolveError::NotFound { host: host.clone(), source: Some(error) });
                }
                Err(_) => return Err(ResolveError::TimedOut { host: host.clone() }),
            },
        };
        let mut first_reason = None;
        let mut seen = BTreeSet::new();
        let passed: Vec<SocketAddr> = found
            .into_iter()
            .filter(|address| {
                let reason = rules.refuses(*address);
                first_reason = first_reason.or(reason);
                reason.is_none() && seen.insert(*address)
            })
            .take(MAX_ADDRESSES)
            .map(|address| SocketAddr::new(address, port))
            .collect();
        match first_reason {
            _ if !passed.is_empty() => Ok(passed),
            Some(reason) => Err(ResolveError::Refused { host: host.clone(), reason }),
            None => Err(ResolveError::NotFound { host: host.clone(), source: None }),
        }
    }
}

/// `getaddrinfo`, on a thread of its own.
struct SystemLookup {
    slots: Arc<Semaphore>,
}

impl Lookup for SystemLookup {
    fn lookup<'a>(&'a self, name: &'a str, turn: Turn) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(io::Error::other)?;
            let name = name.to_owned();
            let looking = tokio::task::spawn_blocking(move || {
                // Whoever asked may have stopped waiting; the thread is taken until here.
                let _taken = (slot, turn);
                let found = (name.as_str(), 0).to_socket_addrs()?;
                Ok(found.map(|address| address.ip()).collect())
            });
            looking.await.map_err(io::Error::other)?
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;

    /// Gives its answers one after the other, then none any more.
    struct Script(Mutex<Vec<Vec<&'static str>>>);

    impl Lookup for Script {
        fn lookup<'a>(&'a self, _: &'a str, _: Turn) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
            let mut answers = self.0.lock().unwrap();
            if answers.is_empty() {
                return Box::pin(pending());
            }
            let answer = answers.remove(0).into_iter().map(|it| it.parse().unwrap()).collect();
            Box::pin(async { Ok(answer) })
        }
    }

    async fn resolve(resolver: &Resolver, host: &str) -> Result<Vec<SocketAddr>, ResolveError> {
        resolve_within(Duration::from_secs(60), resolver, host).await
    }

    async fn resolve_within(
        limit: Duration,
        resolver: &Resolver,
        host: &str,
    ) -> Result<Vec<SocketAddr>, ResolveError> {
        let deadline = Instant::now() + limit;
        resolver.resolve(&host.parse().unwrap(), 443, &AddressRules::default(), deadline).await
    }

    #[tokio::test]
    async fn only_allowed_answers_come_out_whatever_was_answered_before() {
        let answers = vec![
            vec!["203.0.113.7", "10.0.0.1", "203.0.113.7", "::1", "2001:db8::7"],
            vec!["127.0.0.1", "10.0.0.1"],
            vec![],
        ];
        let resolver = Resolver::new(Script(Mutex::new(answers)));
        let passed = resolve(&resolver, "rebind.example").await.unwrap();
        assert_eq!(passed, ["203.0.113.7:443", "[2001:db8::7]:443"].map(|it| it.parse().unwrap()));
        let refused = resolve(&resolver, "rebind.example").await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "rebind.example leads to a loopback address, which may not be reached"
        );
        let none = resolve(&resolver, "rebind.example").await.unwrap_err();
        assert!(matches!(none, ResolveError::NotFound { source: None, .. }), "{none}");
        let limit = Duration::from_millis(50);
        let late = resolve_within(limit, &resolver, "rebind.example").await.unwrap_err();
        assert!(matches!(late, ResolveError::TimedOut { .. }), "{late}");
    }

    /// Nobody answers, and whoever asks is busy for ever.
    #[derive(Default)]
    struct Silence(Arc<Mutex<Vec<Turn>>>);

    impl Lookup for Silence {
        fn lookup<'a>(&'a self, _: &'a str, turn: Turn) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
            self.0.lock().unwrap().push(turn);
            Box::pin(pending())
        }
    }

    async fn ask_in_vain(resolver: &Resolver) {
        let limit = Duration::from_millis(50);
        resolve_within(limit, resolver, "silent.example").await.unwrap_err();
    }

    #[tokio::test]
    async fn whoever_shares_a_resolver_cannot_take_all_of_it() {
        let silence = Silence::default();
        let asked = Arc::clone(&silence.0);
        let all = Resolver::new(silence);
        let (one, other) = (all.share(2), all.share(2));
        for _ in 0..4 {
            ask_in_vain(&one).await;
        }
        // What was given up is under way still.
        assert_eq!(asked.lock().unwrap().len(), 2);
        ask_in_vain(&other).await;
        assert_eq!(asked.lock().unwrap().len(), 3);
        asked.lock().unwrap().clear();
        ask_in_vain(&one).await;
        assert_eq!(asked.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn addresses_are_judged_without_asking_anybody() {
        let resolver = Resolver::new(Script(Mutex::default()));
        assert_eq!(
            resolve(&resolver, "192.0.2.1").await.unwrap(),
            ["192.0.2.1:443".parse().unwrap()]
        );
        let refused = resolve(&resolver, "[::ffff:169.254.169.254]").await.unwrap_err();
        let ResolveError::Refused { reason, .. } = refused else { panic!("{refused}") };
        assert_eq!(reason, Reason::Metadata);
    }

    #[tokio::test]
    async fn the_system_knows_this_machine() {
        let refused = resolve(&Resolver::default(), "localhost").await.unwrap_err();
        let ResolveError::Refused { reason, .. } = refused else { panic!("{refused}") };
        assert_eq!(reason, Reason::Loopback);
    }
}
