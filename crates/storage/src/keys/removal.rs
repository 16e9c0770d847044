//! What a removal of a namespace takes, so that one that was cut short can be ended: its
//! messages can no longer be found by then.
//!
//! ```text
//! table meta
//! key    0x0c | namespace u32
//! value  1 | logs u32 | log number u32 for each
//!        | for each run of segments that follow one another: first u32 | last u32
//! ```
//!
//! Written before anything is deleted, deleted when no file has any of it.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use interlock_core::identity::NamespaceNumber;

use super::{FieldReader, LogNumber, Malformed, SegmentNumber, meta_tag};

const WHAT: &str = "removal of a namespace";
const LAYOUT: u8 = 1;

/// The logs of a namespace, and the segments that have messages of any of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removal {
    pub(crate) logs: BTreeSet<LogNumber>,
    /// Those that follow one another together, ascending.
    pub(crate) runs: Vec<RangeInclusive<SegmentNumber>>,
}

impl Removal {
    pub(crate) fn new(
        logs: impl IntoIterator<Item = LogNumber>,
        segments: impl IntoIterator<Item = SegmentNumber>,
    ) -> Self {
        let runs = segments.into_iter().map(|segment| segment..=segment).collect();
        Self { logs: logs.into_iter().collect(), runs: joined(runs) }
    }

    pub(crate) fn is_nothing(&self) -> bool {
        self.logs.is_empty()
    }

    /// What another one takes too.
    pub(crate) fn add(&mut self, mut other: Self) {
        self.logs.append(&mut other.logs);
        self.runs.append(&mut other.runs);
        self.runs = joined(std::mem::take(&mut self.runs));
    }

    pub(crate) fn segments(&self) -> impl Iterator<Item = SegmentNumber> {
        let runs = self.runs.iter().map(|run| run.start().get()..=run.end().get());
        runs.flatten().map(SegmentNumber::new)
    }
}

fn joined(mut runs: Vec<RangeInclusive<SegmentNumber>>) -> Vec<RangeInclusive<SegmentNumber>> {
    runs.sort_unstable_by_key(|run| *run.start());
    let mut joined: Vec<RangeInclusive<SegmentNumber>> = Vec::new();
    for run in runs {
        match joined.last_mut() {
            Some(last) if *run.start() <= last.end().next() => {
                *last = *last.start()..=*run.end().max(last.end());
            }
            _ => joined.push(run),
        }
    }
    joined
}

pub(crate) fn key(namespace: NamespaceNumber) -> [u8; 5] {
    let mut key = [meta_tag::REMOVAL; 5];
    key[1..].copy_from_slice(&namespace.get().to_be_bytes());
    key
}

pub(crate) fn encode(removal: &Removal) -> Vec<u8> {
    let mut value = vec![LAYOUT];
    let logs = u32::try_from(removal.logs.len()).expect("logs have numbers of 32 bits");
    value.extend(logs.to_be_bytes());
    value.extend(removal.logs.iter().flat_map(|log| log.get().to_be_bytes()));
    for run in &removal.runs {
        value.extend(run.start().get().to_be_bytes());
        value.extend(run.end().get().to_be_bytes());
    }
    value
}

pub(crate) fn decode(value: &[u8]) -> Result<Removal, Malformed> {
    let mut reader = FieldReader::new(value, WHAT);
    reader.expect(LAYOUT)?;
    let mut removal = Removal::default();
    for _ in 0..reader.u32()? {
        removal.logs.insert(reader.log_number()?);
    }
    while !reader.is_empty() {
        let (first, last) = (reader.segment()?, reader.segment()?);
        let follows = removal.runs.last().is_none_or(|before| before.end().next() < first);
        if !follows || last < first {
            return Err(reader.malformed());
        }
        removal.runs.push(first..=last);
    }
    Ok(removal)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::strategies;

    fn removal(logs: &[u32], segments: &[u32]) -> Removal {
        let segments = segments.iter().copied().map(SegmentNumber::new);
        Removal::new(logs.iter().copied().map(LogNumber::new), segments)
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(key(NamespaceNumber::new(7)), [12, 0, 0, 0, 7]);
        let value = encode(&removal(&[3, 9], &[1, 2, 3, 8]));
        let logs = [0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 9];
        let runs = [0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 8, 0, 0, 0, 8];
        assert_eq!(value, [&[1][..], &logs, &runs].concat());
        let descending = [&[1, 0, 0, 0, 0][..], &runs[8..], &runs[..8]].concat();
        assert!(decode(&descending).is_err());
    }

    #[test]
    fn what_two_take_is_taken_once() {
        let mut both = removal(&[3], &[1, 2, 9]);
        both.add(removal(&[3, 4], &[2, 3, 5]));
        assert_eq!(both, removal(&[3, 4], &[1, 2, 3, 5, 9]));
        assert_eq!(both.runs.len(), 3);
    }

    proptest! {
        #[test]
        fn round_trip(
            logs in prop::collection::btree_set(strategies::log_number(), 0..9),
            segments in prop::collection::btree_set(0..40_u32, 0..30),
        ) {
            let removal = Removal::new(logs, segments.iter().copied().map(SegmentNumber::new));
            prop_assert!(removal.segments().map(SegmentNumber::get).eq(segments));
            prop_assert_eq!(decode(&encode(&removal)), Ok(removal));
        }
    }
}
