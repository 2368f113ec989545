//! Connections to Redis, of three kinds: one multiplexed connection for ordinary commands, which
//! reconnects by itself; connections of their own for blocking reads; and one for pub/sub.
//!
//! The library's default response timeout of 500 ms would cut every blocking read short, so all
//! timeouts are set here and nowhere else.

use std::future::Future;
use std::io;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection, PubSub};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo as _, Pipeline,
    RedisError, RedisResult, ServerErrorKind,
};
use tokio::time::{Instant, sleep, timeout};

use crate::error::{Error, ErrorCode};

/// Longest that an ordinary command may take, reconnecting included.
pub(super) const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before a command is sent again over a new connection.
const RETRY_PAUSE: Duration = Duration::from_millis(25);
/// Commands that may wait to be written; more callers wait at the door.
const WRITE_QUEUE: usize = 1024;
/// When the kernel gives up a peer that does not answer any more.
const PEER_TIMEOUT: Duration = Duration::from_secs(10);

/// All connections of one process to one Redis.
#[derive(Clone)]
pub(super) struct Client {
    client: redis::Client,
    ordinary: ConnectionManager,
}

impl Client {
    /// A client of `redis://host:port/db` or `redis+unix:///path`; connects with the first command.
    pub(super) fn open(url: &str) -> Result<Self, Error> {
        let client = open(url).map_err(|error| {
            Error::invalid(
                "redis.url is not valid. Use redis://[user:password@]host:port[/db] or \
                 redis+unix:///path.",
            )
            .with_source(error)
        })?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(COMMAND_TIMEOUT))
            // `run` bounds each command; a second timer per command would buy nothing.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(WRITE_QUEUE)
            .set_min_delay(Duration::from_millis(20))
            .set_max_delay(Duration::from_millis(500))
            .set_number_of_retries(20);
        let ordinary =
            ConnectionManager::new_lazy_with_config(client.clone(), config).map_err(failure)?;
        Ok(Self { client, ordinary })
    }

    /// Runs a command that may safely be repeated: once more over a new connection, if the old one
    /// broke under it or Redis is still starting.
    pub(super) async fn run<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let attempt = || async {
            let mut connection = self.ordinary.clone();
            command.query_async(&mut connection).await
        };
        persist(attempt).await
    }

    /// Like `run`, for several commands in one round trip.
    pub(super) async fn run_all<T: FromRedisValue>(&self, commands: &Pipeline) -> RedisResult<T> {
        let attempt = || async {
            let mut connection = self.ordinary.clone();
            commands.query_async(&mut connection).await
        };
        persist(attempt).await
    }

    /// A connection for blocking reads; its owner bounds them.
    pub(super) async fn blocking(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(COMMAND_TIMEOUT))
            .set_response_timeout(None);
        within(self.client.get_multiplexed_async_connection_with_config(&config)).await
    }

    /// A subscription to channels, confirmed.
    pub(super) async fn subscribe(&self, channels: &[String]) -> RedisResult<PubSub> {
        within(async {
            let mut subscription = self.client.get_async_pubsub().await?;
            subscription.subscribe(channels).await?;
            Ok(subscription)
        })
        .await
    }
}

fn open(url: &str) -> RedisResult<redis::Client> {
    let keepalive = TcpKeepalive::new()
        .with_time(PEER_TIMEOUT / 2)
        .with_interval(PEER_TIMEOUT / 10)
        .with_retries(5);
    let tcp = TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive)
        .set_user_timeout(PEER_TIMEOUT);
    redis::Client::open(url.into_connection_info()?.set_tcp_settings(tcp))
}

/// Repeats `attempt` while it fails for want of a connection, within the command timeout.
async fn persist<T, F>(attempt: impl Fn() -> F) -> RedisResult<T>
where
    F: Future<Output = RedisResult<T>>,
{
    let deadline = Instant::now() + COMMAND_TIMEOUT;
    within(async {
        loop {
            match attempt().await {
                Err(error) if is_passing(&error) && Instant::now() + RETRY_PAUSE < deadline => {
                    sleep(RETRY_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    })
    .await
}

/// Whether the same command may succeed in a moment.
fn is_passing(error: &RedisError) -> bool {
    error.is_connection_dropped() || has_code(error, "LOADING")
}

/// Whether Redis answered with this error word, to the command or to one of a pipeline.
fn has_code(error: &RedisError, code: &str) -> bool {
    error.code() == Some(code)
        || error
            .clone()
            .into_server_errors()
            .is_some_and(|errors| errors.iter().any(|(_, error)| error.code() == code))
}

/// Bounds a step by the command timeout.
pub(super) async fn within<T>(step: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    timeout(COMMAND_TIMEOUT, step).await.unwrap_or_else(|_| {
        let late = format!("no answer within {} ms", COMMAND_TIMEOUT.as_millis());
        Err(io::Error::new(io::ErrorKind::TimedOut, late).into())
    })
}

/// Whether a stream or its consumer group has gone (`FLUSHALL`, or a Redis that lost its data).
pub(super) fn is_group_missing(error: &RedisError) -> bool {
    has_code(error, "NOGROUP") || has_code(error, "UNBLOCKED")
}

/// What callers of the queue see of a Redis error. The cause goes to the log only: it may name
/// hosts.
pub(super) fn failure(error: RedisError) -> Error {
    let (code, message) = match (error.kind(), error.code()) {
        (_, Some("OOM")) => {
            (ErrorCode::QueueFull, "The queue is out of memory. Try again in a few seconds.")
        }
        (ErrorKind::Server(ServerErrorKind::NoPerm), _)
        | (_, Some("NOAUTH" | "WRONGPASS"))
        | (ErrorKind::AuthenticationFailed, _) => (
            ErrorCode::QueueUnavailable,
            "The queue refuses this server's credentials. Check redis.url and the ACL.",
        ),
        (ErrorKind::Server(ServerErrorKind::ResponseError), _)
        | (_, Some("WRONGTYPE"))
        | (ErrorKind::UnexpectedReturnType | ErrorKind::Parse, _) => {
            (ErrorCode::Internal, "The queue answered in a way this version does not understand.")
        }
        _ => (
            ErrorCode::QueueUnavailable,
            "The queue cannot be reached. Try again in a few seconds.",
        ),
    };
    Error::new(code, message).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_hosts_and_sockets_are_understood() {
        for url in ["redis://127.0.0.1:6379/2", "redis+unix:///run/isol8/redis.sock"] {
            assert!(open(url).is_ok(), "{url}");
        }
        assert!(open("http://127.0.0.1").is_err());
    }

    #[test]
    fn a_missing_group_is_told_from_other_errors() {
        let missing = redis::make_extension_error("NOGROUP".into(), None);
        assert!(is_group_missing(&missing));
        assert_eq!(failure(missing).code(), ErrorCode::QueueUnavailable);
        let memory = redis::make_extension_error("OOM".into(), None);
        assert_eq!(failure(memory).code(), ErrorCode::QueueFull);
    }
}
