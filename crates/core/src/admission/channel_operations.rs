//! Creating, updating and deleting channels (METHOD M3): the provisional
//! master's side of the directory.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Admission, AppendEntry, ClosedReason, Etag, Standing};
use crate::clock::{HybridTime, WallTime};
use crate::directory::Definition;
use crate::identity::{Epoch, MessageName, MessageNumber, NamespaceNumber, RegisterVersion};
use crate::limits::MAX_PAYLOAD_BYTES;
use crate::message::{
    ChannelAction, ChannelLimits, ChannelOperation, Message, MessageKind, OperationError,
    Presentation, Source, TraceContext,
};
use crate::names::ChannelName;

/// An edit of one channel, as a client asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelEdit {
    /// The namespace.
    pub namespace: NamespaceNumber,
    /// The channel.
    pub channel: ChannelName,
    /// What is asked for.
    pub change: ChannelChange,
    /// The trace it belongs to, if that is sampled.
    pub trace: Option<TraceContext>,
}

/// What is to be done to a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelChange {
    /// Begin a new epoch of a name that is free.
    Create(ChannelDraft),
    /// Set some registers.
    Update {
        /// What the client has seen of the channel.
        condition: EditCondition,
        /// What to set.
        update: ChannelUpdate,
    },
    /// End the epoch.
    Delete {
        /// What the client has seen of the channel.
        condition: EditCondition,
    },
}

/// A new channel's definition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelDraft {
    /// Description and labels.
    pub presentation: Presentation,
    /// The source with the content that was fetched, if it has one (METHOD M5).
    pub source: Option<Source>,
    /// Limits; 0 is the node's default.
    pub limits: ChannelLimits,
}

/// What an update sets; what is absent stays. Parts of one register are read
/// from the directory as it is when the update is admitted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelUpdate {
    /// The description.
    pub description: Option<String>,
    /// All labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// The source with the content that was fetched; an empty path takes the
    /// source away. A refresh is an update of this alone.
    pub source: Option<Source>,
    /// The largest payload.
    pub max_payload_bytes: Option<u32>,
    /// Publications per second.
    pub max_publications_per_second: Option<u32>,
}

/// What a client says it has seen; absent parts are not asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EditCondition {
    /// The epoch that it means.
    pub epoch: Option<Epoch>,
    /// The definition that it made its edit from.
    pub etag: Option<Etag>,
}

/// An edit that was admitted. It exists from here on; the client is told after
/// the sync that covers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    /// The operation's name.
    pub name: MessageName,
    /// What to append.
    pub entry: AppendEntry,
    /// The definition with it.
    pub definition: Definition,
}

/// Why an edit was refused. Nothing was stored. As every answer, it is released
/// after a sync that covers what was appended before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditRefusal {
    /// Unknown namespace, or this node is no member of it. Another node may be.
    #[error("this node is no member of namespace {0}")]
    NotMember(NamespaceNumber),
    /// Nothing is accepted at present; trying later, or elsewhere, can help.
    #[error("{0}")]
    Closed(ClosedReason),
    /// A field is beyond its limit.
    #[error("{field} is beyond its limit of {limit}")]
    OverLimit {
        /// The field, as requests name it.
        field: &'static str,
        /// The limit, in bytes or elements.
        limit: usize,
    },
    /// An update that sets nothing.
    #[error("the update sets nothing")]
    NothingToSet,
    /// The name is taken: by a definition, or by what a publication or an edit
    /// elsewhere has named.
    #[error("channel {channel} exists with epoch {epoch}")]
    AlreadyExists {
        /// The channel.
        channel: ChannelName,
        /// Its present epoch.
        epoch: Epoch,
    },
    /// No such channel is known here.
    #[error("channel {channel} is not known")]
    NotFound {
        /// The channel.
        channel: ChannelName,
    },
    /// The channel is deleted.
    #[error("channel {channel} was deleted with epoch {epoch}")]
    Deleted {
        /// The channel.
        channel: ChannelName,
        /// The deleted epoch.
        epoch: Epoch,
    },
    /// The edit means another epoch than the present one.
    #[error("channel {channel} has epoch {epoch}")]
    StaleEpoch {
        /// The channel.
        channel: ChannelName,
        /// Its present epoch.
        epoch: Epoch,
    },
    /// The edit was made from another definition than the present one: read it
    /// again.
    #[error("channel {channel} has changed, its etag is {etag}")]
    StaleEtag {
        /// The channel.
        channel: ChannelName,
        /// The present one.
        etag: Etag,
    },
    /// The namespace has as many channels and tombstones as it may.
    #[error("the namespace has {limit} channels, deleted ones included")]
    QuotaReached {
        /// The limit.
        limit: usize,
    },
    /// A number has reached its end: someone has sent an absurd one.
    #[error("the {what} of channel {channel} are used up")]
    NumbersUsedUp {
        /// "epochs", "versions" or "messages".
        what: &'static str,
        /// The channel.
        channel: ChannelName,
    },
}

