//! Single connections to Redis: how they are made, and how many callers share one that is made anew
//! when it breaks.
//!
//! The library's default response timeout of 500 ms would cut every blocking read short, so all
//! timeouts are set here and in `client` and nowhere else.

use std::future::Future;
use std::io;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisFuture, RedisResult, Value};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::cluster::Link;

/// Longest that an ordinary command may take, reconnecting included.
pub(super) const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// Commands that may wait to be written; more callers wait at the door.
const WRITE_QUEUE: usize = 1024;

/// A connection that many callers share.
#[derive(Default)]
pub(super) struct Shared {
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
    /// The connection and its generation; made by `connect` if there is none. Callers that find none
    /// wait for the one who makes it.
    pub(super) async fn get_or<F>(
        &self,
        connect: impl FnOnce() -> F,
    ) -> RedisResult<(MultiplexedConnection, u64)>
    where
        F: Future<Output = RedisResult<MultiplexedConnection>>,
    {
        if let Some(found) = self.get() {
            return Ok(found);
        }
        let _turn = self.connecting.lock().await;
        match self.get() {
            Some(found) => Ok(found),
            None => connect().await.map(|connection| self.set(connection)),
        }
    }

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
    pub(super) fn forget(&self, generation: u64) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if held.generation == generation {
            held.connection = None;
        }
    }
}

/// A connection of its owner's own, for reads that may block; its owner bounds them.
#[derive(Clone)]
pub(super) enum Private {
    /// To the one server.
    Server(MultiplexedConnection),
    /// To whichever node of a cluster serves the keys in use.
    Cluster(Link),
}

impl ConnectionLike for Private {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Server(connection) => connection.req_packed_command(command),
            Self::Cluster(link) => link.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Server(connection) => connection.req_packed_commands(commands, offset, count),
            Self::Cluster(link) => link.req_packed_commands(commands, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Server(connection) => connection.get_db(),
            Self::Cluster(link) => link.get_db(),
        }
    }
}

/// Connects to a server. Boxed: connecting is rare, and its future large beside that of a command.
pub(super) fn connect(
    server: redis::Client,
) -> BoxFuture<'static, RedisResult<MultiplexedConnection>> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(COMMAND_TIMEOUT))
        // Callers bound each command; a second timer per command would buy nothing.
        .set_response_timeout(None)
        .set_pipeline_buffer_size(WRITE_QUEUE);
    Box::pin(async move { server.get_multiplexed_async_connection_with_config(&config).await })
}

/// Bounds a step by the command timeout.
pub(super) async fn within<T>(step: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    timeout(COMMAND_TIMEOUT, step).await.unwrap_or_else(|_| Err(late()))
}

/// That no answer came in time.
pub(super) fn late() -> redis::RedisError {
    let late = format!("no answer within {} ms", COMMAND_TIMEOUT.as_millis());
    io::Error::new(io::ErrorKind::TimedOut, late).into()
}
