//! What two push-nodes say on a replication stream. Encoded messages pass
//! through as the bytes they came as.

use std::sync::Arc;

use bytes::Bytes;
use interlock_core::clock::{HybridTime, WallTime};
use interlock_core::identity::{
    FeatureLevel, FencingToken, Incarnation, LogName, Mark, MemberOpening, NamespaceNumber,
    NodeNumber,
};
use interlock_core::limits::{
    MAX_BASE_ENTRIES_PER_FRAME, MAX_FRAME_MESSAGES, MAX_MARKS_PER_FRAME, MAX_NACK_DETAIL_BYTES,
    MAX_NAMESPACES, MAX_OFFERS_PER_FRAME, MAX_SEND_BYTES, MAX_TRIM_POINTS_PER_FRAME,
};
use interlock_core::projection::channel_index::ChannelHash;
use interlock_core::replication::frames::{
    BaseEntries, Fact, Frame, Heartbeat, Hello, Hole, LogOffer, Member, Nack, NackReason,
    NamespaceDigest, Offer, ReceiverFrame, Refused, SenderFrame, TrimPoint, Unwant, Want, Welcome,
};

use super::identity::{
    chain_hash, fixed, hash_bytes, incarnation, message_number, node_name, parents, region_name,
    topology_version,
};
use super::{IntoCore, IntoWire, InvalidField, at_most, field, repeated, required};
use crate::v1;
use crate::v1::replicate_request::Body as Request;
use crate::v1::replicate_response::Body as Response;

impl IntoCore for v1::ReplicateRequest {
    type Core = SenderFrame;

    fn into_core(self) -> Result<SenderFrame, InvalidField> {
        match self.body.ok_or_else(|| InvalidField::missing("body"))? {
            Request::Hello(hello) => field(hello, "hello").map(SenderFrame::Hello),
            Request::Offer(offer) => field(offer, "offer").map(SenderFrame::Offer),
            Request::Frame(frame) => field(frame, "frame").map(SenderFrame::Frame),
            Request::Hole(hole) => field(hole, "hole").map(SenderFrame::Hole),
            Request::BaseEntries(base) => field(base, "base_entries").map(SenderFrame::BaseEntries),
            Request::Topology(topology) => field(topology, "topology")
                .map(|topology| SenderFrame::Topology(Arc::new(topology))),
            Request::Heartbeat(beat) => field(beat, "heartbeat").map(SenderFrame::Heartbeat),
            Request::RelayedAck(ack) => field(ack, "relayed_ack").map(SenderFrame::RelayedAck),
            Request::Refused(refused) => field(refused, "refused").map(SenderFrame::Refused),
        }
    }
}

impl IntoWire for SenderFrame {
    type Wire = v1::ReplicateRequest;

    fn into_wire(self) -> v1::ReplicateRequest {
        let body = match self {
            Self::Hello(hello) => Request::Hello(hello.into_wire()),
            Self::Offer(offer) => Request::Offer(offer.into_wire()),
            Self::Frame(frame) => Request::Frame(frame.into_wire()),
            Self::Hole(hole) => Request::Hole(hole.into_wire()),
            Self::BaseEntries(base) => Request::BaseEntries(base.into_wire()),
            Self::Topology(topology) => Request::Topology((&*topology).into_wire()),
            Self::Heartbeat(beat) => Request::Heartbeat(beat.into_wire()),
            Self::RelayedAck(fact) => Request::RelayedAck(fact.into_wire()),
            Self::Refused(refused) => Request::Refused(refused.into_wire()),
        };
        v1::ReplicateRequest { body: Some(body) }
    }
}

impl IntoCore for v1::ReplicateResponse {
    type Core = ReceiverFrame;

