//! I10: no name has two contents, at any time and on any disk.

use std::collections::BTreeMap;

use crate::history::Record;

use super::{Evidence, Findings};

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let mut contents = BTreeMap::new();
    for record in &evidence.history.records {
        if let Record::Appended { machine, name, hash, .. } = record {
            let first = *contents.entry(*name).or_insert((*machine, *hash));
            if first.1 != *hash && !evidence.still.holds(name) {
                findings.broken(format!(
                    "{name} is {} at node {} and {hash} at node {machine}",
                    first.1, first.0
                ));
            }
        }
    }
}
