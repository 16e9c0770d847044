//! The directories of all namespaces, as of what is durable.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::directory::{Directory, DirectoryChange, DirectoryEntry};
use crate::identity::{Incarnation, LogName, MessageName, MessageNumber, NamespaceNumber};
use crate::message::MessageHead;
use crate::names::ChannelName;

use super::directory_key::DirectoryKey;
use super::unprojected_key::{Unprojected, UnprojectedKey};
use super::{
    KeyError, LayoutVersion, LoadError, LogPositions, ProjectedLog, Projection, ProjectionChanges,
    ProjectionKind, ProjectionPosition,
};

/// Raised whenever this build understands a kind of message or an operation that
/// the build before did not: what was recorded as beyond it is then applied
/// again.
const UNDERSTANDING: u32 = 1;

/// The projection of the directories.
#[derive(Clone, Debug, Default)]
pub struct DirectoryProjection {
    directories: BTreeMap<NamespaceNumber, Directory>,
    opening: Option<Incarnation>,
    positions: LogPositions,
    dirty: BTreeSet<(NamespaceNumber, ChannelName)>,
    unprojected: BTreeMap<LogName, Unprojected>,
    dirty_unprojected: BTreeSet<LogName>,
}

impl DirectoryProjection {
    /// The directory of a namespace, if anything of it is known.
    pub fn directory(&self, namespace: NamespaceNumber) -> Option<&Directory> {
        self.directories.get(&namespace)
    }

    /// All directories.
    pub fn directories(&self) -> impl Iterator<Item = (NamespaceNumber, &Directory)> {
        self.directories.iter().map(|(namespace, directory)| (*namespace, directory))
    }

    /// Names the opening of the database; see [`Directory::set_opening`].
    pub fn set_opening(&mut self, opening: Incarnation) {
        self.opening = Some(opening);
        self.directories.values_mut().for_each(|directory| directory.set_opening(opening));
    }

    /// Merges a base entry that was received. It is durable with the next stored
    /// changes, which must come before the mark moves over the trimmed range.
    pub fn merge_entry(
        &mut self,
        namespace: NamespaceNumber,
        entry: DirectoryEntry,
    ) -> Vec<DirectoryChange> {
        let changes = self.directory_mut(namespace).merge_entry(entry);
        self.note(namespace, &changes);
        changes
    }

    /// The first message of each log that is beyond this build, and how many
    /// there are: nothing of them may be trimmed away unseen.
    pub fn unprojected(&self) -> impl Iterator<Item = (&LogName, MessageNumber, u64)> {
        self.unprojected.iter().map(|(log, found)| (log, found.first, found.count))
    }

    /// Where an older build left messages that this one may understand: they are
    /// to be given to [`apply_again`](Self::apply_again) from these numbers up to
    /// the position, before anything else is applied.
    pub fn take_understood_since(&mut self) -> Vec<MessageName> {
        let mut from = Vec::new();
        self.unprojected.retain(|log, found| {
            let waits = found.understanding < UNDERSTANDING;
            if waits {
                from.push(MessageName { log: *log, m_id: found.first });
                self.dirty_unprojected.insert(*log);
            }
            !waits
        });
        from
    }

    /// Applies a message below the position once more: harmless for all that was
    /// understood before.
    pub fn apply_again(
        &mut self,
        name: &MessageName,
        message: &MessageHead<'_>,
    ) -> Vec<DirectoryChange> {
        let namespace = name.log.namespace;
        let applied = self.directory_mut(namespace).apply_telling(name, message);
        if applied.beyond_this_build {
            let found = self.unprojected.entry(name.log).or_insert(Unprojected {
                understanding: UNDERSTANDING,
                first: name.m_id,
                count: 0,
            });
            found.count += 1;
            self.dirty_unprojected.insert(name.log);
        }
        self.note(namespace, &applied.changes);
        applied.changes
    }

    fn directory_mut(&mut self, namespace: NamespaceNumber) -> &mut Directory {
        let opening = self.opening;
        self.directories.entry(namespace).or_insert_with(|| {
            let mut directory = Directory::new();
            if let Some(opening) = opening {
                directory.set_opening(opening);
            }
            directory
        })
    }

