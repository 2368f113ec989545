//! Names asked of name servers that the operator chose, instead of this machine's resolver, which may know
//! names that are nobody else's business.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tokio::sync::Semaphore;

use super::resolve::{Lookup, MAX_LOOKUPS, Turn};
use crate::error::{Error, ErrorCode};

/// Where name servers listen.
const PORT: u16 = 53;

/// A name server, like `192.0.2.53`, `192.0.2.53:5353` or `[2001:db8::53]:5353`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameServer(SocketAddr);

impl FromStr for NameServer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, PORT));
        let server = bare.or_else(|_| text.parse()).ok().filter(|server| server.port() > 0);
        server.map(Self).ok_or_else(|| {
            format!(
                "\"{text}\" is not the address of a name server like 192.0.2.53 or 192.0.2.53:5353"
            )
        })
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.port() == PORT { self.0.ip().fmt(f) } else { self.0.fmt(f) }
    }
}

impl Serialize for NameServer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NameServer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for NameServer {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "NameServer".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// Asks name servers, over UDP and, for long answers, TCP. Nothing is kept: what a name leads to is judged
/// anew each time.
pub(super) struct ServerLookup {
    resolver: TokioResolver,
    slots: Arc<Semaphore>,
}

impl ServerLookup {
    pub(super) fn new(servers: &[NameServer]) -> Result<Self, Error> {
        let servers = servers.iter().map(|NameServer(server)| {
            let mut config = NameServerConfig::udp_and_tcp(server.ip());
            config.connections.iter_mut().for_each(|way| way.port = server.port());
            config
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options: &mut ResolverOpts = builder.options_mut();
        options.cache_size = 0;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = ResolveHosts::Never;
        options.max_active_requests = 2 * MAX_LOOKUPS;
        let resolver = builder.build().map_err(|error| {
            let message = "The name servers of worker.resolvers cannot be used.";
            Error::new(ErrorCode::Internal, message).with_source(error)
        })?;
        Ok(Self { resolver, slots: Arc::new(Semaphore::new(MAX_LOOKUPS)) })
    }
}

impl Lookup for ServerLookup {
    fn lookup<'a>(&'a self, name: &'a str, turn: Turn) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            // Given back with this future: nothing goes on without it.
            let _taken = (self.slots.acquire().await.map_err(io::Error::other)?, turn);
            // With the dot of the root: there are no other names to try.
            let found = self.resolver.lookup_ip(format!("{name}.")).await;
            Ok(found.map_err(io::Error::other)?.iter().collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_with_and_without_a_port() {
        for (text, shown) in [
            ("192.0.2.53", "192.0.2.53"),
            ("192.0.2.53:53", "192.0.2.53"),
            ("127.0.0.1:5353", "127.0.0.1:5353"),
            ("2001:db8::53", "2001:db8::53"),
            ("[2001:db8::53]:5353", "[2001:db8::53]:5353"),
        ] {
            assert_eq!(text.parse::<NameServer>().unwrap().to_string(), shown);
        }
        for text in ["", "dns.example", "192.0.2.53:0", "192.0.2", "192.0.2.53:x"] {
            let refused = text.parse::<NameServer>().unwrap_err();
            assert!(refused.contains("192.0.2.53:5353"), "{refused}");
        }
    }
}