impl EditRefusal {
    /// Whether the same edit may be accepted later or at another node.
    pub const fn retry_can_help(&self) -> bool {
        matches!(self, Self::NotMember(_) | Self::Closed(_))
    }
}

/// An edit whose conditions hold.
struct Decided {
    epoch: Epoch,
    version: RegisterVersion,
    operation: ChannelOperation,
}

impl Admission {
    /// Admits an edit of a channel (METHOD M3, M5): decides its epoch and its
    /// version, which is 1 + the highest that the directory holds or has seen
    /// named, so that an edit that knows another wins over it everywhere.
    pub fn edit_channel(
        &mut self,
        now: WallTime,
        edit: ChannelEdit,
    ) -> Result<Edited, EditRefusal> {
        let ChannelEdit { namespace, channel, change, trace } = edit;
        let Some(state) = self.state_as(Standing::Member, namespace) else {
            return Err(EditRefusal::NotMember(namespace));
        };
        let closed = self.node_closed.and(state.closed);
        let closed = match change {
            ChannelChange::Delete { .. } => closed.first_against_deleting(),
            _ => closed.first(),
        };
        if let Some(reason) = closed {
            return Err(EditRefusal::Closed(reason));
        }
        let held = state.directory.get(&channel);
        let decided = match change {
            ChannelChange::Create(draft) => {
                let has_room = state.directory.len() < self.channel_quota;
                let quota = (!has_room).then_some(self.channel_quota);
                create(&channel, held, quota, draft)?
            }
            ChannelChange::Update { condition, update } => {
                let held = live(&channel, held, condition)?;
                apply_update(&channel, held, update)?
            }
            ChannelChange::Delete { condition } => {
                let held = live(&channel, held, condition)?;
                Decided {
                    epoch: held.epoch(),
                    version: next_version(&channel, Some(held))?,
                    operation: ChannelOperation::new(ChannelAction::Delete),
                }
            }
        };
        self.append_operation(now, namespace, channel, decided, trace)
    }

    fn append_operation(
        &mut self,
        now: WallTime,
        namespace: NamespaceNumber,
        channel: ChannelName,
        decided: Decided,
        trace: Option<TraceContext>,
    ) -> Result<Edited, EditRefusal> {
        let Decided { epoch, version, operation } = decided;
        let Some(place) = self.next_place(namespace) else {
            return Err(EditRefusal::NumbersUsedUp { what: "messages", channel });
        };
        let mut message = Message {
            m_id: MessageNumber::ZERO,
            groups: self.state_mut(namespace).groups.clone(),
            kind: MessageKind::ChannelOperation,
            stamp: HybridTime::ZERO,
            parents: Vec::new(),
            topology_version: self.topology.version,
            channel: channel.into(),
            epoch,
            version,
            key: Bytes::new(),
            publisher: None,
            possibly_repeated: false,
            trace,
            payload: operation.encode(),
        };
        let entry = self.append_own(now, place, &mut message);
        let name = entry.name();
        let directory = &mut self.state_mut(namespace).directory;
        directory.apply(&name, &message);
        let definition =
            directory.get(message.channel.as_str()).expect("an edit leaves a definition").clone();
        Ok(Edited { name, entry, definition })
    }
}

