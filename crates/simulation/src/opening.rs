//! Opening a node's disk: the storage's walk, then what the log means, then the
//! record of the opening; only after that anything is accepted or served.

use std::collections::BTreeMap;

use bytes::Bytes;
use interlock_core::admission::RecoveredState;
use interlock_core::directory::Directory;
use interlock_core::identity::{
    LogName, MessageName, MessageNumber, NamespaceNumber, NodeNumber, PathName, ShardNumber,
};
use interlock_core::message::{ChannelAction, ChannelOperation, MessageHead, MessageKind};
use interlock_core::projection::{
    ChannelIndex, DirectoryProjection, ProjectedLog, Projection, ProjectionKind, ProjectionOpening,
    Publishers, PublishersProjection, opening_of,
};
use interlock_storage::{LogStorage, MemoryStorage, RecoveredLog, Recovery, StorageError};

use crate::planted_bug::PlantedBug;

/// Entries read from a stored projection at a time: few, so that pages matter.
const SCAN_ENTRIES: usize = 16;
/// Bytes read from a log at a time, for the same reason.
const READ_BYTES: usize = 1024;

/// What a disk means, as of its durable end.
#[derive(Debug)]
pub struct Opened {
    /// For admission.
    pub recovered: RecoveredState,
    /// The directories that are shown.
    pub directories: DirectoryProjection,
    /// The sessions as they are stored.
    pub publishers: PublishersProjection,
    /// Where in the logs the channels are.
    pub channel_index: ChannelIndex,
}

impl Opened {
    /// Moves over messages that a log no longer has.
    fn skip(&mut self, log: &LogName, through: MessageNumber) {
        self.directories.skip(log, through);
        self.publishers.skip(log, through);
        self.channel_index.skip(log, through);
    }
}

/// Why a disk's meaning could not be had.
#[derive(Debug, thiserror::Error)]
pub enum OpeningError {
    /// The disk refuses.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// What the walk left contradicts itself.
    #[error("{0}")]
    Inconsistent(String),
}

/// Takes up what the storage's walk left.
pub fn take_up(
    storage: &MemoryStorage,
    recovery: &Recovery,
    me: NodeNumber,
    planted: Option<PlantedBug>,
) -> Result<Opened, OpeningError> {
    let mut recovered = RecoveredState::new();
    for log in &recovery.logs {
        recovered
            .insert_log(log.row.clone(), log.mark, log.floor, log.last_stamp)
            .map_err(|conflict| OpeningError::Inconsistent(conflict.to_string()))?;
    }
    let logs: Vec<ProjectedLog> = recovery.logs.iter().map(projected_log).collect();
    recovered.publishers = load_sessions(storage, recovery, me)?;
    let mut opened = Opened {
        recovered,
        directories: open_projection(storage, recovery, &logs, planted)?,
        publishers: open_projection(storage, recovery, &logs, planted)?,
        channel_index: open_projection(storage, recovery, &logs, planted)?,
    };
    opened.publishers.set_origin(me);

    // Parents before children: a log's number begins above its parents'.
    let mut in_order: Vec<&RecoveredLog> = recovery.logs.iter().collect();
    in_order.sort_by_key(|log| (log.row.first_m_id(), log.row.log));
    for log in in_order {
        let name = log.row.log;
        let own = name.origin == me;
        let mut from =
            opened.directories.position_of(&name).min(opened.channel_index.position_of(&name));
        let sessions_from = opened.publishers.position_of(&name);
        if own {
            from = from.min(sessions_from);
        }
        let mut next = from.max(log.row.first_m_id().previous()).next();
        for_each_message(storage, name, next, log.mark.m_id, |name, head| {
            if name.m_id > next {
                opened.skip(&name.log, name.m_id.previous());
            }
            next = name.m_id.next();
            opened.directories.apply(name, &as_replayed(planted, head));
            opened.channel_index.apply(name, head);
            if planted != Some(PlantedBug::SessionsNotReplayed) {
                opened.publishers.apply(name, head);
                if own && name.m_id > sessions_from {
                    let sessions = &mut opened.recovered.publishers;
                    sessions.entry(name.log.namespace).or_default().apply(name, head);
                }
            }
        })?;
        if next <= log.last_missing {
            opened.skip(&name, log.last_missing);
        }
    }
    opened.recovered.directories = opened
        .directories
        .directories()
        .map(|(namespace, directory)| (namespace, directory.clone()))
        .collect::<BTreeMap<NamespaceNumber, Directory>>();
    Ok(opened)
}

