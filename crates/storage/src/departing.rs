//! Namespaces that this database leaves (docs/decisions/0006): the notes about them,
//! and their removal at the next opening.
//!
//! What is drained is noted before anyone is told, so that nothing is ever removed
//! that was not. A note that a removal has begun is carried out to its end, whatever
//! the topology says by then.

use std::collections::BTreeSet;

use interlock_core::identity::{NamespaceNumber, NodeNumber};
use interlock_core::topology::Topology;

use crate::contract::{LogStorage, StorageError};
use crate::opening_outcome::Recovery;

/// The note that the members have all of a namespace.
const DRAINED: &[u8] = b"drained";
/// The note that its removal has begun.
const REMOVING: &[u8] = b"removing";

/// How far this database has come with leaving a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Note {
    Drained,
    Removing,
}

fn document_of(namespace: NamespaceNumber) -> String {
    format!("leaving/{namespace}")
}

/// The note about a namespace. Nothing is removed by one that this build does not know.
fn note_of(
    storage: &dyn LogStorage,
    namespace: NamespaceNumber,
) -> Result<Option<Note>, StorageError> {
    match storage.load_document(&document_of(namespace))?.as_deref() {
        None => Ok(None),
        Some(DRAINED) => Ok(Some(Note::Drained)),
        Some(REMOVING) => Ok(Some(Note::Removing)),
        Some(unknown) => Err(StorageError::Read {
            what: "how far leaving a namespace has come",
            detail: format!("the note about namespace {namespace} is {}", unknown.escape_ascii()),
        }),
    }
}

/// Notes that the members have all that this database holds of a namespace.
pub fn note_drained(
    storage: &dyn LogStorage,
    namespace: NamespaceNumber,
) -> Result<(), StorageError> {
    storage.store_document(&document_of(namespace), DRAINED)
}

/// Whether an opening before this one noted that.
pub fn was_drained(
    storage: &dyn LogStorage,
    namespace: NamespaceNumber,
) -> Result<bool, StorageError> {
    Ok(note_of(storage, namespace)? == Some(Note::Drained))
}

/// Takes the note back: it is a member's again.
pub fn take_drained_back(
    storage: &dyn LogStorage,
    namespace: NamespaceNumber,
) -> Result<(), StorageError> {
    storage.remove_document(&document_of(namespace))
}

