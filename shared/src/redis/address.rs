//! Where the queue is: from the words of the configuration to connections to the right server,
//! with the credentials and certificates that it asks for.
//!
//! An address names either the server itself, or sentinels, who know which server is the primary, or
//! some nodes of a cluster, who know all others.

use std::fs;
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisResult,
    TlsCertificates,
};

use super::sentinel::{self, Sentinels};
use crate::config;
use crate::error::Error;

/// What an address may look like.
const FORMS: &str = "Use redis://[user:password@]host:port[/db], rediss:// for TLS, \
                     redis+unix:///path, redis+sentinel://host:port,host:port/primary[/db], or \
                     redis+cluster://host:port,host:port.";
/// Where a node of a cluster listens, if its address does not say.
const CLUSTER_PORT: u16 = 6379;
/// When the kernel gives up a peer that does not answer any more.
const PEER_TIMEOUT: Duration = Duration::from_secs(10);

/// Hosts and ports of some nodes of a cluster.
type Seeds = Vec<(String, u16)>;

/// Where the queue is.
pub(super) enum Address {
    /// All at one place.
    Place(Place),
    /// Spread over the nodes of a cluster, of which these are some.
    Cluster {
        /// Hosts and ports.
        seeds: Seeds,
        /// How to reach each.
        access: Access,
    },
}

/// Where a queue is that one server holds.
pub(super) enum Place {
    /// At this server.
    Server(redis::Client),
    /// At whichever server the sentinels call the primary.
    Sentinels(Sentinels),
}

/// How to reach any server of a deployment, but for its host.
#[derive(Clone)]
pub(super) struct Access {
    info: ConnectionInfo,
    certificates: Option<TlsCertificates>,
    /// What sentinels ask for, which know none of the servers' users.
    sentinel_password: Option<String>,
}

impl Address {
    /// Reads `redis.url` and the files beside it.
    pub(super) fn new(config: &config::Redis) -> Result<Self, Error> {
        let url = config.url.as_deref().ok_or_else(|| {
            Error::invalid("redis.url is not set. Set it to redis://host:port or use `serve`.")
        })?;
        if let Some(cluster) = cluster_seeds(url) {
            let (seeds, url) = cluster.map_err(malformed)?;
            refuse_sentinel_password(config)?;
            let access = Access::new(&url, config)?;
            access.server().map_err(malformed)?;
            return Ok(Self::Cluster { seeds, access });
        }
        let (sentinels, url) = match sentinel::parse(url) {
            Some(parsed) => {
                let parsed = parsed.map_err(malformed)?;
                (Some((parsed.sentinels, parsed.primary)), parsed.access_url)
            }
            None => (None, url.to_owned()),
        };
        if sentinels.is_none() {
            refuse_sentinel_password(config)?;
        }
        let access = Access::new(&url, config)?;
        Ok(match sentinels {
            None => Self::Place(Place::Server(access.server().map_err(malformed)?)),
            Some((hosts, primary)) => {
                // What cannot be used with any server is found at start.
                access.server().map_err(malformed)?;
                Self::Place(Place::Sentinels(Sentinels::new(hosts, primary, access)))
            }
        })
    }
}

impl Place {
    /// The server that holds the queue now.
    pub(super) async fn server(&self) -> RedisResult<redis::Client> {
        match self {
            Self::Server(server) => Ok(server.clone()),
            Self::Sentinels(sentinels) => sentinels.primary().await,
        }
    }

    /// Whether the queue may move to another server.
    pub(super) fn may_move(&self) -> bool {
        matches!(self, Self::Sentinels(_))
    }
}

impl Access {
    fn new(url: &str, config: &config::Redis) -> Result<Self, Error> {
        let mut info = url.into_connection_info().map_err(malformed)?.set_tcp_settings(tcp());
        // Saves a command per connection, which an ACL would have to allow besides.
        let mut settings = info.redis_settings().clone().set_skip_set_lib_name();
        if let Some(path) = &config.password_file {
            if settings.password().is_some() {
                return Err(Error::invalid(
                    "redis.url holds a password and redis.passwordFile names another. Remove one.",
                ));
            }
            settings = settings.set_password(read_password("redis.passwordFile", path)?);
        }
        info = info.set_redis_settings(settings);
        let certificates = certificates(config)?;
        let is_tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        if certificates.is_some() && !is_tls {
            return Err(Error::invalid(
                "redis.caFile and redis.certificateFile are for TLS, and redis.url is not. Use \
                 rediss:// or rediss+sentinel:// in redis.url, or remove them.",
            ));
        }
        if is_tls {
            provide_tls();
        }
        let sentinel_password = config
            .sentinel_password_file
            .as_deref()
            .map(|path| read_password("redis.sentinelPasswordFile", path))
            .transpose()?;
        Ok(Self { info, certificates, sentinel_password })
    }

    fn server(&self) -> RedisResult<redis::Client> {
        match &self.certificates {
            Some(certificates) => {
                redis::Client::build_with_tls(self.info.clone(), certificates.clone())
            }
            None => redis::Client::open(self.info.clone()),
        }
    }

    /// A server of the deployment.
    pub(super) fn server_at(&self, host: &str, port: u16) -> RedisResult<redis::Client> {
        let host = host.to_owned();
        let addr = match self.info.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            _ => ConnectionAddr::Tcp(host, port),
        };
        Self { info: self.info.clone().set_addr(addr), ..self.clone() }.server()
    }

    /// One of its sentinels, which know neither the servers' users nor databases.
    pub(super) fn sentinel_at(&self, host: &str, port: u16) -> RedisResult<redis::Client> {
        let mut settings = redis::RedisConnectionInfo::default().set_skip_set_lib_name();
        if let Some(password) = &self.sentinel_password {
            settings = settings.set_password(password);
        }
        let info = self.info.clone().set_redis_settings(settings);
        Self { info, ..self.clone() }.server_at(host, port)
    }
}

