//! Sentinels: who of several Redis servers is the primary now. They are asked whenever a
//! connection is made, so a failover needs no more than a reconnect.

use std::io;
use std::time::Duration;

use redis::{ConnectionAddr, ErrorKind, IntoConnectionInfo as _, RedisError, RedisResult, cmd};
use tokio::time::timeout;

use super::address::Access;

const PORT: u16 = 26379;
/// How long one sentinel may take; well below what a command has, so that all can be asked.
const PATIENCE: Duration = Duration::from_millis(500);

/// The sentinels of one primary.
pub(super) struct Sentinels {
    hosts: Vec<(String, u16)>,
    primary: String,
    access: Access,
}

/// The parts of `redis[s]+sentinel://[user:password@]host:port,host:port/primary[/db]`.
pub(super) struct Parsed {
    pub(super) sentinels: Vec<(String, u16)>,
    /// What the sentinels call it.
    pub(super) primary: String,
    /// An address of a single server, for all that is not about hosts.
    pub(super) access_url: String,
}

/// Takes an address apart; `None` if it is not about sentinels.
pub(super) fn parse(url: &str) -> Option<RedisResult<Parsed>> {
    let (scheme, rest) = url.split_once("+sentinel://")?;
    Some(parse_rest(scheme, rest))
}

fn parse_rest(scheme: &str, rest: &str) -> RedisResult<Parsed> {
    let malformed = |what| RedisError::from((ErrorKind::InvalidClientConfig, what));
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (format!("{user}@"), rest),
        None => (String::new(), rest),
    };
    let mut parts = rest.splitn(3, '/');
    let hosts = parts.next().unwrap_or_default();
    let primary = parts.next().filter(|name| !name.is_empty());
    let primary = primary.ok_or_else(|| malformed("the primary's name is missing"))?.to_owned();
    let database = parts.next().unwrap_or_default();
    let sentinels =
        hosts.split(',').map(|host| parse_host(host, PORT)).collect::<RedisResult<Vec<_>>>()?;
    let access_url = format!("{scheme}://{user}sentinel:{PORT}/{database}");
    Ok(Parsed { sentinels, primary, access_url })
}

/// Reads `host[:port]`.
pub(super) fn parse_host(host: &str, default_port: u16) -> RedisResult<(String, u16)> {
    // The colon of a port is behind the last bracket of an IPv6 address.
    let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
    let host = if has_port { host.to_owned() } else { format!("{host}:{default_port}") };
    match format!("redis://{host}").as_str().into_connection_info()?.addr() {
        ConnectionAddr::Tcp(host, port) => Ok((host.clone(), *port)),
        _ => Err((ErrorKind::InvalidClientConfig, "a host is missing").into()),
    }
}

impl Sentinels {
    pub(super) fn new(hosts: Vec<(String, u16)>, primary: String, access: Access) -> Self {
        Self { hosts, primary, access }
    }

    /// The server that is the primary now, by the first sentinel that knows.
    pub(super) async fn primary(&self) -> RedisResult<redis::Client> {
        for (host, port) in &self.hosts {
            match timeout(PATIENCE, self.ask(host, *port)).await {
                Ok(Ok(Some((host, port)))) => return self.access.server_at(&host, port),
                Ok(Ok(None)) => {
                    tracing::warn!(
                        sentinel = host,
                        primary = self.primary,
                        "unknown to a sentinel"
                    );
                }
                Ok(Err(error)) => tracing::debug!(sentinel = host, %error, "no answer"),
                Err(_) => tracing::debug!(sentinel = host, "no answer in time"),
            }
        }
        let nobody = format!("no sentinel says where the primary \"{}\" is", self.primary);
        Err(io::Error::new(io::ErrorKind::NotConnected, nobody).into())
    }

    async fn ask(&self, host: &str, port: u16) -> RedisResult<Option<(String, u16)>> {
        let sentinel = self.access.sentinel_at(host, port)?;
        let mut connection = sentinel.get_multiplexed_async_connection().await?;
        let mut question = cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.primary);
        question.query_async(&mut connection).await
    }
}