    fn into_core(self) -> Result<ReceiverFrame, InvalidField> {
        match self.body.ok_or_else(|| InvalidField::missing("body"))? {
            Response::Welcome(welcome) => field(welcome, "welcome").map(ReceiverFrame::Welcome),
            Response::Want(want) => field(want, "want").map(ReceiverFrame::Want),
            Response::Unwant(unwant) => field(unwant, "unwant").map(ReceiverFrame::Unwant),
            Response::Ack(ack) => field(ack, "ack").map(ReceiverFrame::Ack),
            Response::Nack(nack) => field(nack, "nack").map(ReceiverFrame::Nack),
            Response::Refused(refused) => field(refused, "refused").map(ReceiverFrame::Refused),
            Response::Heartbeat(beat) => field(beat, "heartbeat").map(ReceiverFrame::Heartbeat),
            Response::Topology(topology) => field(topology, "topology")
                .map(|topology| ReceiverFrame::Topology(Arc::new(topology))),
        }
    }
}

impl IntoWire for ReceiverFrame {
    type Wire = v1::ReplicateResponse;

    fn into_wire(self) -> v1::ReplicateResponse {
        let body = match self {
            Self::Welcome(welcome) => Response::Welcome(welcome.into_wire()),
            Self::Want(want) => Response::Want(want.into_wire()),
            Self::Unwant(unwant) => Response::Unwant(unwant.into_wire()),
            Self::Ack(fact) => Response::Ack(fact.into_wire()),
            Self::Nack(nack) => Response::Nack(nack.into_wire()),
            Self::Refused(refused) => Response::Refused(refused.into_wire()),
            Self::Heartbeat(beat) => Response::Heartbeat(beat.into_wire()),
            Self::Topology(topology) => Response::Topology((&*topology).into_wire()),
        };
        v1::ReplicateResponse { body: Some(body) }
    }
}

impl IntoCore for v1::MemberIdentity {
    type Core = Member;

    fn into_core(self) -> Result<Member, InvalidField> {
        Ok(Member {
            opening: opening(self.node, self.incarnation, self.opened_from)?,
            name: node_name(&self.name, "name")?,
            region: region_name(&self.region, "region")?,
            fencing_token: FencingToken::new(self.fencing_token),
        })
    }
}

impl IntoWire for Member {
    type Wire = v1::MemberIdentity;

    fn into_wire(self) -> v1::MemberIdentity {
        v1::MemberIdentity {
            node: self.opening.node.get(),
            name: self.name.as_str().to_owned(),
            region: self.region.as_str().to_owned(),
            incarnation: self.opening.incarnation.get(),
            opened_from: self.opening.opened_from.map_or(0, Incarnation::get),
            fencing_token: self.fencing_token.get(),
        }
    }
}

/// Who speaks: 0 as the opening before means that the disk was empty.
fn opening(node: u32, bits: u64, opened_from: u64) -> Result<MemberOpening, InvalidField> {
    Ok(MemberOpening {
        node: NodeNumber::new(node),
        incarnation: incarnation(bits, "incarnation")?,
        opened_from: Incarnation::new(opened_from),
    })
}

impl IntoCore for v1::NamespaceDigest {
    type Core = NamespaceDigest;

    fn into_core(self) -> Result<NamespaceDigest, InvalidField> {
        Ok(NamespaceDigest {
            namespace: NamespaceNumber::new(self.namespace),
            tips: fixed(&self.tips, "tips")?,
            state: fixed(&self.state, "state")?,
        })
    }
}

impl IntoWire for NamespaceDigest {
    type Wire = v1::NamespaceDigest;

    fn into_wire(self) -> v1::NamespaceDigest {
        v1::NamespaceDigest {
            namespace: self.namespace.get(),
            tips: Bytes::copy_from_slice(&self.tips),
            state: Bytes::copy_from_slice(&self.state),
        }
    }
}

impl IntoCore for v1::Hello {
    type Core = Hello;

    fn into_core(self) -> Result<Hello, InvalidField> {
        at_most(self.namespaces.len(), MAX_NAMESPACES, "namespaces")?;
        Ok(Hello {
            protocol_version: self.protocol_version,
            member: required(self.member, "member")?,
            topology_version: topology_version(self.topology_version),
            namespaces: repeated(self.namespaces, "namespaces")?,
            feature_level: FeatureLevel::new(self.feature_level),
            wall_clock: WallTime::new(self.wall_clock),
        })
    }
}

