//! Publishing: the hot path. One call decides a publication's name and encodes
//! it once.

use bytes::Bytes;

use super::{Admission, AppendEntry, ClosedReason, NamespaceState, Standing};
use crate::clock::{HybridTime, WallTime};
use crate::identity::{
    Epoch, MessageName, MessageNumber, NamespaceNumber, PublisherSequence, RegisterVersion,
};
use crate::limits::{MAX_KEY_BYTES, MAX_PAYLOAD_BYTES};
use crate::message::{Message, MessageKind, PublisherPosition, TraceContext};
use crate::names::ChannelName;
use crate::projection::publishers::{PublicationDigest, PublisherDecision};

/// A publication as a client asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPublication {
    /// The namespace.
    pub namespace: NamespaceNumber,
    /// The channel.
    pub channel: ChannelName,
    /// The key; empty where the namespace does not keep values by key.
    pub key: Bytes,
    /// The content.
    pub payload: Bytes,
    /// Its place in its session; without one it is stored at least once.
    pub publisher: Option<PublisherPosition>,
    /// The client publishes again what may be stored already.
    pub possibly_repeated: bool,
    /// The trace it belongs to, if that is sampled.
    pub trace: Option<TraceContext>,
}

/// A publication that is stored, now or since before. The client is told after
/// the sync that covers what was appended so far, for a repeat too: the first
/// answer may not have been given yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// It exists from here on.
    Stored {
        /// Its name.
        name: MessageName,
        /// What to append.
        entry: AppendEntry,
    },
    /// The session had stored it before.
    Repeat {
        /// Its name, if the session's table still has it.
        name: Option<MessageName>,
    },
}

/// Why a publication was refused. Nothing was stored. As every answer, it is
/// released after a sync that covers what was appended before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishRefusal {
    /// Unknown namespace, or this node is no member of it. Another node may be.
    #[error("this node is no member of namespace {0}")]
    NotMember(NamespaceNumber),
    /// Nothing is accepted at present; trying later, or elsewhere, can help.
    #[error("{0}")]
    Closed(ClosedReason),
    /// A field is beyond its limit.
    #[error("{field} has {bytes} bytes, {limit} are possible")]
    TooLarge {
        /// The field, as requests name it.
        field: &'static str,
        /// What it has.
        bytes: usize,
        /// The limit, of the channel or of all.
        limit: usize,
    },
    /// No such channel is known here. Where it was created a moment ago, its
    /// creation may still be on the way.
    #[error("channel {channel} is not known")]
    UnknownChannel {
        /// The channel.
        channel: ChannelName,
    },
    /// The channel is deleted.
    #[error("channel {channel} was deleted with epoch {epoch}")]
    ChannelDeleted {
        /// The channel.
        channel: ChannelName,
        /// The deleted epoch.
        epoch: Epoch,
    },
    /// The session is not known here, or was evicted.
    #[error("the publisher session is not known here")]
    SessionUnknown,
    /// A publication before it is missing.
    #[error("sequence {expected} is expected")]
    OutOfSequence {
        /// What is expected.
        expected: PublisherSequence,
    },
    /// Its sequence was stored with other content.
    #[error("sequence {sequence} was stored with other content")]
    ContentDiffers {
        /// Its sequence.
        sequence: PublisherSequence,
    },
    /// The channel has had as many publications here as it takes in a second.
    #[error("channel {channel} takes {per_second} publications a second at each node")]
    TooFast {
        /// The channel.
        channel: ChannelName,
        /// Its limit.
        per_second: u32,
        /// When there is room for one more.
        retry_after_milliseconds: u64,
    },
    /// This opening of the database has given all its numbers.
    #[error("the numbers of this log are used up")]
    NumbersUsedUp,
}

impl PublishRefusal {
    /// Whether the same publication may be accepted later or at another node.
    pub const fn retry_can_help(&self) -> bool {
        matches!(
            self,
            Self::NotMember(_)
                | Self::Closed(_)
                | Self::UnknownChannel { .. }
                | Self::TooFast { .. }
        )
    }
}

impl Admission {
    /// Admits a publication.
    ///
    /// A repeat is recognised before anything else is looked at: it gets the
    /// first answer whatever has become of the channel or the disk since. What is
    /// refused does not use up its sequence.
    pub fn publish(
        &mut self,
        now: WallTime,
        publication: NewPublication,
    ) -> Result<Published, PublishRefusal> {
        self.publish_as(Standing::Member, now, publication)
    }

