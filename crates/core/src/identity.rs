//! Names and numbers: what identifies a node, a log and a message.
//!
//! A message is named (origin, incarnation, namespace and shard, m_id), and a
//! name has one content. Every id, position and epoch is a type of its own, so
//! that no bare integer crosses a function's edge.

use std::fmt;

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// Declares a newtype over an unsigned integer with `new` and `get`.
macro_rules! number {
    ($(#[$meta:meta])* $name:ident($inner:ty)) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($inner);

        impl $name {
            /// Wraps the raw number.
            pub const fn new(raw: $inner) -> Self {
                Self(raw)
            }

            /// The raw number, for encodings.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number! {
    /// A node's number, given once to its name by the topology, never reused.
    NodeNumber(u32)
}
number! {
    /// A namespace's number, given once, never reused.
    NamespaceNumber(u32)
}
number! {
    /// A group's number, given once, never reused.
    GroupNumber(u32)
}
number! {
    /// A part of a namespace's messages of one origin. Always 0 for now.
    ShardNumber(u16)
}
number! {
    /// m_id: a message's number along its origin's path in a namespace, from 1
    /// on without holes. 0 means "before the first".
    MessageNumber(u64)
}
number! {
    /// Rises each time a deleted channel name is created again; the first is 1.
    Epoch(u64)
}
number! {
    /// Orders causally related edits of one channel's registers; the first is 1.
    RegisterVersion(u64)
}
number! {
    /// Rises with each registration of a node's name at the control-plane.
    FencingToken(u64)
}
number! {
    /// A publication's place in its publisher session; the first is 1.
    PublisherSequence(u64)
}
number! {
    /// Which messages and frames a build understands; a mesh works at the least
    /// of its members' levels.
    FeatureLevel(u32)
}

impl MessageNumber {
    /// Before the first message.
    pub const ZERO: Self = Self(0);

    /// The number after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The number before this one; 0 stays 0.
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// How many messages lie after `earlier`, up to and with this one.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One opening of a node's database: 64 random bits, without order. `Ord` is
/// there for maps only and means nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(u64);

impl Incarnation {
    /// Wraps random bits; `None` for zero, which the wire uses for "none".
    pub const fn new(bits: u64) -> Option<Self> {
        if bits == 0 { None } else { Some(Self(bits)) }
    }

    /// The raw bits.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Incarnation({:016x})", self.0)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// All logs of one origin in one namespace and shard: the path its m_ids count
/// along, over incarnations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathName {
    /// The namespace.
    pub namespace: NamespaceNumber,
    /// The shard, 0 for now.
    pub shard: ShardNumber,
    /// The provisional master of its messages.
    pub origin: NodeNumber,
}

/// The name of a log: the messages of one (origin, incarnation, namespace,
/// shard). Ordered by namespace first, so that one namespace's logs are
/// neighbours in a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogName {
    /// The namespace.
    pub namespace: NamespaceNumber,
    /// The shard, 0 for now.
    pub shard: ShardNumber,
    /// The provisional master of its messages.
    pub origin: NodeNumber,
    /// The opening of the origin's database that wrote it.
    pub incarnation: Incarnation,
}

impl LogName {
    /// The path this log is a part of.
    pub const fn path(&self) -> PathName {
        PathName { namespace: self.namespace, shard: self.shard, origin: self.origin }
    }
}

impl PathName {
    /// The log of one incarnation along this path.
    pub const fn log(&self, incarnation: Incarnation) -> LogName {
        LogName { namespace: self.namespace, shard: self.shard, origin: self.origin, incarnation }
    }
}

impl fmt::Display for LogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}@{}", self.namespace, self.origin, self.shard, self.incarnation)
    }
}

/// The name of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageName {
    /// Its log.
    pub log: LogName,
    /// Its number there.
    pub m_id: MessageNumber,
}

impl fmt::Display for MessageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.log, self.m_id)
    }
}

/// The chained hash of a log up to a message: xxh3-128 of the hash before it and
/// the message's bytes. Against error, not against malice.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainHash(u128);