impl IntoWire for Hello {
    type Wire = v1::Hello;

    fn into_wire(self) -> v1::Hello {
        v1::Hello {
            protocol_version: self.protocol_version,
            member: Some(self.member.into_wire()),
            topology_version: Some(self.topology_version.into_wire()),
            namespaces: self.namespaces.into_iter().map(IntoWire::into_wire).collect(),
            feature_level: self.feature_level.get(),
            wall_clock: self.wall_clock.get(),
        }
    }
}

impl IntoCore for v1::Welcome {
    type Core = Welcome;

    fn into_core(self) -> Result<Welcome, InvalidField> {
        at_most(self.namespaces.len(), MAX_NAMESPACES, "namespaces")?;
        Ok(Welcome {
            protocol_version: self.protocol_version,
            member: required(self.member, "member")?,
            topology_version: topology_version(self.topology_version),
            marks: marks(self.marks)?,
            namespaces: repeated(self.namespaces, "namespaces")?,
            window_bytes: self.window_bytes,
            feature_level: FeatureLevel::new(self.feature_level),
            wall_clock: WallTime::new(self.wall_clock),
        })
    }
}

impl IntoWire for Welcome {
    type Wire = v1::Welcome;

    fn into_wire(self) -> v1::Welcome {
        v1::Welcome {
            protocol_version: self.protocol_version,
            member: Some(self.member.into_wire()),
            topology_version: Some(self.topology_version.into_wire()),
            marks: self.marks.into_iter().map(IntoWire::into_wire).collect(),
            namespaces: self.namespaces.into_iter().map(IntoWire::into_wire).collect(),
            window_bytes: self.window_bytes,
            feature_level: self.feature_level.get(),
            wall_clock: self.wall_clock.get(),
        }
    }
}

fn marks(marks: Vec<v1::LogMark>) -> Result<Vec<(LogName, Mark)>, InvalidField> {
    at_most(marks.len(), MAX_MARKS_PER_FRAME, "marks")?;
    repeated(marks, "marks")
}

impl IntoCore for v1::LogOffer {
    type Core = LogOffer;

    fn into_core(self) -> Result<LogOffer, InvalidField> {
        Ok(LogOffer {
            log: required(self.log, "log")?,
            parents: parents(self.parents)?,
            tip: Mark {
                m_id: message_number(self.tip, "tip")?,
                hash: chain_hash(&self.tip_hash, "tip_hash")?,
            },
            floor: message_number(self.floor, "floor")?,
        })
    }
}

impl IntoWire for LogOffer {
    type Wire = v1::LogOffer;

    fn into_wire(self) -> v1::LogOffer {
        v1::LogOffer {
            log: Some(self.log.into_wire()),
            parents: self.parents.into_iter().map(IntoWire::into_wire).collect(),
            tip: self.tip.m_id.get(),
            tip_hash: hash_bytes(self.tip.hash),
            floor: self.floor.get(),
        }
    }
}

impl IntoCore for v1::Offer {
    type Core = Offer;

    fn into_core(self) -> Result<Offer, InvalidField> {
        at_most(self.logs.len(), MAX_OFFERS_PER_FRAME, "logs")?;
        Ok(Offer { logs: repeated(self.logs, "logs")? })
    }
}

impl IntoWire for Offer {
    type Wire = v1::Offer;

    fn into_wire(self) -> v1::Offer {
        v1::Offer { logs: self.logs.into_iter().map(IntoWire::into_wire).collect() }
    }
}

impl IntoCore for v1::Want {
    type Core = Want;

    fn into_core(self) -> Result<Want, InvalidField> {
        Ok(Want { log: required(self.log, "log")?, from: message_number(self.from, "from")? })
    }
}

impl IntoWire for Want {
    type Wire = v1::Want;

