//! I6: all members of a namespace show the same directory, admission reads the
//! same one, and all hold the same tips.

use super::{Evidence, Findings};

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    for namespace in evidence.end.namespaces() {
        if evidence.still.logs().any(|log| log.namespace == namespace) {
            continue;
        }
        let mut first = None;
        for (node, state) in evidence.end.members(namespace) {
            let held = &state.namespaces[&namespace];
            if held.shown_digest != held.admission_digest {
                findings.broken(format!("node {node} admits by another directory in {namespace}"));
            }
            let digests = (held.shown_digest, held.tips_digest);
            match first {
                None => first = Some((node, digests, &held.channels)),
                Some((other, expected, channels)) if expected != digests => {
                    let differing: Vec<_> = channels
                        .iter()
                        .filter(|(name, channel)| held.channels.get(*name) != Some(channel))
                        .collect();
                    findings.broken(format!(
                        "nodes {other} and {node} differ in {namespace}: {differing:?}"
                    ));
                }
                Some(_) => {}
            }
        }
    }
}
