//! The way to Redis for everything else here: ordinary commands over one multiplexed connection per
//! server, made anew when it breaks; connections of their own for blocking reads; and pub/sub.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::{
    Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, ServerErrorKind, cmd,
};
use tokio::time::{Instant, sleep};

use super::address::{Address, Place};
use super::cluster::{Answer, Cluster, NOT_A_CLUSTER};
use super::connection::{Private, Shared, connect};
use super::keys;
use crate::config;
use crate::error::{Error, ErrorCode};

pub(super) use super::connection::{COMMAND_TIMEOUT, within};

/// Pause before a command is sent again over a new connection.
const RETRY_PAUSE: Duration = Duration::from_millis(25);

/// All connections of one process to one Redis.
#[derive(Clone)]
pub(super) enum Client {
    /// One server, or whichever is the primary.
    Server(Arc<Server>),
    /// Several servers, each with a part of the keys.
    Cluster(Arc<Cluster>),
}

/// Connections to one server.
pub(super) struct Server {
    place: Place,
    ordinary: Shared,
    /// For commands that hold up their connection for a moment.
    aside: Shared,
}

impl Client {
    /// A client of the configured queue; connects with the first command.
    pub(super) fn open(config: &config::Redis) -> Result<Self, Error> {
        Ok(match Address::new(config)? {
            Address::Cluster { seeds, access } => {
                Self::Cluster(Arc::new(Cluster::new(&seeds, access)))
            }
            Address::Place(place) => {
                let (ordinary, aside) = Default::default();
                Self::Server(Arc::new(Server { place, ordinary, aside }))
            }
        })
    }

    /// The cluster, if it is one.
    pub(super) fn cluster(&self) -> Option<&Arc<Cluster>> {
        match self {
            Self::Server(_) => None,
            Self::Cluster(cluster) => Some(cluster),
        }
    }

    /// Runs a command that may safely be repeated: once more over a new connection, if the old one
    /// broke under it or Redis is still starting.
    pub(super) async fn run<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        match self {
            Self::Server(server) => {
                let attempt =
                    |mut connection| async move { command.query_async(&mut connection).await };
                server.persist(&server.ordinary, attempt).await
            }
            Self::Cluster(cluster) => Box::pin(command.query_async(&mut cluster.link())).await,
        }
    }

    /// Like `run`, for several commands in one round trip.
    pub(super) async fn run_all<T: FromRedisValue>(&self, commands: &Pipeline) -> RedisResult<T> {
        match self {
            Self::Server(server) => {
                let attempt =
                    |mut connection| async move { commands.query_async(&mut connection).await };
                server.persist(&server.ordinary, attempt).await
            }
            Self::Cluster(cluster) => Box::pin(commands.query_async(&mut cluster.link())).await,
        }
    }

    /// Like `run_all`, beside the ordinary connection: for what Redis answers only after a while.
    pub(super) async fn run_aside<T: FromRedisValue>(&self, commands: &Pipeline) -> RedisResult<T> {
        match self {
            Self::Server(server) => {
                let attempt =
                    |mut connection| async move { commands.query_async(&mut connection).await };
                server.persist(&server.aside, attempt).await
            }
            Self::Cluster(cluster) => {
                Box::pin(commands.query_async(&mut cluster.link_aside())).await
            }
        }
    }

    /// Like `run_all`, for commands that are about servers rather than keys: on each that holds keys.
    pub(super) async fn run_everywhere<T: FromRedisValue>(
        &self,
        commands: &Pipeline,
    ) -> RedisResult<Vec<Answer<T>>> {
        match self {
            Self::Server(_) => {
                let answer = self.run_all(commands).await?;
                Ok(vec![Answer { node: String::new(), answer }])
            }
            Self::Cluster(cluster) => cluster.run_everywhere(commands).await,
        }
    }

    /// Runs a command without keys on the server that `like` goes to.
    pub(super) async fn run_where<T: FromRedisValue>(
        &self,
        command: &Cmd,
        like: &Cmd,
    ) -> RedisResult<T> {
        match self {
            Self::Server(_) => self.run(command).await,
            Self::Cluster(cluster) => cluster.run_where(command, like).await,
        }
    }

    /// Whether Redis answers; a cluster only if it serves keys.
    pub(super) async fn ping(&self) -> RedisResult<()> {
        match self {
            Self::Server(_) => self.run::<String>(&cmd("PING")).await.map(drop),
            Self::Cluster(_) => self.run::<bool>(cmd("EXISTS").arg(keys::FLEET)).await.map(drop),
        }
    }

    /// How many listen to a channel.
    pub(super) async fn listeners(&self, channel: &str) -> RedisResult<usize> {
        let mut count = redis::pipe();
        count.cmd("PUBSUB").arg("NUMSUB").arg(channel);
        let answers: Vec<Answer<((String, usize),)>> = self.run_everywhere(&count).await?;
        Ok(answers.into_iter().map(|it| it.answer.0.1).sum())
    }

    /// A connection for commands that may block, all about one tenant; its owner bounds them.
    pub(super) async fn private(&self) -> RedisResult<Private> {
        match self {
            Self::Server(server) => within(server.connect()).await.map(Private::Server),
            Self::Cluster(cluster) => Ok(Private::Cluster(cluster.private())),
        }
    }

    /// A subscription to channels, confirmed.
    pub(super) async fn subscribe(&self, channels: &[String]) -> RedisResult<PubSub> {
        within(async {
            let server = match self {
                Self::Server(server) => server.place.server().await?,
                Self::Cluster(cluster) => cluster.any_node().await?,
            };
            let mut subscription = server.get_async_pubsub().await?;
            subscription.subscribe(channels).await?;
            Ok(subscription)
        })
        .await
    }
}

impl Server {
    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        connect(self.place.server().await?).await
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
                let outcome = match shared.get_or(|| self.connect()).await {
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
        // A server that hangs keeps its connections open, and one whose machine or way is gone never closes
        // them: whatever is there by now is found by a new one.
        if let (Err(error), Some(used)) = (&outcome, used)
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
        self.place.may_move() && (has_code(error, "READONLY") || has_code(error, "MASTERDOWN"))
    }
}

/// Whether Redis answered with this error word, to the command or to one of a pipeline.
pub(super) fn has_code(error: &RedisError, code: &str) -> bool {
    error.code() == Some(code)
        || error
            .clone()
            .into_server_errors()
            .is_some_and(|errors| errors.iter().any(|(_, error)| error.code() == code))
}

/// Whether a stream or its consumer group has gone (`FLUSHALL`, or a Redis that lost its data).
pub(super) fn is_group_missing(error: &RedisError) -> bool {
    has_code(error, "NOGROUP") || has_code(error, "UNBLOCKED")
}

/// Whether a command was about a key that there is not.
pub(super) fn is_key_missing(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("no such key"))
}

/// What callers of the queue see of a Redis error. The cause goes to the log only: it may name
/// hosts.
pub(super) fn failure(error: RedisError) -> Error {
    if error.code() == Some(NOT_A_CLUSTER) {
        return Error::invalid(
            "redis.url says redis+cluster://, and the server there is in no Redis Cluster. Write \
             redis:// instead.",
        )
        .with_source(error);
    }
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
