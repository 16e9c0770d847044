//! I2: each log is in order at each member, goes as far as it ever did on any
//! disk that is not replaced, and goes equally far everywhere. What may be missing of
//! it is looked at in `holes`.

use interlock_core::identity::{LogName, Mark, MessageNumber};

use super::{Evidence, Findings};

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let disks = &evidence.disks;
    let goes_on = |log: &LogName| !evidence.still.touches(log);
    let tails = disks.tails().iter().filter(|(log, _)| goes_on(log)).map(|(_, what)| what);
    disks.shortened().iter().chain(tails).for_each(|what| findings.broken(what.clone()));
    for (node, state) in &evidence.end.nodes {
        for (name, log) in &state.logs {
            let mut expected = log.row.first_m_id();
            for (m_id, _) in &log.messages {
                if *m_id < expected || *m_id > log.mark.m_id {
                    findings.broken(format!("node {node}: {name} has {m_id} for {expected}"));
                }
                expected = m_id.next();
            }
        }
    }
    for (name, m_id) in disks.required().filter(|(name, _)| goes_on(name)) {
        for (node, state) in evidence.end.members(name.namespace) {
            let held = state.logs.get(name).map_or(MessageNumber::ZERO, |log| log.mark.m_id);
            if held < m_id {
                findings.broken(format!("node {node} holds {name} up to {held} of {m_id}"));
            }
        }
    }
    for namespace in evidence.end.namespaces() {
        let mut first: Option<(_, Vec<(_, Mark)>)> = None;
        for (node, state) in evidence.end.members(namespace) {
            let marks: Vec<_> = state
                .logs
                .iter()
                .filter(|(log, _)| log.namespace == namespace && goes_on(log))
                .map(|(log, held)| (*log, held.mark))
                .collect();
            match &first {
                None => first = Some((node, marks)),
                Some((other, expected)) if *expected != marks => {
                    findings.broken(format!("nodes {other} and {node} differ in {namespace}"));
                }
                Some(_) => {}
            }
        }
    }
}
