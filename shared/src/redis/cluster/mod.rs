//! A Redis Cluster: which node serves a key, and connections to each node.
//!
//! The library's own cluster connection hands none of its connections out, while blocking reads,
//! `WAIT` and subscriptions need some to a node of their choice; it takes no pipeline for several
//! slots; and its retries cannot be told that a chunk of a file must not come twice. So this keeps a
//! map of the slots in front of plain connections.

mod link;
mod slots;
mod topology;

use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, cmd};
use tokio::time::timeout;

use super::address::Access;
use super::connection::{COMMAND_TIMEOUT, connect, late, within};
use slots::{Node, slot_of, slot_of_key};
use topology::{Pool, Topology};

pub(super) use link::Link;
pub(super) use topology::NOT_A_CLUSTER;

/// All connections of one process to one cluster.
pub(super) struct Cluster {
    topology: Arc<Topology>,
    ordinary: Arc<Pool>,
    /// For commands that hold up their connection for a moment.
    aside: Arc<Pool>,
}

/// What one master answered.
pub(super) struct Answer<T> {
    /// Its address.
    pub(super) node: String,
    pub(super) answer: T,
}

/// A connection for one blocking read at a time, which can be told to end it early.
#[derive(Clone)]
pub(super) struct Blocking {
    pub(super) connection: MultiplexedConnection,
    node: Node,
    /// The node's number for the connection.
    id: u64,
}

impl Cluster {
    /// Connects with the first command; `seeds` are nodes to ask for the others.
    pub(super) fn new(seeds: &[(String, u16)], access: Access) -> Self {
        let seeds = seeds.iter().map(|(host, port)| Node::new(host, *port)).collect();
        let topology = Arc::new(Topology::new(seeds, access));
        Self { topology, ordinary: Arc::default(), aside: Arc::default() }
    }

    /// A way for commands that may safely be repeated.
    pub(super) fn link(&self) -> Link {
        Link::repeating(Arc::clone(&self.topology), Arc::clone(&self.ordinary))
    }

    /// The same beside the ordinary connections.
    pub(super) fn link_aside(&self) -> Link {
        Link::repeating(Arc::clone(&self.topology), Arc::clone(&self.aside))
    }

    /// A way with connections of its own, which may block; nothing is sent twice.
    pub(super) fn private(&self) -> Link {
        Link::once(Arc::clone(&self.topology))
    }

    /// Runs commands that are about servers on every master.
    pub(super) async fn run_everywhere<T: FromRedisValue>(
        &self,
        commands: &Pipeline,
    ) -> RedisResult<Vec<Answer<T>>> {
        let masters = within(self.topology.masters()).await?;
        let ask = |node: Node| async move {
            let step = async {
                let (mut connection, _) = self.ordinary.connection(&self.topology, &node).await?;
                commands.query_async(&mut connection).await
            };
            let answer = within(Box::pin(step)).await;
            let answer = answer.inspect_err(|_| self.topology.note_failure(&node))?;
            Ok(Answer { node: node.to_string(), answer })
        };
        futures_util::future::try_join_all(masters.into_iter().map(ask)).await
    }

    /// Runs a command without keys on the node that `like` goes to.
    pub(super) async fn run_where<T: FromRedisValue>(
        &self,
        command: &Cmd,
        like: &Cmd,
    ) -> RedisResult<T> {
        within(Box::pin(async {
            let node = self.topology.owner(slot_of(like).unwrap_or_default()).await?;
            let (mut connection, _) = self.ordinary.connection(&self.topology, &node).await?;
            command.query_async(&mut connection).await
        }))
        .await
    }

    /// How many slots nobody serves.
    pub(super) async fn unserved_slots(&self) -> RedisResult<usize> {
        self.topology.masters().await?;
        Ok(self.topology.unserved())
    }

    /// A client of any node: all pass on what is published.
    pub(super) async fn any_node(&self) -> RedisResult<redis::Client> {
        let masters = self.topology.masters().await?;
        for node in &masters {
            // Known not to be there; the next one is as good.
            if !self.topology.is_failing(node) {
                return self.topology.server(node);
            }
        }
        self.topology.server(masters.first().ok_or_else(topology::nobody)?)
    }

    /// Connects to the node that serves a key now.
    pub(super) async fn blocking(&self, key: &str) -> RedisResult<Blocking> {
        within(async {
            let node = self.topology.owner(slot_of_key(key.as_bytes())).await?;
            let opened = async {
                let mut connection = connect(self.topology.server(&node)?).await?;
                let id = cmd("CLIENT").arg("ID").query_async(&mut connection).await?;
                Ok((connection, id))
            };
            let (connection, id) =
                opened.await.inspect_err(|_: &RedisError| self.topology.note_failure(&node))?;
            Ok(Blocking { connection, node, id })
        })
        .await
    }

    /// Has a blocking read end at once, as if its time were over; false if it has not begun, or has
    /// ended by itself.
    pub(super) async fn unblock(&self, blocking: &Blocking) -> RedisResult<bool> {
        let mut end = cmd("CLIENT");
        end.arg("UNBLOCK").arg(blocking.id).arg("TIMEOUT");
        let step = async {
            let (mut connection, _) =
                self.ordinary.connection(&self.topology, &blocking.node).await?;
            end.query_async(&mut connection).await
        };
        timeout(COMMAND_TIMEOUT / 4, Box::pin(step)).await.unwrap_or_else(|_| Err(late()))
    }

    /// Learns from what went wrong with a blocking read.
    pub(super) fn note(&self, blocking: &Blocking, error: &RedisError) {
        self.topology.learn(&blocking.node, error);
    }
}