impl ChainHash {
    /// The hash before the first message of a log without parents.
    pub const EMPTY: Self = Self(0);

    /// The hash after `message`, the encoded `Send` that follows `self`.
    pub fn then(self, message: &[u8]) -> Self {
        Self(hash_of(&[&self.0.to_be_bytes(), message]))
    }

    /// The hash a log starts from: `EMPTY` without parents, else a hash of all
    /// parent points, so that what follows names what it follows.
    pub fn of_parents(parents: &[ParentPoint]) -> Self {
        if parents.is_empty() {
            return Self::EMPTY;
        }
        let mut bytes = Vec::with_capacity(parents.len() * 32);
        for parent in parents {
            bytes.extend_from_slice(&parent.incarnation.get().to_be_bytes());
            bytes.extend_from_slice(&parent.m_id.get().to_be_bytes());
            bytes.extend_from_slice(&parent.hash.to_bytes());
        }
        Self(xxh3_128(&bytes))
    }

    /// Sixteen bytes, big-endian, as stored and sent.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// From sixteen bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// How far a log is held contiguously, with the chain hash there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// The last message held.
    pub m_id: MessageNumber,
    /// The chain hash after it.
    pub hash: ChainHash,
}

/// A tip of the origin's own logs that a new log goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParentPoint {
    /// The parent log's incarnation (same origin, namespace and shard).
    pub incarnation: Incarnation,
    /// The tip's number.
    pub m_id: MessageNumber,
    /// The chain hash at the tip.
    pub hash: ChainHash,
}

/// Sixteen random bytes that name a publisher's session at one origin.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// Wraps random bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

/// A version of the topology document: the generation first, then the number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopologyVersion {
    /// Rises only by an explicit adopt.
    pub generation: u64,
    /// Rises with each edit.
    pub number: u64,
}

impl fmt::Display for TopologyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.number)
    }
}

/// Who speaks: a member and the opening of its database. Facts belong to both
/// together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberOpening {
    /// The member's node number.
    pub node: NodeNumber,
    /// This opening of its database.
    pub incarnation: Incarnation,
    /// The opening whose database this one opened; `None` if the disk was empty.
    pub opened_from: Option<Incarnation>,
}

/// xxh3-128 of parts, one after the other. Short ones are put together first: the hash's
/// own state for parts is larger than they are.
pub(crate) fn hash_of(parts: &[&[u8]]) -> u128 {
    const SHORT: usize = 512;
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    if bytes <= SHORT {
        let mut together = [0; SHORT];
        let mut at = 0;
        for part in parts {
            together[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        return xxh3_128(&together[..bytes]);
    }
    let mut hasher = Xxh3::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.digest128()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_hash_depends_on_order_and_parents() {
        let first = ChainHash::EMPTY.then(b"a").then(b"b");
        let second = ChainHash::EMPTY.then(b"b").then(b"a");
        assert_ne!(first, second);

        let parent = ParentPoint {
            incarnation: Incarnation::new(7).expect("not zero"),
            m_id: MessageNumber::new(2),
            hash: first,
        };
        let other = ParentPoint { hash: second, ..parent };
        assert_ne!(ChainHash::of_parents(&[parent]), ChainHash::of_parents(&[other]));
        assert_eq!(ChainHash::of_parents(&[]), ChainHash::EMPTY);
    }

    #[test]
    fn hash_bytes_round_trip() {
        let hash = ChainHash::EMPTY.then(b"x");
        assert_eq!(ChainHash::from_bytes(hash.to_bytes()), hash);
    }

    #[test]
    fn logs_of_one_namespace_are_neighbours() {
        let log = |namespace, origin| {
            PathName {
                namespace: NamespaceNumber::new(namespace),
                shard: ShardNumber::new(0),
                origin: NodeNumber::new(origin),
            }
            .log(Incarnation::new(1).expect("not zero"))
        };
        assert!(log(1, 9) < log(2, 1));
    }
}