    /// The same, as what this node has to be in the namespace.
    pub fn publish_as(
        &mut self,
        standing: Standing,
        now: WallTime,
        publication: NewPublication,
    ) -> Result<Published, PublishRefusal> {
        let node_closed = self.node_closed;
        let Some(state) = self.state_as(standing, publication.namespace) else {
            return Err(PublishRefusal::NotMember(publication.namespace));
        };
        let mut recorded = None;
        if let Some(position) = publication.publisher {
            let NewPublication { channel, key, payload, .. } = &publication;
            let digest = PublicationDigest::of(channel.as_str(), key, payload);
            if let Some(name) = repeat_of(state, &position, digest)? {
                return Ok(Published::Repeat { name });
            }
            recorded = Some((position, digest));
        }
        if let Some(reason) = node_closed.and(state.closed).first() {
            return Err(PublishRefusal::Closed(reason));
        }
        let Known { epoch, version, per_second } = check_channel(state, &publication)?;
        let place = self.next_place(publication.namespace).ok_or(PublishRefusal::NumbersUsedUp)?;

        let NewPublication { namespace, channel, key, payload, publisher, .. } = publication;
        let state = self.state_mut(namespace);
        if per_second > 0 {
            // Last of all: what is refused for another reason takes nothing of the rate.
            state.rate_limits.take(now, &channel, per_second).map_err(
                |retry_after_milliseconds| PublishRefusal::TooFast {
                    channel: channel.clone(),
                    per_second,
                    retry_after_milliseconds,
                },
            )?;
        }
        let mut message = Message {
            m_id: MessageNumber::ZERO,
            // Lent, and given back below: a copy would be an allocation for each message.
            groups: std::mem::take(&mut state.groups),
            kind: MessageKind::Publication,
            stamp: HybridTime::ZERO,
            parents: Vec::new(),
            topology_version: self.topology.version,
            channel: channel.into(),
            epoch,
            version,
            key,
            publisher,
            possibly_repeated: publication.possibly_repeated,
            trace: publication.trace,
            payload,
        };
        // As evidence it says nothing that the directory did not say first, so
        // there is nothing to apply to it.
        let entry = self.append_own(now, place, &mut message);
        let name = entry.name();
        let state = self.state_mut(namespace);
        state.groups = message.groups;
        if let Some((position, digest)) = recorded {
            state.publishers.record(&position, &name, digest, entry.stamp, now);
        }
        Ok(Published::Stored { name, entry })
    }
}

/// What the session says: `None` if the publication is the one expected, else
/// the name it was stored under.
fn repeat_of(
    state: &NamespaceState,
    position: &PublisherPosition,
    digest: PublicationDigest,
) -> Result<Option<Option<MessageName>>, PublishRefusal> {
    match state.publishers.decide(position, digest) {
        PublisherDecision::Next => Ok(None),
        PublisherDecision::Repeat(name) => Ok(Some(Some(name))),
        PublisherDecision::RepeatForgotten => Ok(Some(None)),
        PublisherDecision::OutOfSequence { expected } => {
            Err(PublishRefusal::OutOfSequence { expected })
        }
        PublisherDecision::ContentDiffers => {
            Err(PublishRefusal::ContentDiffers { sequence: position.sequence })
        }
        PublisherDecision::Unknown => Err(PublishRefusal::SessionUnknown),
    }
}

/// What is known of a channel that takes a publication.
struct Known {
    epoch: Epoch,
    version: RegisterVersion,
    /// 0 for no limit.
    per_second: u32,
}

/// What is known of the publication's channel, if that takes it.
fn check_channel(
    state: &NamespaceState,
    publication: &NewPublication,
) -> Result<Known, PublishRefusal> {
    check_size("key", publication.key.len(), MAX_KEY_BYTES)?;
    check_size("payload", publication.payload.len(), MAX_PAYLOAD_BYTES)?;
    let channel = &publication.channel;
    let Some(held) = state.directory.get(channel) else {
        return Err(PublishRefusal::UnknownChannel { channel: channel.clone() });
    };
    let epoch = held.epoch();
    if held.is_deleted() {
        return Err(PublishRefusal::ChannelDeleted { channel: channel.clone(), epoch });
    }
    let limits = held.limits();
    match limits.max_payload_bytes {
        0 => {}
        limit => check_size("payload", publication.payload.len(), limit as usize)?,
    }
    let per_second = limits.max_publications_per_second;
    Ok(Known { epoch, version: held.version(), per_second })
}

const fn check_size(field: &'static str, bytes: usize, limit: usize) -> Result<(), PublishRefusal> {
    if bytes > limit {
        return Err(PublishRefusal::TooLarge { field, bytes, limit });
    }
    Ok(())
}
