//! Rebuilds what the log means, before anything is served: directories, publisher
//! sessions and the channel index, from what is stored of them and from the log
//! beyond it.

use std::collections::BTreeMap;

use bytes::Bytes;
use interlock_core::directory::Directory;
use interlock_core::identity::{
    LogName, MessageName, MessageNumber, NamespaceNumber, NodeNumber, PathName, ShardNumber,
};
use interlock_core::message::MessageHead;
use interlock_core::projection::{
    ChannelIndex, DirectoryProjection, ProjectedLog, Projection, ProjectionOpening, Publishers,
    PublishersProjection, opening_of,
};
use interlock_storage::{LogStorage, ProjectionKind, RecoveredLog, Recovery, StorageError};
use thiserror::Error;

use crate::projector::STORE_MESSAGES;

/// Entries read from a stored projection at a time.
const SCAN_ENTRIES: usize = 4096;
/// Bytes read from a log at a time.
const READ_BYTES: usize = 4 << 20;

/// Why the projections could not be rebuilt.
#[derive(Debug, Error)]
pub enum OpeningError {
    /// The disk refuses.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A stored message cannot be read, though the chain hash was right.
    #[error("message {name} in the log cannot be read: {detail}")]
    Unreadable {
        /// The message.
        name: MessageName,
        /// What is wrong.
        detail: String,
    },
    /// What a rebuild keeps cannot be read either.
    #[error("the stored projection {kind:?} is damaged: {detail}")]
    Damaged {
        /// Which one.
        kind: ProjectionKind,
        /// What is wrong.
        detail: String,
    },
}

/// What the log means, as of its durable end.
#[derive(Debug)]
pub struct Projected {
    /// For the projector to go on with.
    pub directories: DirectoryProjection,
    /// For the projector to go on with.
    pub publishers: PublishersProjection,
    /// For the projector to go on with.
    pub channel_index: ChannelIndex,
    /// The sessions, for admission.
    pub sessions: BTreeMap<NamespaceNumber, Publishers>,
}

impl Projected {
    /// Stores what was built so far: only then it need not be in memory.
    pub fn store(&mut self, storage: &dyn LogStorage) -> Result<(), StorageError> {
        let Self { directories, publishers, channel_index, .. } = self;
        for (kind, position, changes) in [
            (ProjectionKind::Directory, directories.position(), directories.take_changes()),
            (ProjectionKind::Publishers, publishers.position(), publishers.take_changes()),
            (ProjectionKind::ChannelIndex, channel_index.position(), channel_index.take_changes()),
        ] {
            storage.store_projection(kind, &position, &changes)?;
        }
        Ok(())
    }

    /// Moves over messages that the log no longer has, as its hole in the middle.
    fn skip(&mut self, log: &LogName, through: MessageNumber) {
        self.directories.skip(log, through);
        self.publishers.skip(log, through);
        self.channel_index.skip(log, through);
    }

    /// The directories, for admission.
    pub fn directories_by_namespace(&self) -> BTreeMap<NamespaceNumber, Directory> {
        self.directories
            .directories()
            .map(|(namespace, directory)| (namespace, directory.clone()))
            .collect()
    }
}

/// Rebuilds the projections after the opening walk.
pub fn rebuild_projections(
    storage: &dyn LogStorage,
    recovery: &Recovery,
    me: NodeNumber,
) -> Result<Projected, OpeningError> {
    rebuild_storing_every(STORE_MESSAGES, storage, recovery, me)
}

/// The same, storing after so many messages.
pub(crate) fn rebuild_storing_every(
    store_messages: u64,
    storage: &dyn LogStorage,
    recovery: &Recovery,
    me: NodeNumber,
) -> Result<Projected, OpeningError> {
    let logs: Vec<ProjectedLog> = recovery.logs.iter().map(projected_log).collect();
    let mut projected = Projected {
        directories: open_projection(storage, recovery, &logs, ProjectionKind::Directory)?,
        publishers: open_projection(storage, recovery, &logs, ProjectionKind::Publishers)?,
        channel_index: open_projection(storage, recovery, &logs, ProjectionKind::ChannelIndex)?,
        sessions: load_sessions(storage, recovery, me)?,
    };
    projected.publishers.set_origin(me);
    understand_again(storage, &mut projected.directories)?;
    // Parents before children: a log's number begins above its parents'.
    let mut in_order: Vec<&RecoveredLog> = recovery.logs.iter().collect();
    in_order.sort_by_key(|log| (log.row.first_m_id(), log.row.log));
    let mut unstored: u64 = 0;
    for log in in_order {
        let name = log.row.log;
        let own = name.origin == me;
        let Projected { directories, publishers, channel_index, .. } = &projected;
        let mut from = directories.position_of(&name).min(channel_index.position_of(&name));
        if own {
            from = from.min(publishers.position_of(&name));
        }
        let sessions_from = publishers.position_of(&name);
        let from = from.max(log.row.first_m_id().previous()).next();
        let mut next = from;
        for_each_message(storage, name, from, log.mark.m_id, |name, head| {
            if name.m_id > next {
                projected.skip(&name.log, name.m_id.previous());
            }
            next = name.m_id.next();
            let Projected { directories, publishers, channel_index, sessions } = &mut projected;
            directories.apply(name, head);
            publishers.apply(name, head);
            channel_index.apply(name, head);
            if own && name.m_id > sessions_from {
                sessions.entry(name.log.namespace).or_default().apply(name, head);
            }
            unstored += 1;
            if unstored >= store_messages {
                unstored = 0;
                projected.store(storage)?;
            }
            Ok(())
        })?;
        if next <= log.last_missing {
            projected.skip(&log.row.log, log.last_missing);
        }
    }
    Ok(projected)
}

