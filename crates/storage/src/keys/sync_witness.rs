//! What each append says of those before it: how many there have been, and how many
//! of them had been synced when it was written.
//!
//! The durable marks beside the database are a second old. After damage in a
//! write-ahead file RocksDB reads no further, and what follows there still tells
//! whether something that was synced is missing.
//!
//! ```text
//! table meta
//! key    0x0d
//! value  number of this append u64 | last synced u64
//! ```
//! Numbers go on over openings.

use super::{FieldReader, Malformed, meta_tag};

pub(crate) const KEY: [u8; 1] = [meta_tag::SYNC_WITNESS];

/// See the module's page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SyncWitness {
    /// Counts the appends to this database.
    pub(crate) number: u64,
    /// This one and all before it had been synced.
    pub(crate) synced: u64,
}

pub(crate) const VALUE_BYTES: usize = 16;

pub(crate) fn encode(witness: &SyncWitness) -> [u8; VALUE_BYTES] {
    let mut value = [0; VALUE_BYTES];
    value[..8].copy_from_slice(&witness.number.to_be_bytes());
    value[8..].copy_from_slice(&witness.synced.to_be_bytes());
    value
}

pub(crate) fn decode(value: &[u8]) -> Result<SyncWitness, Malformed> {
    let mut reader = FieldReader::new(value, "sync witness");
    let witness = SyncWitness { number: reader.u64()?, synced: reader.u64()? };
    reader.finish()?;
    Ok(witness)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_bytes() {
        assert_eq!(KEY, [13]);
        let witness = SyncWitness { number: 0x0102, synced: 3 };
        assert_eq!(encode(&witness), [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 3]);
    }

    proptest! {
        #[test]
        fn round_trip(number: u64, synced: u64) {
            let witness = SyncWitness { number, synced };
            prop_assert_eq!(decode(&encode(&witness)), Ok(witness));
        }
    }
}
