//! A Redis Cluster of the test's own: three masters on loopback.

use std::time::{Duration, Instant};

use shared::config;

use crate::harness::{Redis, SOON, free_port};

const MASTERS: u16 = 3;
const SLOTS: u16 = 16_384;

/// The nodes of a cluster, each with a third of the slots.
pub(crate) struct Nodes {
    pub(crate) nodes: Vec<Redis>,
    pub(crate) ports: Vec<u16>,
}

impl Nodes {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more arguments for each node.
    pub(crate) fn start_with(more: &[&str]) -> Self {
        let launch = |_| {
            let [port, bus] = [free_port(), free_port()].map(|port| port.to_string());
            let arguments = [
                &["--bind", "127.0.0.1", "--port", &port, "--cluster-port", &bus][..],
                &["--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1"],
                &["--save", "", "--appendonly", "yes", "--appendfsync", "always"],
                more,
            ];
            (Redis::start_with(&arguments.concat()), port.parse().unwrap(), bus)
        };
        let all: Vec<(Redis, u16, String)> = (0..MASTERS).map(launch).collect();
        let first_port = all[0].1.to_string();
        for (number, (node, ..)) in (0..MASTERS).zip(&all) {
            let share = |of: u16| u32::from(SLOTS) * u32::from(of) / u32::from(MASTERS);
            let (first, last) = (share(number), share(number + 1) - 1);
            let range = [first.to_string(), last.to_string()];
            node.run::<()>(&["CLUSTER", "ADDSLOTSRANGE", &range[0], &range[1]]);
            node.run::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]);
            if number > 0 {
                node.run::<()>(&["CLUSTER", "MEET", "127.0.0.1", &first_port, &all[0].2]);
            }
        }
        let cluster = Self {
            ports: all.iter().map(|(_, port, _)| *port).collect(),
            nodes: all.into_iter().map(|(node, ..)| node).collect(),
        };
        cluster.await_agreement();
        cluster
    }

    /// Waits until every node knows of all, and none is missed.
    pub(crate) fn await_agreement(&self) {
        let deadline = Instant::now() + SOON;
        let is_well = |node: &Redis| {
            let info: String = node.run(&["CLUSTER", "INFO"]);
            let known: Vec<Vec<redis::Value>> = node.run(&["CLUSTER", "SLOTS"]);
            info.contains("cluster_state:ok")
                && info.contains("cluster_slots_ok:16384")
                && known.len() >= usize::from(MASTERS)
        };
        while !self.nodes.iter().all(is_well) {
            assert!(Instant::now() < deadline, "the nodes do not find each other");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Of two nodes; the third is to be found through them.
    pub(crate) fn config(&self) -> config::Redis {
        self.config_of("")
    }

    /// The same as a user (`name@`).
    pub(crate) fn config_of(&self, user: &str) -> config::Redis {
        let [one, two, ..] = self.ports.as_slice() else { panic!("there are too few") };
        let url = format!("redis+cluster://{user}127.0.0.1:{one},127.0.0.1:{two}");
        config::Redis { url: Some(url), allow_plain_secrets: true, ..config::Redis::default() }
    }

    /// The node that serves a key.
    pub(crate) fn owner_of(&self, key: &str) -> usize {
        let slot: u16 = self.nodes[0].run(&["CLUSTER", "KEYSLOT", key]);
        // A node answers for its own keys alone.
        let range = |node: &Redis| {
            let id: String = node.run(&["CLUSTER", "MYID"]);
            let ranges: Vec<(u16, u16, redis::Value)> = node
                .run::<Vec<Vec<redis::Value>>>(&["CLUSTER", "SLOTS"])
                .into_iter()
                .map(|it| {
                    let number = |at: usize| redis::from_redis_value_ref(&it[at]).unwrap();
                    (number(0), number(1), it[2].clone())
                })
                .collect();
            ranges.into_iter().any(|(first, last, owner)| {
                let owner: Vec<redis::Value> = redis::from_redis_value_ref(&owner).unwrap();
                let owner: String = redis::from_redis_value_ref(&owner[2]).unwrap();
                (first..=last).contains(&slot) && owner == id
            })
        };
        self.nodes.iter().position(range).expect("some node serves it")
    }

    /// Begins to move the slot of a key from one node to another, and returns what ends it.
    pub(crate) fn begin_move(&self, key: &str, to: usize) -> Migration<'_> {
        let from = self.owner_of(key);
        assert_ne!(from, to);
        let slot: u16 = self.nodes[0].run(&["CLUSTER", "KEYSLOT", key]);
        let slot = slot.to_string();
        let [source, target]: [String; 2] =
            [from, to].map(|it| self.nodes[it].run(&["CLUSTER", "MYID"]));
        self.nodes[to].run::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]);
        self.nodes[from].run::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]);
        Migration { cluster: self, slot, from, to, target }
    }
}

/// A slot on its way.
pub(crate) struct Migration<'a> {
    cluster: &'a Nodes,
    slot: String,
    from: usize,
    to: usize,
    target: String,
}

impl Migration<'_> {
    /// Moves some of its keys; false if there were none left.
    pub(crate) fn move_some(&self, count: usize) -> bool {
        let source = &self.cluster.nodes[self.from];
        let keys: Vec<String> =
            source.run(&["CLUSTER", "GETKEYSINSLOT", &self.slot, &count.to_string()]);
        let port = self.cluster.ports[self.to].to_string();
        for key in &keys {
            source.run::<()>(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
        }
        !keys.is_empty()
    }

    /// Moves what is left, and tells all nodes.
    pub(crate) fn finish(self) {
        while self.move_some(100) {}
        for node in [self.to, self.from].into_iter().chain(0..self.cluster.nodes.len()) {
            let node = &self.cluster.nodes[node];
            node.run::<()>(&["CLUSTER", "SETSLOT", &self.slot, "NODE", &self.target]);
        }
    }
}