    fn note(&mut self, namespace: NamespaceNumber, changes: &[DirectoryChange]) {
        for change in changes {
            self.dirty.insert((namespace, change.channel().clone()));
        }
    }

    fn restore(&mut self, key: &Bytes, value: &Bytes) -> Result<DirectoryKey, LoadError> {
        let key = DirectoryKey::decode(key)?;
        let directory = self.directory_mut(key.namespace);
        directory.restore_stored(value)?;
        if directory.get(&key.channel).is_none() {
            return Err(KeyError::Name.into());
        }
        Ok(key)
    }
}

impl Projection for DirectoryProjection {
    const KIND: ProjectionKind = ProjectionKind::Directory;
    const LAYOUT: LayoutVersion = LayoutVersion::new(1);
    type Effects = Vec<DirectoryChange>;

    fn prefixes_to_load(_position: &ProjectionPosition) -> Vec<Bytes> {
        vec![DirectoryKey::prefix(), UnprojectedKey::prefix()]
    }

    fn load(
        position: &ProjectionPosition,
        stored: impl IntoIterator<Item = (Bytes, Bytes)>,
        logs: &[ProjectedLog],
    ) -> Result<Self, LoadError> {
        let mut projection =
            Self { positions: LogPositions::from_stored(position, logs), ..Self::default() };
        for (key, value) in stored {
            if UnprojectedKey::is_tagged(&key) {
                let log = UnprojectedKey::decode(&key)?.log;
                let found = Unprojected::decode(&value).map_err(|_| LoadError::Value)?;
                projection.unprojected.insert(log, found);
            } else {
                projection.restore(&key, &value)?;
            }
        }
        Ok(projection)
    }

    fn prefixes_to_keep() -> Vec<Bytes> {
        vec![DirectoryKey::prefix()]
    }

    /// Of a namespace whose logs lack messages, trimmed here or by whom they came from,
    /// all is kept: entries merge, so that applying the rest again changes nothing
    /// that is true.
    fn rebuild(
        kept: impl IntoIterator<Item = (Bytes, Bytes)>,
        logs: &[ProjectedLog],
    ) -> Result<Self, LoadError> {
        let incomplete: BTreeSet<NamespaceNumber> = logs
            .iter()
            .filter(|log| log.last_missing > MessageNumber::ZERO)
            .map(|log| log.log.namespace)
            .collect();
        let mut projection = Self { positions: LogPositions::from_floors(logs), ..Self::default() };
        for (key, value) in kept {
            if incomplete.contains(&DirectoryKey::decode(&key)?.namespace) {
                let key = projection.restore(&key, &value)?;
                projection.dirty.insert((key.namespace, key.channel));
            }
        }
        Ok(projection)
    }

    fn apply(&mut self, name: &MessageName, message: &MessageHead<'_>) -> Vec<DirectoryChange> {
        if !self.positions.advance(name) {
            return Vec::new();
        }
        self.apply_again(name, message)
    }

    fn skip(&mut self, log: &LogName, through: MessageNumber) {
        self.positions.skip(log, through);
    }

    fn position_of(&self, log: &LogName) -> MessageNumber {
        self.positions.of(log)
    }

    fn position(&self) -> ProjectionPosition {
        self.positions.stored(Self::LAYOUT)
    }

    fn take_changes(&mut self) -> ProjectionChanges {
        let mut changes = ProjectionChanges::default();
        for (namespace, channel) in std::mem::take(&mut self.dirty) {
            let directory = self.directories.get(&namespace);
            let value = directory.and_then(|directory| directory.encode_stored(channel.as_str()));
            let value = value.expect("a channel that changed is in its directory");
            changes.puts.push((DirectoryKey { namespace, channel }.encode(), value));
        }
        for log in std::mem::take(&mut self.dirty_unprojected) {
            let key = UnprojectedKey { log }.encode();
            match self.unprojected.get(&log) {
                Some(found) => changes.puts.push((key, found.encode())),
                None => changes.deletes.push(key),
            }
        }
        changes
    }
}
