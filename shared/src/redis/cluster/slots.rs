//! Hash slots: which slot a key is in, and which node serves it, as a node told.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use redis::{Cmd, ErrorKind, RedisError, RedisResult, Value, from_redis_value_ref};

/// How many slots every cluster has.
const SLOTS: u16 = 16_384;
/// How every key of ours begins, and no other argument of a command before it.
const KEY_START: &[u8] = b"v1:";

/// Where a node is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::redis) struct Node {
    pub(super) host: Arc<str>,
    pub(super) port: u16,
}

impl Node {
    pub(super) fn new(host: &str, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// Reads `host:port` of a redirection by `from`, which leaves its own host out.
    pub(super) fn parse(address: &str, from: &Self) -> Option<Self> {
        let (host, port) = address.rsplit_once(':')?;
        let host = if host.is_empty() { &from.host } else { host };
        Some(Self::new(host, port.parse().ok()?))
    }
}

impl fmt::Display for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.host, self.port)
    }
}

/// Who serves what.
#[derive(Clone, Debug, Default)]
pub(super) struct SlotMap {
    ranges: Vec<Range>,
    /// Slots that have moved since.
    moved: HashMap<u16, Node>,
    replicas: Vec<Node>,
}

#[derive(Clone, Debug)]
struct Range {
    first: u16,
    last: u16,
    owner: Node,
}

impl SlotMap {
    /// Reads the answer of `from` to `CLUSTER SLOTS`.
    pub(super) fn parse(answer: &Value, from: &Node) -> RedisResult<Self> {
        let mut map = Self::default();
        for range in from_redis_value_ref::<Vec<Vec<Value>>>(answer)? {
            let [first, last, owner, replicas @ ..] = range.as_slice() else {
                return Err(malformed("a range of slots has no owner"));
            };
            let (first, last) = (from_redis_value_ref(first)?, from_redis_value_ref(last)?);
            map.ranges.push(Range { first, last, owner: node(owner, from)? });
            for replica in replicas {
                map.replicas.push(node(replica, from)?);
            }
        }
        Ok(map)
    }

    pub(super) fn owner(&self, slot: u16) -> Option<&Node> {
        let in_range = || self.ranges.iter().find(|it| (it.first..=it.last).contains(&slot));
        self.moved.get(&slot).or_else(|| Some(&in_range()?.owner))
    }

    pub(super) fn note_move(&mut self, slot: u16, owner: Node) {
        self.moved.insert(slot, owner);
    }

    /// All nodes that serve slots.
    pub(super) fn masters(&self) -> Vec<Node> {
        let owners = self.ranges.iter().map(|it| &it.owner).chain(self.moved.values());
        let mut masters: Vec<Node> = owners.cloned().collect();
        masters.sort();
        masters.dedup();
        masters
    }

    pub(super) fn replicas(&self) -> &[Node] {
        &self.replicas
    }

    /// How many slots nobody serves.
    pub(super) fn unserved(&self) -> usize {
        (0..SLOTS).filter(|slot| self.owner(*slot).is_none()).count()
    }
}

/// Reads `[host, port, ...]`; a node that does not know its host is where it was asked.
fn node(value: &Value, from: &Node) -> RedisResult<Node> {
    let fields: Vec<Value> = from_redis_value_ref(value)?;
    let [host, port, ..] = fields.as_slice() else {
        return Err(malformed("a node has no address"));
    };
    let host: Option<String> = from_redis_value_ref(host)?;
    let host = host.filter(|host| !host.is_empty() && host != "?");
    Ok(Node::new(host.as_deref().unwrap_or(&from.host), from_redis_value_ref(port)?))
}

fn malformed(what: &'static str) -> RedisError {
    (ErrorKind::Parse, what).into()
}

/// The slot of a command's keys; `None` if it names none.
pub(super) fn slot_of(command: &Cmd) -> Option<u16> {
    command.args_iter().find_map(|argument| match argument {
        redis::Arg::Simple(bytes) if bytes.starts_with(KEY_START) => Some(slot_of_key(bytes)),
        _ => None,
    })
}

/// The slot of a key: that of its hash tag, if it has one.
pub(super) fn slot_of_key(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let length = rest.iter().position(|byte| *byte == b'}')?;
        (length > 0).then(|| &rest[..length])
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// CRC-16/XMODEM. Tags are a few bytes, so no table.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // What `CLUSTER KEYSLOT` says.
        for (key, slot) in [
            ("123456789", 12_739),
            ("v1:fleet", 75),
            ("v1:{s0}:jobs", 11_097),
            ("v1:{keys}:all", 2915),
            ("v1:{s0}:session:{x}", 11_097),
        ] {
            assert_eq!(slot_of_key(key.as_bytes()), slot, "{key}");
        }
        // An empty tag is none, and only the first one counts.
        assert_eq!(slot_of_key(b"a{}b{x}"), crc16(b"a{}b{x}") % SLOTS);
    }

    #[test]
    fn a_command_goes_where_its_key_is() {
        let mut call = redis::cmd("EVALSHA");
        call.arg("0a1b").arg(2).arg("v1:{s3}:jobs").arg("v1:{s3}:job:x").arg("v2");
        assert_eq!(slot_of(&call), Some(slot_of_key(b"s3")));
        assert_eq!(slot_of(&redis::cmd("PING")), None);
    }

    #[test]
    fn the_map_follows_what_it_is_told() {
        let text = |text: &str| Value::BulkString(text.into());
        let owner = |host, port| Value::Array(vec![host, Value::Int(port), text("id")]);
        let range = |first, last, nodes: Vec<Value>| {
            Value::Array([vec![Value::Int(first), Value::Int(last)], nodes].concat())
        };
        let answer = Value::Array(vec![
            range(0, 99, vec![owner(text("a"), 1), owner(text("b"), 2)]),
            range(100, 200, vec![owner(Value::Nil, 3)]),
        ]);
        let mut map = SlotMap::parse(&answer, &Node::new("asked", 9)).unwrap();
        assert_eq!(map.owner(99), Some(&Node::new("a", 1)));
        assert_eq!(map.owner(100), Some(&Node::new("asked", 3)));
        assert_eq!(map.owner(201), None);
        assert_eq!(map.unserved(), usize::from(SLOTS) - 201);
        assert_eq!(map.replicas(), [Node::new("b", 2)]);
        let moved = Node::parse(":7", &Node::new("from", 1)).unwrap();
        map.note_move(99, moved.clone());
        assert_eq!(map.owner(99), Some(&moved));
        assert_eq!(map.masters(), [Node::new("a", 1), Node::new("asked", 3), moved]);
    }
}