/// Removes the namespaces that this node has left, before anything is done with what
/// the opening found, and takes them out of that. Returns which these are. With each
/// goes the document that its name is given for: that this node was ready there.
pub fn remove_what_was_left(
    storage: &dyn LogStorage,
    topology: &Topology,
    me: NodeNumber,
    recovery: &mut Recovery,
    readiness_document: &dyn Fn(NamespaceNumber) -> String,
) -> Result<Vec<NamespaceNumber>, StorageError> {
    let held = recovery.logs.iter().map(|log| log.row.log.namespace);
    let known = topology.namespaces.iter().map(|namespace| namespace.number);
    let namespaces: BTreeSet<NamespaceNumber> = held.chain(known).collect();
    let mut removed = Vec::new();
    for namespace in namespaces {
        let document = document_of(namespace);
        let Some(note) = note_of(storage, namespace)? else { continue };
        if note == Note::Drained {
            if topology.is_member(me, namespace) {
                storage.remove_document(&document)?;
                continue;
            }
            if topology.is_leaving(me, namespace) {
                continue;
            }
            storage.store_document(&document, REMOVING)?;
        }
        storage.remove_document(&readiness_document(namespace))?;
        storage.remove_namespace(namespace)?;
        storage.remove_document(&document)?;
        recovery.logs.retain(|log| log.row.log.namespace != namespace);
        for fact in recovery.members.iter_mut().flat_map(|member| &mut member.facts) {
            fact.marks.retain(|(log, _)| log.namespace != namespace);
        }
        removed.push(namespace);
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use interlock_core::features::FEATURE_LEVEL;
    use interlock_core::identity::{GroupNumber, TopologyVersion};
    use interlock_core::names::{GroupName, NamespaceName, NodeName, RegionName};
    use interlock_core::topology::{Group, Namespace, Node, NodeState, Retention};

    use super::*;
    use crate::conformance::removing::{GONE, check_removed, fill};
    use crate::{MemoryDisk, MemoryStorage};

    const ME: NodeNumber = NodeNumber::new(1);

    fn readiness_document(namespace: NamespaceNumber) -> String {
        format!("ready {namespace}")
    }

    /// A namespace in one region, and a node there or elsewhere.
    fn topology(is_member: bool, is_leaving: bool) -> Topology {
        let region = |name| RegionName::parse(name).expect("a good name");
        let group = GroupName::parse("all").expect("a good name");
        let node = Node {
            number: ME,
            name: NodeName::parse("one").expect("a good name"),
            region: region(if is_member { "here" } else { "elsewhere" }),
            replication_address: "one:1".to_owned(),
            client_address: "one:2".to_owned(),
            state: NodeState::Active,
            fencing_token: Default::default(),
            feature_level: FEATURE_LEVEL,
        };
        let number = GroupNumber::new(1);
        let namespace = Namespace {
            number: GONE,
            name: NamespaceName::parse("goes").expect("a good name"),
            groups: vec![group.clone()],
            disk_cap_bytes: 0,
            retention: Retention::default(),
            founders: Vec::new(),
            leaving: if is_leaving { vec![ME] } else { Vec::new() },
        };
        Topology {
            version: TopologyVersion { generation: 1, number: 1 },
            regions: vec![region("here"), region("elsewhere")],
            groups: vec![Group { number, name: group, regions: vec![region("here")] }],
            nodes: vec![node],
            namespaces: vec![namespace],
        }
    }

    struct Left {
        disk: MemoryDisk,
        storage: MemoryStorage,
        recovery: Recovery,
    }

    fn opened(disk: MemoryDisk) -> Left {
        let (storage, recovery) = MemoryStorage::open(&disk).expect("it opens");
        Left { disk, storage, recovery }
    }

    fn remove(left: &mut Left, topology: &Topology) -> Vec<NamespaceNumber> {
        let Left { storage, recovery, .. } = left;
        remove_what_was_left(storage, topology, ME, recovery, &readiness_document)
            .expect("the disk takes all")
    }

    #[test]
    fn only_what_is_drained_and_left_is_removed() {
        let disk = MemoryDisk::new();
        let (storage, _) = MemoryStorage::open(&disk).expect("an empty disk opens");
        let (first, _, stays) = fill(&storage);
        storage.store_document(&readiness_document(GONE), b"").expect("stored");
        drop(storage);

        let mut left = opened(disk);
        assert_eq!(remove(&mut left, &topology(false, false)), [], "nothing says it is drained");
        note_drained(&left.storage, GONE).expect("noted");
        assert_eq!(remove(&mut left, &topology(false, true)), [], "it has still to serve");
        assert_eq!(left.recovery.logs.len(), 3);

        assert_eq!(remove(&mut left, &topology(false, false)), [GONE]);
        check_removed(&left.storage, &first, &stays);
        assert_eq!(left.recovery.logs.len(), 1);
        let recorded = left.storage.load_document(&readiness_document(GONE)).expect("readable");
        assert_eq!(recorded, None, "whoever comes back takes the state from a member");
        drop(left.storage);
        let mut again = opened(left.disk);
        assert_eq!(again.recovery.logs.len(), 1);
        assert_eq!(remove(&mut again, &topology(false, false)), [], "it is done");
    }

    #[test]
    fn a_member_again_keeps_what_it_has() {
        let disk = MemoryDisk::new();
        let (storage, _) = MemoryStorage::open(&disk).expect("an empty disk opens");
        fill(&storage);
        note_drained(&storage, GONE).expect("noted");
        drop(storage);

        let mut left = opened(disk);
        assert_eq!(remove(&mut left, &topology(true, false)), []);
        assert_eq!(remove(&mut left, &topology(false, false)), [], "the note is gone");
        note_drained(&left.storage, GONE).expect("noted");
        take_drained_back(&left.storage, GONE).expect("taken back");
        assert_eq!(remove(&mut left, &topology(false, false)), []);
        assert_eq!(left.recovery.logs.len(), 3);
    }

    #[test]
    fn a_note_that_is_not_understood_removes_nothing() {
        let disk = MemoryDisk::new();
        let (storage, _) = MemoryStorage::open(&disk).expect("an empty disk opens");
        fill(&storage);
        storage.store_document(&document_of(GONE), b"drained, says a newer build").expect("noted");
        drop(storage);

        let Left { storage, mut recovery, .. } = opened(disk);
        let nobody = topology(false, false);
        let removed =
            remove_what_was_left(&storage, &nobody, ME, &mut recovery, &readiness_document);
        let refused = removed.expect_err("nobody knows what it says");
        assert!(refused.to_string().contains("says a newer build"), "{refused}");
        assert!(was_drained(&storage, GONE).is_err());
        assert_eq!(recovery.logs.len(), 3);
        assert!(storage.log_bytes(GONE) > 0);
    }

    /// Half of it may be gone: a member again would be one that lacks it.
    #[test]
    fn a_removal_that_has_begun_is_carried_out() {
        let disk = MemoryDisk::new();
        let (storage, _) = MemoryStorage::open(&disk).expect("an empty disk opens");
        let (first, _, stays) = fill(&storage);
        storage.store_document(&document_of(GONE), REMOVING).expect("noted");
        drop(storage);

        let mut left = opened(disk);
        assert_eq!(remove(&mut left, &topology(true, false)), [GONE]);
        check_removed(&left.storage, &first, &stays);
    }
}
