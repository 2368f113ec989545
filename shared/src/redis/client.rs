//! Connections to Redis, of three kinds: one multiplexed connection for ordinary commands, made
//! anew when it breaks; connections of their own for blocking reads; and one for pub/sub.
//!
//! The library's default response timeout of 500 ms would cut every blocking read short, so all
//! timeouts are set here and nowhere else.

use std::future::Future;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult,
    ServerErrorKind,
};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::address::Address;
use crate::config;
use crate::error::{Error, ErrorCode};

/// Longest that an ordinary command may take, reconnecting included.
pub(super) const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before a command is sent again over a new connection.
const RETRY_PAUSE: Duration = Duration::from_millis(25);
/// Commands that may wait to be written; more callers wait at the door.
const WRITE_QUEUE: usize = 1024;

/// All connections of one process to one Redis.
#[derive(Clone)]
pub(super) struct Client {
    address: Address,
    ordinary: Arc<Shared>,
    /// For commands that hold up their connection for a moment.
    aside: Arc<Shared>,
}

/// A connection that many callers share.
#[derive(Default)]
struct Shared {
    held: RwLock<Held>,
    /// Held by the one who makes a new connection.
    connecting: Mutex<()>,
}

/// The connection, if there is one, and how many there have been.
#[derive(Default)]
struct Held {
    connection: Option<MultiplexedConnection>,
    generation: u64,
}

impl Shared {
    fn get(&self) -> Option<(MultiplexedConnection, u64)> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        Some((held.connection.clone()?, held.generation))
    }

    fn set(&self, connection: MultiplexedConnection) -> (MultiplexedConnection, u64) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        held.generation += 1;
        held.connection = Some(connection.clone());
        (connection, held.generation)
    }

    /// Gives up the connection, unless somebody has before.
    fn forget(&self, generation: u64) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if held.generation == generation {
            held.connection = None;
        }
    }
}

impl Client {
    /// A client of the configured queue; connects with the first command.
    pub(super) fn open(config: &config::Redis) -> Result<Self, Error> {
        Ok(Self { address: Address::new(config)?, ordinary: Arc::default(), aside: Arc::default() })
    }

    /// Runs a command that may safely be repeated: once more over a new connection, if the old one
    /// broke under it or Redis is still starting.
    pub(super) async fn run<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let attempt = |mut connection| async move { command.query_async(&mut connection).await };
        self.persist(&self.ordinary, attempt).await
    }

    /// Like `run`, for several commands in one round trip.
    pub(super) async fn run_all<T: FromRedisValue>(&self, commands: &Pipeline) -> RedisResult<T> {
        let attempt = |mut connection| async move { commands.query_async(&mut connection).await };
        self.persist(&self.ordinary, attempt).await
    }

    /// Like `run_all`, beside the ordinary connection: for what Redis answers only after a while.
    pub(super) async fn run_aside<T: FromRedisValue>(&self, commands: &Pipeline) -> RedisResult<T> {
        let attempt = |mut connection| async move { commands.query_async(&mut connection).await };
        self.persist(&self.aside, attempt).await
    }

    /// A connection for blocking reads; its owner bounds them.
    pub(super) async fn blocking(&self) -> RedisResult<MultiplexedConnection> {
        within(self.connect()).await
    }

    /// A subscription to channels, confirmed.
    pub(super) async fn subscribe(&self, channels: &[String]) -> RedisResult<PubSub> {
        within(async {
            let mut subscription = self.address.server().await?.get_async_pubsub().await?;
            subscription.subscribe(channels).await?;
            Ok(subscription)
        })
        .await
    }

    /// Boxed: connecting is rare, and its future large beside that of a command.
    fn connect(&self) -> BoxFuture<'_, RedisResult<MultiplexedConnection>> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(COMMAND_TIMEOUT))
            // Callers bound each command; a second timer per command would buy nothing.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(WRITE_QUEUE);
        Box::pin(async move {
            let server = self.address.server().await?;
            server.get_multiplexed_async_connection_with_config(&config).await
        })
    }

    /// A shared connection and its generation. Callers that find none wait for the one who makes it.
    async fn connection(&self, shared: &Shared) -> RedisResult<(MultiplexedConnection, u64)> {
        if let Some(found) = shared.get() {
            return Ok(found);
        }
        let _turn = shared.connecting.lock().await;
        match shared.get() {
            Some(found) => Ok(found),
            None => self.connect().await.map(|connection| shared.set(connection)),
        }
    }

    /// Repeats `attempt` while it fails for want of a connection, within the command timeout.
    async fn persist<T, F>(
        &self,
        shared: &Shared,
        attempt: impl Fn(MultiplexedConnection) -> F,
    ) -> RedisResult<T>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let deadline = Instant::now() + COMMAND_TIMEOUT;
        let mut used = None;
        // Boxed, as whoever awaits this keeps room for it: the futures around it are large enough.
        let outcome = within(Box::pin(async {
            loop {
                let outcome = match self.connection(shared).await {
                    Ok((connection, generation)) => {
                        used = Some(generation);
                        attempt(connection).await
                    }
                    Err(error) => Err(error),
                };
                let Err(error) = outcome else { return outcome };
                if self.is_spent(&error) {
                    used.take().into_iter().for_each(|used| shared.forget(used));
                }
                if !self.is_passing(&error) || Instant::now() + RETRY_PAUSE >= deadline {
                    return Err(error);
                }
                sleep(RETRY_PAUSE).await;
            }
        }))
        .await;
        // A server that hangs keeps its connections open; its successor is found by a new one.
        if self.address.may_move()
            && let (Err(error), Some(used)) = (&outcome, used)
            && error.is_timeout()
        {
            shared.forget(used);
        }
        outcome
    }

    /// Whether nothing will come of the connection any more.
    fn is_spent(&self, error: &RedisError) -> bool {
        error.is_connection_dropped() || error.is_unrecoverable_error() || self.has_moved(error)
    }

    /// Whether the same command may succeed in a moment.
    fn is_passing(&self, error: &RedisError) -> bool {
        error.is_connection_dropped() || has_code(error, "LOADING") || self.has_moved(error)
    }

    /// Whether the server is not the primary any more.
    fn has_moved(&self, error: &RedisError) -> bool {
        self.address.may_move() && (has_code(error, "READONLY") || has_code(error, "MASTERDOWN"))
    }
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
    fn a_missing_group_is_told_from_other_errors() {
        let missing = redis::make_extension_error("NOGROUP".into(), None);
        assert!(is_group_missing(&missing));
        assert_eq!(failure(missing).code(), ErrorCode::QueueUnavailable);
        let memory = redis::make_extension_error("OOM".into(), None);
        assert_eq!(failure(memory).code(), ErrorCode::QueueFull);
    }
}
