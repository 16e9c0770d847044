//! Names, marks and points.

use bytes::Bytes;
use interlock_core::identity::{
    ChainHash, Incarnation, LogName, Mark, MessageName, MessageNumber, NamespaceNumber, NodeNumber,
    ParentPoint, SessionId, ShardNumber, TopologyVersion,
};
use interlock_core::limits::{MAX_MESSAGE_NUMBER, MAX_PARENTS};
use interlock_core::message::TraceContext;
use interlock_core::names::{ChannelName, GroupName, NamespaceName, NodeName, RegionName};
use interlock_core::replication::rows::Row;

use super::{IntoCore, IntoWire, InvalidField, at_most, parse, repeated, required};
use crate::v1;

impl IntoCore for v1::TopologyVersion {
    type Core = TopologyVersion;

    fn into_core(self) -> Result<TopologyVersion, InvalidField> {
        Ok(TopologyVersion { generation: self.generation, number: self.number })
    }
}

impl IntoWire for TopologyVersion {
    type Wire = v1::TopologyVersion;

    fn into_wire(self) -> v1::TopologyVersion {
        v1::TopologyVersion { generation: self.generation, number: self.number }
    }
}

/// A topology version; one that is absent is 0.0, older than all.
pub fn topology_version(version: Option<v1::TopologyVersion>) -> TopologyVersion {
    version.map_or_else(TopologyVersion::default, |version| TopologyVersion {
        generation: version.generation,
        number: version.number,
    })
}

impl IntoCore for v1::LogName {
    type Core = LogName;

    fn into_core(self) -> Result<LogName, InvalidField> {
        Ok(LogName {
            namespace: NamespaceNumber::new(self.namespace),
            shard: shard(self.shard)?,
            origin: NodeNumber::new(self.origin),
            incarnation: incarnation(self.incarnation, "incarnation")?,
        })
    }
}

impl IntoWire for LogName {
    type Wire = v1::LogName;

    fn into_wire(self) -> v1::LogName {
        v1::LogName {
            origin: self.origin.get(),
            incarnation: self.incarnation.get(),
            namespace: self.namespace.get(),
            shard: u32::from(self.shard.get()),
        }
    }
}

impl IntoCore for v1::MessageReference {
    type Core = MessageName;

    fn into_core(self) -> Result<MessageName, InvalidField> {
        let log = LogName {
            namespace: NamespaceNumber::new(self.namespace),
            shard: shard(self.shard)?,
            origin: NodeNumber::new(self.origin),
            incarnation: incarnation(self.incarnation, "incarnation")?,
        };
        Ok(MessageName { log, m_id: message_number(self.m_id, "m_id")? })
    }
}

impl IntoWire for MessageName {
    type Wire = v1::MessageReference;

    fn into_wire(self) -> v1::MessageReference {
        v1::MessageReference {
            origin: self.log.origin.get(),
            incarnation: self.log.incarnation.get(),
            namespace: self.log.namespace.get(),
            shard: u32::from(self.log.shard.get()),
            m_id: self.m_id.get(),
        }
    }
}

impl IntoCore for v1::LogMark {
    type Core = (LogName, Mark);

    fn into_core(self) -> Result<(LogName, Mark), InvalidField> {
        let log = required(self.log, "log")?;
        let m_id = message_number(self.m_id, "m_id")?;
        Ok((log, Mark { m_id, hash: chain_hash(&self.hash, "hash")? }))
    }
}

impl IntoWire for (LogName, Mark) {
    type Wire = v1::LogMark;

    fn into_wire(self) -> v1::LogMark {
        let (log, mark) = self;
        v1::LogMark {
            log: Some(log.into_wire()),
            m_id: mark.m_id.get(),
            hash: hash_bytes(mark.hash),
        }
    }
}

impl IntoCore for v1::ParentPoint {
    type Core = ParentPoint;

    fn into_core(self) -> Result<ParentPoint, InvalidField> {
        Ok(ParentPoint {
            incarnation: incarnation(self.incarnation, "incarnation")?,
            m_id: message_number(self.m_id, "m_id")?,
            hash: chain_hash(&self.hash, "hash")?,
        })
    }
}

impl IntoWire for ParentPoint {
    type Wire = v1::ParentPoint;