fn certificates(config: &config::Redis) -> Result<Option<TlsCertificates>, Error> {
    let read_if =
        |key, path: &Option<_>| path.as_deref().map(|path: &Path| read(key, path)).transpose();
    let root_cert = read_if("redis.caFile", &config.ca_file)?;
    let client_cert = read_if("redis.certificateFile", &config.certificate_file)?;
    let client_key = read_if("redis.keyFile", &config.key_file)?;
    let client_tls = match (client_cert, client_key) {
        (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig { client_cert, client_key }),
        (None, None) => None,
        _ => {
            return Err(Error::invalid(
                "redis.certificateFile and redis.keyFile belong together. Set both or none.",
            ));
        }
    };
    let is_given = root_cert.is_some() || client_tls.is_some();
    Ok(is_given.then_some(TlsCertificates { client_tls, root_cert }))
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| {
        Error::invalid(format!("{key} {} cannot be read: {error}", path.display()))
    })
}

fn refuse_sentinel_password(config: &config::Redis) -> Result<(), Error> {
    if config.sentinel_password_file.is_none() {
        return Ok(());
    }
    Err(Error::invalid(
        "redis.sentinelPasswordFile is for sentinels, and redis.url names none. Use \
         redis+sentinel:// in redis.url, or remove it.",
    ))
}

fn read_password(key: &str, path: &Path) -> Result<String, Error> {
    let password = String::from_utf8(read(key, path)?)
        .map_err(|_| Error::invalid(format!("{key} {}: it is not text", path.display())))?;
    Ok(password.trim_end_matches(['\r', '\n']).to_owned())
}

/// The hosts of `redis[s]+cluster://[user:password@]host:port,host:port`, and an address of a single
/// server, for all that is not about hosts; `None` if it is not about a cluster.
fn cluster_seeds(url: &str) -> Option<RedisResult<(Seeds, String)>> {
    let (scheme, rest) = url.split_once("+cluster://")?;
    let (user, hosts) = match rest.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), rest),
    };
    // A cluster has one database, so there is none to name.
    let seeds = hosts
        .trim_end_matches('/')
        .split(',')
        .map(|host| sentinel::parse_host(host, CLUSTER_PORT))
        .collect::<RedisResult<Vec<_>>>();
    Some(seeds.map(|seeds| (seeds, format!("{scheme}://{user}cluster:{CLUSTER_PORT}"))))
}

fn tcp() -> TcpSettings {
    let keepalive = TcpKeepalive::new()
        .with_time(PEER_TIMEOUT / 2)
        .with_interval(PEER_TIMEOUT / 10)
        .with_retries(5);
    TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(PEER_TIMEOUT)
}

/// The process needs one provider of cryptography; whoever comes first installs it.
fn provide_tls() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // Refused if somebody else has installed one, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// The cause goes to the log only: it may hold a password.
fn malformed(error: redis::RedisError) -> Error {
    Error::invalid(format!("redis.url or one of its files is not valid. {FORMS}"))
        .with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(url: &str) -> Result<Address, Error> {
        Address::new(&config::Redis { url: Some(url.into()), ..config::Redis::default() })
    }

    #[test]
    fn addresses_of_every_form_are_understood() {
        for url in [
            "redis://127.0.0.1:6379/2",
            "redis://worker:p%40ss@queue",
            "rediss://queue:6380",
            "valkey://queue",
            "redis+unix:///run/isol8/redis.sock",
            "redis+sentinel://a:26379,b,[::1]:5/queue/1",
            "rediss+sentinel://user:password@a/queue",
            "redis+cluster://a:7000,b,[::1]:5",
            "rediss+cluster://user:password@a",
        ] {
            let address = open(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            let is_right = match address {
                Address::Place(place) => {
                    place.may_move() == url.contains("sentinel") && !url.contains("cluster")
                }
                Address::Cluster { seeds, .. } => seeds[0].0 == "a" && url.contains("cluster"),
            };
            assert!(is_right, "{url}");
        }
        for url in [
            "http://127.0.0.1",
            "redis://",
            "redis+sentinel://a:26379",
            "redis+sentinel:///queue",
            "redis+sentinel://a:port/queue",
            "redis+sentinel://a/queue/db",
            "redis+cluster://",
            "redis+cluster://a:port",
            "redis+cluster://a/1",
        ] {
            let error = open(url).err().unwrap_or_else(|| panic!("{url} was taken"));
            assert!(error.to_string().contains("redis.url"), "{error}");
        }
    }

    #[test]
    fn files_that_do_not_fit_are_named() {
        let refused = |change: &dyn Fn(&mut config::Redis)| {
            let mut config =
                config::Redis { url: Some("redis://u:p@queue".into()), ..config::Redis::default() };
            change(&mut config);
            Address::new(&config).err().expect("it was taken").to_string()
        };
        let missing = refused(&|config| config.ca_file = Some("/nowhere/ca.pem".into()));
        assert!(missing.contains("redis.caFile /nowhere/ca.pem"), "{missing}");
        let two = refused(&|config| config.password_file = Some("/dev/null".into()));
        assert!(two.contains("redis.passwordFile"), "{two}");
        let half = refused(&|config| config.key_file = Some("/dev/null".into()));
        assert!(half.contains("belong together"), "{half}");
        let nobody_asks =
            refused(&|config| config.sentinel_password_file = Some("/dev/null".into()));
        assert!(nobody_asks.contains("redis.sentinelPasswordFile"), "{nobody_asks}");
        let plain = refused(&|config| config.ca_file = Some("/dev/null".into()));
        assert!(plain.contains("rediss://"), "{plain}");
    }
}
