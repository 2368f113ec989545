//! What is known of a cluster's nodes: which serves which slot, which does not answer, and shared
//! connections to each.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind, Value, cmd};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::slots::{Node, SlotMap};
use crate::redis::address::Access;
use crate::redis::connection::{COMMAND_TIMEOUT, Shared, connect};

/// How long one node may take to tell of the others; well below what a command has.
const PATIENCE: Duration = Duration::from_millis(500);
/// Least time between two looks at the map.
const REFRESH_PAUSE: Duration = Duration::from_millis(100);

/// Error word, of our own, of a server that is in no cluster.
pub(in crate::redis) const NOT_A_CLUSTER: &str = "NOTACLUSTER";

/// The nodes of one cluster.
pub(super) struct Topology {
    seeds: Vec<Node>,
    access: Access,
    map: RwLock<SlotMap>,
    /// Whether the map has to be asked for before it is used.
    is_stale: AtomicBool,
    /// When the map was last told. Held by the one who asks.
    refreshed: Mutex<Option<Instant>>,
    /// Nodes that do not answer, and since when.
    failing: RwLock<HashMap<Node, Instant>>,
}

/// What an error says about the way to a node.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lesson {
    /// The slot is this node's now.
    Moved,
    /// The slot is on its way: this key is there already.
    Ask(Node),
    /// The same command may succeed in a moment.
    Wait,
    /// The connection broke, or could not be made.
    Broken,
    /// It is about the command.
    None,
}

impl Topology {
    pub(super) fn new(seeds: Vec<Node>, access: Access) -> Self {
        Self {
            seeds,
            access,
            map: RwLock::default(),
            is_stale: AtomicBool::new(true),
            refreshed: Mutex::default(),
            failing: RwLock::default(),
        }
    }

    pub(super) fn server(&self, node: &Node) -> RedisResult<redis::Client> {
        self.access.server_at(&node.host, node.port)
    }

    /// The node that serves a slot.
    pub(super) async fn owner(&self, slot: u16) -> RedisResult<Node> {
        self.look().await?;
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        map.owner(slot).cloned().ok_or_else(|| {
            self.is_stale.store(true, Ordering::Relaxed);
            nobody()
        })
    }

    pub(super) async fn masters(&self) -> RedisResult<Vec<Node>> {
        self.look().await?;
        Ok(self.map.read().unwrap_or_else(PoisonError::into_inner).masters())
    }

    /// How many slots nobody served when last looked at.
    pub(super) fn unserved(&self) -> usize {
        self.map.read().unwrap_or_else(PoisonError::into_inner).unserved()
    }

    /// Asks for the map, if it is not known or not right any more. All who come meanwhile share one
    /// look.
    async fn look(&self) -> RedisResult<()> {
        if !self.is_stale.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut refreshed = self.refreshed.lock().await;
        // Somebody else has asked meanwhile, or just before: nodes need a moment to agree.
        if refreshed.is_some_and(|at| at.elapsed() < REFRESH_PAUSE) {
            return Ok(());
        }
        let map = Box::pin(self.ask_all()).await?;
        self.is_stale.store(false, Ordering::Relaxed);
        *self.map.write().unwrap_or_else(PoisonError::into_inner) = map;
        *refreshed = Some(Instant::now());
        Ok(())
    }

    /// The map by the first node that tells.
    async fn ask_all(&self) -> RedisResult<SlotMap> {
        let mut nodes = {
            let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
            [map.masters().as_slice(), map.replicas(), &self.seeds].concat()
        };
        // Those that are known not to answer come last.
        nodes.sort_by_key(|node| self.is_failing(node));
        let mut refusal = None;
        for node in nodes {
            match timeout(PATIENCE, self.ask(&node)).await {
                Ok(Ok(map)) => {
                    self.note_answer(&node);
                    return Ok(map);
                }
                Ok(Err(error)) => {
                    tracing::debug!(%node, %error, "a node does not tell of its cluster");
                    refusal = Some(error).filter(is_refusal).or(refusal);
                }
                Err(_) => tracing::debug!(%node, "no answer in time"),
            }
        }
        Err(refusal.unwrap_or_else(nobody))
    }

