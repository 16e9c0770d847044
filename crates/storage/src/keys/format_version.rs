//! The layout of the whole database. A build opens its own layout and older ones
//! it knows, and nothing newer.
//!
//! ```text
//! table meta
//! key    0x01
//! value  version u32
//! ```

use super::{FieldReader, Malformed, meta_tag};

/// What this build writes, and the highest it reads.
pub(crate) const CURRENT: u32 = 1;

pub(crate) const KEY: [u8; 1] = [meta_tag::FORMAT_VERSION];

pub(crate) const fn encode(version: u32) -> [u8; 4] {
    version.to_be_bytes()
}

pub(crate) fn decode(value: &[u8]) -> Result<u32, Malformed> {
    let mut reader = FieldReader::new(value, "format version");
    let version = reader.u32()?;
    reader.finish()?;
    Ok(version)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_bytes() {
        assert_eq!(KEY, [1]);
        assert_eq!(encode(CURRENT), [0, 0, 0, 1]);
    }

    proptest! {
        #[test]
        fn round_trip(version: u32) {
            prop_assert_eq!(decode(&encode(version)), Ok(version));
        }
    }
}