fn create(
    channel: &ChannelName,
    held: Option<&Definition>,
    quota_reached: Option<usize>,
    draft: ChannelDraft,
) -> Result<Decided, EditRefusal> {
    let ChannelDraft { presentation, source, limits } = draft;
    let operation = ChannelOperation {
        action: ChannelAction::Create,
        presentation: Some(presentation),
        source,
        limits: Some(limits),
    };
    check_operation(&operation)?;
    let epoch = match held {
        Some(held) if !held.is_deleted() => {
            let channel = channel.clone();
            return Err(EditRefusal::AlreadyExists { channel, epoch: held.epoch() });
        }
        Some(held) => next(held.epoch().get()).map(Epoch::new),
        None => match quota_reached {
            Some(limit) => return Err(EditRefusal::QuotaReached { limit }),
            None => Some(Epoch::new(1)),
        },
    };
    let epoch = epoch.ok_or_else(|| used_up("epochs", channel))?;
    Ok(Decided { epoch, version: next_version(channel, held)?, operation })
}

fn apply_update(
    channel: &ChannelName,
    held: &Definition,
    update: ChannelUpdate,
) -> Result<Decided, EditRefusal> {
    let ChannelUpdate {
        description,
        labels,
        source,
        max_payload_bytes,
        max_publications_per_second,
    } = update;
    let mut operation = ChannelOperation::new(ChannelAction::Update);
    if description.is_some() || labels.is_some() {
        let mut presentation = held.presentation().cloned().unwrap_or_default();
        presentation.description = description.unwrap_or(presentation.description);
        presentation.labels = labels.unwrap_or(presentation.labels);
        operation.presentation = Some(presentation);
    }
    operation.source = source;
    if max_payload_bytes.is_some() || max_publications_per_second.is_some() {
        let limits = held.limits();
        operation.limits = Some(ChannelLimits {
            max_payload_bytes: max_payload_bytes.unwrap_or(limits.max_payload_bytes),
            max_publications_per_second: max_publications_per_second
                .unwrap_or(limits.max_publications_per_second),
        });
    }
    if operation == ChannelOperation::new(ChannelAction::Update) {
        return Err(EditRefusal::NothingToSet);
    }
    check_operation(&operation)?;
    Ok(Decided { epoch: held.epoch(), version: next_version(channel, Some(held))?, operation })
}

/// The definition that an update or a deletion means, if it is still that.
fn live<'a>(
    channel: &ChannelName,
    held: Option<&'a Definition>,
    condition: EditCondition,
) -> Result<&'a Definition, EditRefusal> {
    let Some(held) = held else {
        return Err(EditRefusal::NotFound { channel: channel.clone() });
    };
    let epoch = held.epoch();
    if held.is_deleted() {
        return Err(EditRefusal::Deleted { channel: channel.clone(), epoch });
    }
    if condition.epoch.is_some_and(|meant| meant != epoch) {
        return Err(EditRefusal::StaleEpoch { channel: channel.clone(), epoch });
    }
    let etag = Etag::of(held);
    if condition.etag.is_some_and(|seen| seen != etag) {
        return Err(EditRefusal::StaleEtag { channel: channel.clone(), etag });
    }
    Ok(held)
}

fn check_operation(operation: &ChannelOperation) -> Result<(), EditRefusal> {
    match operation.check() {
        Err(OperationError::OverLimit { field, limit }) => {
            return Err(EditRefusal::OverLimit { field, limit });
        }
        checked => debug_assert_eq!(checked, Ok(()), "only limits can be broken before encoding"),
    }
    let too_large = |limits: &ChannelLimits| {
        usize::try_from(limits.max_payload_bytes).is_ok_and(|bytes| bytes > MAX_PAYLOAD_BYTES)
    };
    if operation.limits.as_ref().is_some_and(too_large) {
        let field = "max_payload_bytes";
        return Err(EditRefusal::OverLimit { field, limit: MAX_PAYLOAD_BYTES });
    }
    Ok(())
}

fn next_version(
    channel: &ChannelName,
    held: Option<&Definition>,
) -> Result<RegisterVersion, EditRefusal> {
    let highest = held.map_or(0, |held| held.version().get());
    next(highest).map(RegisterVersion::new).ok_or_else(|| used_up("versions", channel))
}

const fn next(number: u64) -> Option<u64> {
    number.checked_add(1)
}

fn used_up(what: &'static str, channel: &ChannelName) -> EditRefusal {
    EditRefusal::NumbersUsedUp { what, channel: channel.clone() }
}