    fn into_wire(self) -> v1::Want {
        v1::Want { log: Some(self.log.into_wire()), from: self.from.get() }
    }
}

impl IntoCore for v1::Unwant {
    type Core = Unwant;

    fn into_core(self) -> Result<Unwant, InvalidField> {
        Ok(Unwant { log: required(self.log, "log")? })
    }
}

impl IntoWire for Unwant {
    type Wire = v1::Unwant;

    fn into_wire(self) -> v1::Unwant {
        v1::Unwant { log: Some(self.log.into_wire()) }
    }
}

impl IntoCore for v1::Frame {
    type Core = Frame;

    fn into_core(self) -> Result<Frame, InvalidField> {
        at_most(self.sends.len(), MAX_FRAME_MESSAGES, "sends")?;
        if let Some(index) = self.sends.iter().position(|send| send.len() > MAX_SEND_BYTES) {
            let reason = format!("is longer than {MAX_SEND_BYTES} bytes");
            return Err(InvalidField::new(format!("sends[{index}]"), reason));
        }
        let first_m_id = message_number(self.first_m_id, "first_m_id")?;
        if first_m_id.get() == 0 {
            return Err(InvalidField::new("first_m_id", "must not be 0"));
        }
        Ok(Frame {
            log: required(self.log, "log")?,
            first_m_id,
            previous_hash: chain_hash(&self.previous_hash, "previous_hash")?,
            age_milliseconds: self.age,
            last_age_milliseconds: self.last_age,
            sends: self.sends,
        })
    }
}

impl IntoWire for Frame {
    type Wire = v1::Frame;

    fn into_wire(self) -> v1::Frame {
        v1::Frame {
            log: Some(self.log.into_wire()),
            first_m_id: self.first_m_id.get(),
            previous_hash: hash_bytes(self.previous_hash),
            age: self.age_milliseconds,
            last_age: self.last_age_milliseconds,
            sends: self.sends,
        }
    }
}

impl IntoCore for v1::Hole {
    type Core = Hole;

    fn into_core(self) -> Result<Hole, InvalidField> {
        let from = message_number(self.from, "from")?;
        let through = message_number(self.through, "through")?;
        if from.get() == 0 || through < from {
            return Err(InvalidField::new("through", "lies before `from`"));
        }
        Ok(Hole {
            log: required(self.log, "log")?,
            from,
            through: Mark { m_id: through, hash: chain_hash(&self.hash, "hash")? },
            stamp: HybridTime::new(self.stamp),
        })
    }
}

impl IntoWire for Hole {
    type Wire = v1::Hole;

    fn into_wire(self) -> v1::Hole {
        v1::Hole {
            log: Some(self.log.into_wire()),
            from: self.from.get(),
            through: self.through.m_id.get(),
            hash: hash_bytes(self.through.hash),
            stamp: self.stamp.get(),
        }
    }
}

impl IntoCore for v1::BaseEntries {
    type Core = BaseEntries;

    fn into_core(self) -> Result<BaseEntries, InvalidField> {
        at_most(self.directory.len(), MAX_BASE_ENTRIES_PER_FRAME, "directory")?;
        at_most(self.trim_points.len(), MAX_TRIM_POINTS_PER_FRAME, "trim_points")?;
        Ok(BaseEntries {
            namespace: NamespaceNumber::new(self.namespace),
            directory: self.directory,
            trim_points: repeated(self.trim_points, "trim_points")?,
            last: self.last,
        })
    }
}

impl IntoWire for BaseEntries {
    type Wire = v1::BaseEntries;

    fn into_wire(self) -> v1::BaseEntries {
        v1::BaseEntries {
            namespace: self.namespace.get(),
            directory: self.directory,
            trim_points: self.trim_points.into_iter().map(IntoWire::into_wire).collect(),
            last: self.last,
        }
    }
}

impl IntoCore for v1::TrimPoint {
    type Core = TrimPoint;

