//! The segment that was written at the last checkpoint: all before it had been
//! synced whole, so the next opening looks for stray keys from it on only.
//!
//! ```text
//! table meta
//! key    0x0a
//! value  segment u32
//! ```

use super::{FieldReader, Malformed, SegmentNumber, meta_tag};

pub(crate) const KEY: [u8; 1] = [meta_tag::SEGMENT_CHECKPOINT];

pub(crate) const fn encode(segment: SegmentNumber) -> [u8; 4] {
    segment.get().to_be_bytes()
}

pub(crate) fn decode(value: &[u8]) -> Result<SegmentNumber, Malformed> {
    let mut reader = FieldReader::new(value, "checkpoint of segments");
    let segment = reader.segment()?;
    reader.finish()?;
    Ok(segment)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::strategies;

    #[test]
    fn golden_bytes() {
        assert_eq!(KEY, [10]);
        assert_eq!(encode(SegmentNumber::new(0x0102)), [0, 0, 1, 2]);
    }

    proptest! {
        #[test]
        fn round_trip(segment in strategies::segment()) {
            prop_assert_eq!(decode(&encode(segment)), Ok(segment));
        }
    }
}