    fn into_wire(self) -> v1::ParentPoint {
        v1::ParentPoint {
            incarnation: self.incarnation.get(),
            m_id: self.m_id.get(),
            hash: hash_bytes(self.hash),
        }
    }
}

impl IntoCore for v1::LogRow {
    type Core = Row;

    fn into_core(self) -> Result<Row, InvalidField> {
        Ok(Row { log: required(self.log, "log")?, parents: parents(self.parents)? })
    }
}

impl IntoWire for Row {
    type Wire = v1::LogRow;

    fn into_wire(self) -> v1::LogRow {
        v1::LogRow {
            log: Some(self.log.into_wire()),
            parents: self.parents.into_iter().map(IntoWire::into_wire).collect(),
        }
    }
}

impl IntoCore for v1::TraceContext {
    type Core = TraceContext;

    fn into_core(self) -> Result<TraceContext, InvalidField> {
        Ok(TraceContext {
            trace_id: fixed(&self.trace_id, "trace_id")?,
            span_id: fixed(&self.span_id, "span_id")?,
            flags: u8::try_from(self.flags)
                .map_err(|_| InvalidField::new("flags", "is above 255"))?,
        })
    }
}

/// A list of parent points, as long as a row may have.
pub(crate) fn parents(points: Vec<v1::ParentPoint>) -> Result<Vec<ParentPoint>, InvalidField> {
    at_most(points.len(), MAX_PARENTS, "parents")?;
    repeated(points, "parents")
}

/// An incarnation that has to be there.
pub fn incarnation(bits: u64, field: &str) -> Result<Incarnation, InvalidField> {
    Incarnation::new(bits).ok_or_else(|| InvalidField::new(field, "must not be 0"))
}

/// A message number that the encoding of names has room for; 0 is before the
/// first.
pub fn message_number(number: u64, field: &str) -> Result<MessageNumber, InvalidField> {
    if number > MAX_MESSAGE_NUMBER {
        return Err(InvalidField::new(field, format!("is above {MAX_MESSAGE_NUMBER}")));
    }
    Ok(MessageNumber::new(number))
}

/// A chain hash; no bytes stand for the hash before the first message.
pub fn chain_hash(bytes: &[u8], field: &str) -> Result<ChainHash, InvalidField> {
    if bytes.is_empty() {
        return Ok(ChainHash::EMPTY);
    }
    Ok(ChainHash::from_bytes(fixed(bytes, field)?))
}

/// The bytes of a chain hash.
pub fn hash_bytes(hash: ChainHash) -> Bytes {
    Bytes::copy_from_slice(&hash.to_bytes())
}

/// A publisher's session; no bytes stand for none.
pub fn session(bytes: &[u8], field: &str) -> Result<Option<SessionId>, InvalidField> {
    if bytes.is_empty() {
        return Ok(None);
    }
    Ok(Some(SessionId::new(fixed(bytes, field)?)))
}

/// The bytes of a session.
pub fn session_bytes(session: SessionId) -> Bytes {
    Bytes::copy_from_slice(session.as_bytes())
}

/// Exactly as many bytes as there should be.
pub fn fixed<const N: usize>(bytes: &[u8], field: &str) -> Result<[u8; N], InvalidField> {
    bytes
        .try_into()
        .map_err(|_| InvalidField::new(field, format!("has {} bytes instead of {N}", bytes.len())))
}

/// A shard's number.
fn shard(number: u32) -> Result<ShardNumber, InvalidField> {
    u16::try_from(number)
        .map(ShardNumber::new)
        .map_err(|_| InvalidField::new("shard", "is above 65535"))
}

/// A channel's name.
pub fn channel_name(text: &str, field: &str) -> Result<ChannelName, InvalidField> {
    parse(text, ChannelName::parse, field)
}

/// A namespace's name.
pub fn namespace_name(text: &str, field: &str) -> Result<NamespaceName, InvalidField> {
    parse(text, NamespaceName::parse, field)
}

/// A region's name.
pub fn region_name(text: &str, field: &str) -> Result<RegionName, InvalidField> {
    parse(text, RegionName::parse, field)
}

/// A node's name.
pub fn node_name(text: &str, field: &str) -> Result<NodeName, InvalidField> {
    parse(text, NodeName::parse, field)
}

/// A group's name.
pub fn group_name(text: &str, field: &str) -> Result<GroupName, InvalidField> {
    parse(text, GroupName::parse, field)
}
