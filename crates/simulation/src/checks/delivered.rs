//! What readers were shown behind one cursor: each message once (I3), along each
//! path in the order of its numbers, histories in the same order everywhere (I4),
//! nothing else than what is held (I5), and all of it, told gaps excepted (I2).

use std::collections::{BTreeMap, BTreeSet};

use interlock_core::identity::{LogName, MessageName, MessageNumber, NamespaceNumber, PathName};
use interlock_core::message::MessageKind;

use crate::history::{Reading, ReadingKind};

use super::{Evidence, Findings};

pub(super) fn check_once(evidence: &Evidence<'_>, findings: &mut Findings) {
    for reading in &evidence.end.readings {
        let mut shown = BTreeSet::new();
        for message in &reading.messages {
            if !shown.insert(message.name) {
                findings.broken(format!("{} was shown {} twice", reading.reader, message.name));
            }
        }
    }
}

pub(super) fn check_order(evidence: &Evidence<'_>, findings: &mut Findings) {
    let mut histories: BTreeMap<NamespaceNumber, (&Reading, Vec<MessageName>)> = BTreeMap::new();
    for reading in &evidence.end.readings {
        check_paths(evidence, reading, findings);
        if reading.kind != ReadingKind::History {
            continue;
        }
        let names: Vec<_> = reading.messages.iter().map(|message| message.name).collect();
        let first = histories.entry(reading.namespace).or_insert((reading, names.clone()));
        if first.1 != names {
            let other = &first.0.reader;
            findings.broken(format!("{} tells another history than {other}", reading.reader));
        }
    }
}

fn check_paths(evidence: &Evidence<'_>, reading: &Reading, findings: &mut Findings) {
    // The last of each log that was shown.
    let mut paths: BTreeMap<PathName, BTreeMap<LogName, MessageNumber>> = BTreeMap::new();
    for message in &reading.messages {
        let name = message.name;
        let shown = paths.entry(name.log.path()).or_default();
        let later = shown.iter().find(|(log, m_id)| {
            let tip = MessageName { log: **log, m_id: **m_id };
            evidence.rows.covered_through(&tip, &name.log).is_some_and(|it| it > name.m_id)
        });
        if let Some((log, m_id)) = later {
            findings.broken(format!("{} was shown {name} after {log} {m_id}", reading.reader));
        }
        shown.insert(name.log, name.m_id);
    }
}

pub(super) fn check_invented(evidence: &Evidence<'_>, findings: &mut Findings) {
    for reading in &evidence.end.readings {
        for shown in &reading.messages {
            let name = &shown.name;
            match evidence.messages.get(name) {
                Some(held) if held.channel != shown.channel || held.payload != shown.payload => {
                    findings.broken(format!("{} was shown {shown:?} for {held:?}", reading.reader));
                }
                None if !evidence.disks.was_lost(name) => {
                    findings.broken(format!("{} was shown {name}: not held", reading.reader));
                }
                _ => {}
            }
        }
    }
}