/// A message as it is replayed; a planted bug makes nothing of it.
fn as_replayed<'a>(planted: Option<PlantedBug>, head: &MessageHead<'a>) -> MessageHead<'a> {
    let is_forgotten = match planted {
        Some(PlantedBug::DirectoryNotReplayed) => true,
        Some(PlantedBug::TombstonesForgotten) if head.kind == MessageKind::ChannelOperation => {
            let payload = Bytes::copy_from_slice(head.payload);
            ChannelOperation::decode(&payload)
                .is_ok_and(|operation| operation.action == ChannelAction::Delete)
        }
        _ => false,
    };
    let mut replayed = *head;
    if is_forgotten {
        replayed.kind = MessageKind::Unknown(u32::MAX);
    }
    replayed
}

fn projected_log(log: &RecoveredLog) -> ProjectedLog {
    ProjectedLog::new(&log.row, log.floor.m_id, log.last_missing, log.mark.m_id)
}

fn open_projection<P: Projection>(
    storage: &MemoryStorage,
    recovery: &Recovery,
    logs: &[ProjectedLog],
    planted: Option<PlantedBug>,
) -> Result<P, OpeningError> {
    let stored = storage.projection(P::KIND)?;
    let is_ahead = recovery.projections_ahead.contains(&P::KIND);
    let opening = match planted {
        Some(PlantedBug::ProjectionAhead) if stored.is_some() => ProjectionOpening::Load,
        _ => opening_of(stored.as_ref(), P::LAYOUT, logs),
    };
    if let (Some(position), ProjectionOpening::Load, false) = (&stored, opening, is_ahead) {
        let prefixes = P::prefixes_to_load(position);
        return P::load(position, scan_all(storage, P::KIND, &prefixes)?, logs)
            .map_err(|error| OpeningError::Inconsistent(format!("{:?}: {error}", P::KIND)));
    }
    let kept = scan_all(storage, P::KIND, &P::prefixes_to_keep())?;
    let projection = P::rebuild(kept, logs)
        .map_err(|error| OpeningError::Inconsistent(format!("{:?}: {error}", P::KIND)))?;
    storage.reset_projection(P::KIND)?;
    Ok(projection)
}

fn load_sessions(
    storage: &MemoryStorage,
    recovery: &Recovery,
    me: NodeNumber,
) -> Result<BTreeMap<NamespaceNumber, Publishers>, OpeningError> {
    let mut sessions = BTreeMap::new();
    for log in recovery.logs.iter().filter(|log| log.row.log.origin == me) {
        let namespace = log.row.log.namespace;
        if sessions.contains_key(&namespace) {
            continue;
        }
        let path = PathName { namespace, shard: ShardNumber::new(0), origin: me };
        let prefix = PublishersProjection::prefix(namespace);
        let stored = scan_all(storage, ProjectionKind::Publishers, &[prefix])?;
        let publishers = Publishers::load(path, stored)
            .map_err(|error| OpeningError::Inconsistent(error.to_string()))?;
        sessions.insert(namespace, publishers);
    }
    Ok(sessions)
}

fn for_each_message(
    storage: &MemoryStorage,
    log: LogName,
    mut from: MessageNumber,
    through: MessageNumber,
    mut see: impl FnMut(&MessageName, &MessageHead<'_>),
) -> Result<(), OpeningError> {
    while from <= through {
        let read = storage.read(&log, from, through, READ_BYTES)?;
        let Some(last) = read.last() else { break };
        from = last.m_id.next();
        for message in &read {
            let name = MessageName { log, m_id: message.m_id };
            let head = MessageHead::decode(&message.bytes)
                .map_err(|error| OpeningError::Inconsistent(format!("{name}: {error}")))?;
            see(&name, &head);
        }
    }
    Ok(())
}

fn scan_all(
    storage: &MemoryStorage,
    kind: ProjectionKind,
    prefixes: &[Bytes],
) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
    let mut entries: Vec<(Bytes, Bytes)> = Vec::new();
    for prefix in prefixes {
        let mut after: Option<Bytes> = None;
        loop {
            let page = storage.scan_projection(kind, prefix, after.as_deref(), SCAN_ENTRIES)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            entries.extend(page);
        }
    }
    Ok(entries)
}