    async fn ask(&self, node: &Node) -> RedisResult<SlotMap> {
        let mut connection = connect(self.server(node)?).await?;
        let answer: RedisResult<Value> =
            cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await;
        match answer {
            Ok(answer) => SlotMap::parse(&answer, node),
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError) => {
                Err(redis::make_extension_error(NOT_A_CLUSTER.into(), None))
            }
            Err(error) => Err(error),
        }
    }

    /// What is to be learned from an error of a node.
    pub(super) fn learn(&self, node: &Node, error: &RedisError) -> Lesson {
        if let Some((address, slot)) = error.redirect_node() {
            let Some(to) = Node::parse(address, node) else { return Lesson::None };
            if error.kind() == ErrorKind::Server(ServerErrorKind::Ask) {
                return Lesson::Ask(to);
            }
            let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
            map.note_move(slot, to);
            return Lesson::Moved;
        }
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::TryAgain | ServerErrorKind::BusyLoading) => {
                Lesson::Wait
            }
            ErrorKind::Server(
                ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly,
            ) => {
                self.is_stale.store(true, Ordering::Relaxed);
                Lesson::Wait
            }
            _ if error.is_connection_dropped()
                || error.is_unrecoverable_error()
                || error.is_timeout() =>
            {
                self.note_failure(node);
                Lesson::Broken
            }
            _ => Lesson::None,
        }
    }

    /// Takes note that a node does not answer. Another may have taken its place.
    pub(super) fn note_failure(&self, node: &Node) {
        self.is_stale.store(true, Ordering::Relaxed);
        let mut failing = self.failing.write().unwrap_or_else(PoisonError::into_inner);
        failing.entry(node.clone()).or_insert_with(Instant::now);
    }

    /// Takes note that a node has answered.
    pub(super) fn note_answer(&self, node: &Node) {
        if self.is_failing(node) {
            self.failing.write().unwrap_or_else(PoisonError::into_inner).remove(node);
        }
    }

    pub(super) fn is_failing(&self, node: &Node) -> bool {
        self.failing.read().unwrap_or_else(PoisonError::into_inner).contains_key(node)
    }

    /// Whether a node has not answered for so long that nobody should wait for it any more.
    pub(super) fn is_given_up(&self, node: &Node) -> bool {
        let failing = self.failing.read().unwrap_or_else(PoisonError::into_inner);
        failing.get(node).is_some_and(|since| since.elapsed() > COMMAND_TIMEOUT)
    }
}

/// Whether an error says that nothing will help but another configuration.
fn is_refusal(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::AuthenticationFailed | ErrorKind::Server(ServerErrorKind::NoPerm)
    ) || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | NOT_A_CLUSTER))
}

/// That nobody is there to ask.
pub(super) fn nobody() -> RedisError {
    let nobody = "no node of the cluster says who serves this part of the queue";
    io::Error::new(io::ErrorKind::NotConnected, nobody).into()
}

/// Connections to nodes, shared by all who use the pool.
#[derive(Default)]
pub(super) struct Pool {
    held: RwLock<HashMap<Node, Arc<Shared>>>,
}

impl Pool {
    /// A connection to a node, and its generation.
    pub(super) async fn connection(
        &self,
        topology: &Topology,
        node: &Node,
    ) -> RedisResult<(MultiplexedConnection, u64)> {
        let shared = self.shared(node);
        shared.get_or(|| async { connect(topology.server(node)?).await }).await
    }

    /// Gives up a connection, unless somebody has before.
    pub(super) fn forget(&self, node: &Node, generation: u64) {
        self.shared(node).forget(generation);
    }

    fn shared(&self, node: &Node) -> Arc<Shared> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = held.get(node) {
            return Arc::clone(shared);
        }
        drop(held);
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(held.entry(node.clone()).or_default())
    }
}