pub(super) fn check_whole(evidence: &Evidence<'_>, findings: &mut Findings) {
    for reading in &evidence.end.readings {
        let shown: BTreeSet<_> = reading.messages.iter().map(|message| message.name).collect();
        let is_told = |name: &MessageName| {
            reading.gaps.iter().any(|(log, from, through)| {
                log.path() == name.log.path() && (*from..=*through).contains(&name.m_id)
            })
        };
        for (name, message) in &evidence.messages {
            let is_asked_for = name.log.namespace == reading.namespace
                && message.kind == MessageKind::Publication
                && message.channel.name().is_some_and(|it| reading.channels.contains(it));
            if is_asked_for && !shown.contains(name) && !is_told(name) {
                findings.broken(format!("{} was not shown {name}", reading.reader));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use interlock_core::clock::HybridTime;
    use interlock_core::identity::{
        Epoch, Incarnation, Mark, NodeNumber, RegisterVersion, ShardNumber, TopologyVersion,
    };
    use interlock_core::message::Message;
    use interlock_core::names::ChannelName;
    use interlock_core::replication::rows::Row;

    use super::*;
    use crate::checks::{Promise, check};
    use crate::history::{FinalLog, FinalNamespace, FinalNode, FinalState, History, Shown};

    const NAMESPACE: NamespaceNumber = NamespaceNumber::new(1);

    fn channel() -> ChannelName {
        ChannelName::parse("news").expect("a name")
    }

    fn name(m_id: u64) -> MessageName {
        let shard = ShardNumber::new(0);
        let path = PathName { namespace: NAMESPACE, shard, origin: NodeNumber::new(1) };
        let log = path.log(Incarnation::new(7).expect("not zero"));
        MessageName { log, m_id: MessageNumber::new(m_id) }
    }

    fn message(m_id: u64) -> Message {
        Message {
            m_id: MessageNumber::new(m_id),
            groups: Vec::new(),
            kind: MessageKind::Publication,
            stamp: HybridTime::new(m_id),
            parents: Vec::new(),
            topology_version: TopologyVersion::default(),
            channel: channel().into(),
            epoch: Epoch::new(1),
            version: RegisterVersion::new(1),
            key: Bytes::new(),
            publisher: None,
            possibly_repeated: false,
            trace: None,
            payload: Bytes::from(m_id.to_string()),
        }
    }

    /// A node with three messages, and readers that were shown these.
    fn broken(kind: ReadingKind, readings: &[&[u64]], gap: Option<u64>) -> BTreeSet<Promise> {
        let row = Row { log: name(1).log, parents: Vec::new() };
        let messages: Vec<_> =
            (1..=3).map(|m_id| (MessageNumber::new(m_id), message(m_id).encode())).collect();
        let hash = messages.iter().fold(row.start_hash(), |hash, (_, bytes)| hash.then(bytes));
        let mark = Mark { m_id: MessageNumber::new(3), hash };
        let mut node = FinalNode::default();
        node.logs.insert(row.log, FinalLog { row, mark, messages });
        node.namespaces.insert(NAMESPACE, FinalNamespace::default());
        let mut end = FinalState::default();
        end.nodes.insert(NodeNumber::new(1), node);
        end.readings = readings
            .iter()
            .map(|shown| Reading {
                reader: format!("{shown:?}"),
                kind,
                namespace: NAMESPACE,
                channels: BTreeSet::from([channel()]),
                messages: shown
                    .iter()
                    .map(|m_id| Shown {
                        name: name(*m_id),
                        channel: channel(),
                        payload: message(*m_id).payload,
                    })
                    .collect(),
                gaps: gap
                    .iter()
                    .map(|m_id| (name(1).log, MessageNumber::new(*m_id), MessageNumber::new(*m_id)))
                    .collect(),
            })
            .collect();
        let violations = check(&History::new(), &end).violations;
        // Nobody asked for these messages: that is not what is looked at here.
        let is_of_reader = |detail: &str| detail.starts_with('[');
        violations
            .into_iter()
            .filter(|violation| is_of_reader(&violation.detail))
            .map(|violation| violation.promise)
            .collect()
    }

    #[test]
    fn what_readers_are_shown_wrongly_is_found() {
        let subscribed = |shown: &[u64], gap| broken(ReadingKind::Subscription, &[shown], gap);
        assert_eq!(subscribed(&[1, 2, 3], None), BTreeSet::new());
        assert_eq!(subscribed(&[1, 3], None), BTreeSet::from([Promise::NothingLost]));
        assert_eq!(subscribed(&[1, 3], Some(2)), BTreeSet::new());
        assert_eq!(subscribed(&[1, 2, 2, 3], None), BTreeSet::from([Promise::AppliedOnce]));
        assert_eq!(subscribed(&[1, 3, 2], None), BTreeSet::from([Promise::Order]));
        assert_eq!(subscribed(&[1, 2, 3, 4], None), BTreeSet::from([Promise::NothingInvented]));
    }

    #[test]
    fn histories_are_the_same_everywhere() {
        let told = |readings: &[&[u64]]| broken(ReadingKind::History, readings, Some(3));
        assert_eq!(told(&[&[1, 2, 3], &[1, 2, 3]]), BTreeSet::new());
        assert_eq!(told(&[&[1, 2, 3], &[1, 2]]), BTreeSet::from([Promise::Order]));
    }
}