fn projected_log(log: &RecoveredLog) -> ProjectedLog {
    ProjectedLog::new(&log.row, log.floor.m_id, log.last_missing, log.mark.m_id)
}

fn open_projection<P: Projection>(
    storage: &dyn LogStorage,
    recovery: &Recovery,
    logs: &[ProjectedLog],
    kind: ProjectionKind,
) -> Result<P, OpeningError> {
    let stored = storage.projection(kind)?;
    let opening = opening_of(stored.as_ref(), P::LAYOUT, logs);
    let ahead = recovery.projections_ahead.contains(&kind);
    match (opening, stored) {
        (ProjectionOpening::Load, Some(position)) if !ahead => {
            let prefixes = P::prefixes_to_load(&position);
            match P::load(&position, scan_all(storage, kind, &prefixes)?, logs) {
                Ok(projection) => return Ok(projection),
                Err(error) => tracing::warn!(?kind, %error, "a projection is built again"),
            }
        }
        (ProjectionOpening::New | ProjectionOpening::Load, None) => {}
        (reason, _) => tracing::warn!(?kind, ?reason, ahead, "a projection is built again"),
    }
    let kept = scan_all(storage, kind, &P::prefixes_to_keep())?;
    let projection = P::rebuild(kept, logs)
        .map_err(|error| OpeningError::Damaged { kind, detail: error.to_string() })?;
    storage.reset_projection(kind)?;
    Ok(projection)
}

fn load_sessions(
    storage: &dyn LogStorage,
    recovery: &Recovery,
    me: NodeNumber,
) -> Result<BTreeMap<NamespaceNumber, Publishers>, OpeningError> {
    let mut sessions = BTreeMap::new();
    let own = recovery.logs.iter().filter(|log| log.row.log.origin == me);
    for namespace in own.map(|log| log.row.log.namespace) {
        if sessions.contains_key(&namespace) {
            continue;
        }
        let path = PathName { namespace, shard: ShardNumber::new(0), origin: me };
        let prefix = PublishersProjection::prefix(namespace);
        let stored = scan_all(storage, ProjectionKind::Publishers, &[prefix])?;
        let publishers = Publishers::load(path, stored).map_err(|error| OpeningError::Damaged {
            kind: ProjectionKind::Publishers,
            detail: error.to_string(),
        })?;
        sessions.insert(namespace, publishers);
    }
    Ok(sessions)
}

/// What an older build could not read, this one may.
fn understand_again(
    storage: &dyn LogStorage,
    directories: &mut DirectoryProjection,
) -> Result<(), OpeningError> {
    for first in directories.take_understood_since() {
        let through = directories.position_of(&first.log);
        for_each_message(storage, first.log, first.m_id, through, |name, head| {
            directories.apply_again(name, head);
            Ok(())
        })?;
    }
    Ok(())
}

fn for_each_message(
    storage: &dyn LogStorage,
    log: LogName,
    mut from: MessageNumber,
    through: MessageNumber,
    mut see: impl FnMut(&MessageName, &MessageHead<'_>) -> Result<(), StorageError>,
) -> Result<(), OpeningError> {
    while from <= through {
        let read = storage.read(&log, from, through, READ_BYTES)?;
        let Some(last) = read.last() else { break };
        from = last.m_id.next();
        for message in &read {
            let name = MessageName { log, m_id: message.m_id };
            let head = MessageHead::decode(&message.bytes)
                .map_err(|error| OpeningError::Unreadable { name, detail: error.to_string() })?;
            see(&name, &head)?;
        }
    }
    Ok(())
}

fn scan_all(
    storage: &dyn LogStorage,
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
