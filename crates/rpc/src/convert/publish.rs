//! Publications and how durable they have to be.

use bytes::Bytes;
use interlock_core::identity::PublisherSequence;
use interlock_core::limits::{MAX_KEY_BYTES, MAX_PAYLOAD_BYTES, MAX_PUBLICATIONS_PER_REQUEST};
use interlock_core::message::TraceContext;
use interlock_core::names::ChannelName;

use super::identity::channel_name;
use super::{IntoCore, InvalidField, at_most};
use crate::{trace, v1};

/// Where a message must be durable before the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// At the node that accepts it.
    #[default]
    Local,
    /// Also at so many other members.
    Peers(u32),
    /// At all members.
    All,
}

impl IntoCore for v1::Durability {
    type Core = Durability;

    fn into_core(self) -> Result<Durability, InvalidField> {
        // A level of a later build must not pass for a weaker one.
        let level = v1::DurabilityLevel::try_from(self.level)
            .map_err(|_| InvalidField::new("level", "is unknown"))?;
        match (level, self.peers) {
            (v1::DurabilityLevel::Unspecified | v1::DurabilityLevel::Local, 0) => {
                Ok(Durability::Local)
            }
            (v1::DurabilityLevel::All, 0) => Ok(Durability::All),
            (v1::DurabilityLevel::Peers, 0) => {
                Err(InvalidField::new("peers", "must be at least 1 with level PEERS"))
            }
            (v1::DurabilityLevel::Peers, peers) => Ok(Durability::Peers(peers)),
            _ => Err(InvalidField::new("peers", "goes with level PEERS only")),
        }
    }
}

impl super::IntoWire for Durability {
    type Wire = v1::Durability;

    fn into_wire(self) -> v1::Durability {
        let (level, peers) = match self {
            Self::Local => (v1::DurabilityLevel::Local, 0),
            Self::Peers(peers) => (v1::DurabilityLevel::Peers, peers),
            Self::All => (v1::DurabilityLevel::All, 0),
        };
        v1::Durability { level: level.into(), peers }
    }
}

/// The durability of a request; LOCAL where it names none.
pub fn durability(durability: Option<v1::Durability>) -> Result<Durability, InvalidField> {
    durability.map_or(Ok(Durability::Local), |durability| super::field(durability, "durability"))
}

/// A publication that keeps every limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The channel.
    pub channel: ChannelName,
    /// The content, as it came.
    pub payload: Bytes,
    /// The key; empty for none.
    pub key: Bytes,
    /// The publisher's trace context, if it is sampled.
    pub trace: Option<TraceContext>,
}

impl IntoCore for v1::Publication {
    type Core = Publication;

    fn into_core(self) -> Result<Publication, InvalidField> {
        let channel = channel_name(&self.channel, "channel")?;
        of_channel(self, channel)
    }
}

fn of_channel(asked: v1::Publication, channel: ChannelName) -> Result<Publication, InvalidField> {
    within("payload", asked.payload.len(), MAX_PAYLOAD_BYTES)?;
    within("key", asked.key.len(), MAX_KEY_BYTES)?;
    let trace = match asked.traceparent.as_str() {
        "" => None,
        // By the specification a broken context is dropped, not refused.
        text => trace::parse_traceparent(text).filter(trace::is_sampled),
    };
    Ok(Publication { channel, payload: asked.payload, key: asked.key, trace })
}

/// Why a frame of publications is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPublications {
    /// The publication that is at fault, counted from 0; none when there are too
    /// many.
    pub index: Option<usize>,
    /// What is wrong.
    pub field: InvalidField,
}

/// The publications of one request.
pub fn publications(
    publications: Vec<v1::Publication>,
) -> Result<Vec<Publication>, InvalidPublications> {
    at_most(publications.len(), MAX_PUBLICATIONS_PER_REQUEST, "publications")
        .map_err(|field| InvalidPublications { index: None, field })?;
    // Those of one channel mostly come together: its name is checked once.
    let mut last: Option<ChannelName> = None;
    publications
        .into_iter()
        .enumerate()
        .map(|(index, asked)| {
            let known = last.take().filter(|name| name.as_str() == asked.channel);
            let made = known.map_or_else(|| channel_name(&asked.channel, "channel"), Ok);
            let made = made.and_then(|channel| {
                last = Some(channel.clone());
                of_channel(asked, channel)
            });
            made.map_err(|error| InvalidPublications {
                index: Some(index),
                field: error.within(&format!("publications[{index}]")),
            })
        })
        .collect()
}

/// The one publication of a unary call.
pub fn publication(publication: Option<v1::Publication>) -> Result<Publication, InvalidField> {
    super::required(publication, "publication")
}

/// A place in a session, from 1 on.
pub fn sequence(sequence: u64, field: &str) -> Result<PublisherSequence, InvalidField> {
    if sequence == 0 {
        return Err(InvalidField::new(field, "must be at least 1 in a session"));
    }
    Ok(PublisherSequence::new(sequence))
}

fn within(field: &str, bytes: usize, limit: usize) -> Result<(), InvalidField> {
    if bytes > limit {
        let reason = format!("has {bytes} bytes, more than {limit}");
        return Err(InvalidField::new(field, reason));
    }
    Ok(())
}