    fn into_core(self) -> Result<TrimPoint, InvalidField> {
        Ok(TrimPoint {
            log: required(self.log, "log")?,
            channel: ChannelHash::new(self.channel_hash),
            m_id: message_number(self.m_id, "m_id")?,
        })
    }
}

impl IntoWire for TrimPoint {
    type Wire = v1::TrimPoint;

    fn into_wire(self) -> v1::TrimPoint {
        v1::TrimPoint {
            log: Some(self.log.into_wire()),
            channel_hash: self.channel.get(),
            m_id: self.m_id.get(),
        }
    }
}

impl IntoCore for v1::Ack {
    type Core = Fact;

    fn into_core(self) -> Result<Fact, InvalidField> {
        Ok(Fact {
            opening: opening(self.node, self.incarnation, self.opened_from)?,
            marks: marks(self.marks)?,
        })
    }
}

impl IntoWire for Fact {
    type Wire = v1::Ack;

    fn into_wire(self) -> v1::Ack {
        v1::Ack {
            node: self.opening.node.get(),
            incarnation: self.opening.incarnation.get(),
            opened_from: self.opening.opened_from.map_or(0, Incarnation::get),
            marks: self.marks.into_iter().map(IntoWire::into_wire).collect(),
        }
    }
}

impl IntoCore for v1::Nack {
    type Core = Nack;

    fn into_core(self) -> Result<Nack, InvalidField> {
        let reason = match self.reason() {
            v1::NackReason::OutOfOrder => NackReason::OutOfOrder,
            v1::NackReason::ParentMissing => NackReason::ParentMissing,
            v1::NackReason::ContentDiffers => NackReason::ContentDiffers,
            v1::NackReason::Invalid => NackReason::Invalid,
            v1::NackReason::Unspecified => {
                return Err(InvalidField::new("reason", "is unknown"));
            }
        };
        let mut detail = self.detail;
        detail.truncate(detail.floor_char_boundary(MAX_NACK_DETAIL_BYTES));
        Ok(Nack {
            log: required(self.log, "log")?,
            expected: message_number(self.expected, "expected")?,
            reason,
            detail,
        })
    }
}

impl IntoWire for Nack {
    type Wire = v1::Nack;

    fn into_wire(self) -> v1::Nack {
        let reason = match self.reason {
            NackReason::OutOfOrder => v1::NackReason::OutOfOrder,
            NackReason::ParentMissing => v1::NackReason::ParentMissing,
            NackReason::ContentDiffers => v1::NackReason::ContentDiffers,
            NackReason::Invalid => v1::NackReason::Invalid,
        };
        v1::Nack {
            log: Some(self.log.into_wire()),
            expected: self.expected.get(),
            reason: reason.into(),
            detail: self.detail,
        }
    }
}

impl IntoCore for v1::Refused {
    type Core = Refused;

    fn into_core(self) -> Result<Refused, InvalidField> {
        Ok(Refused {
            log: required(self.log, "log")?,
            through: message_number(self.through, "through")?,
            version: topology_version(self.version),
        })
    }
}

impl IntoWire for Refused {
    type Wire = v1::Refused;

    fn into_wire(self) -> v1::Refused {
        v1::Refused {
            log: Some(self.log.into_wire()),
            through: self.through.get(),
            version: Some(self.version.into_wire()),
        }
    }
}

impl IntoCore for v1::Heartbeat {
    type Core = Heartbeat;

    fn into_core(self) -> Result<Heartbeat, InvalidField> {
        at_most(self.namespaces.len(), MAX_NAMESPACES, "namespaces")?;
        Ok(Heartbeat {
            wall_clock: WallTime::new(self.wall_clock),
            namespaces: repeated(self.namespaces, "namespaces")?,
        })
    }
}

impl IntoWire for Heartbeat {
    type Wire = v1::Heartbeat;

    fn into_wire(self) -> v1::Heartbeat {
        v1::Heartbeat {
            wall_clock: self.wall_clock.get(),
            namespaces: self.namespaces.into_iter().map(IntoWire::into_wire).collect(),
        }
    }
}
