//! The next log's number: numbers are never given twice, also after a log was
//! removed.
//!
//! ```text
//! table meta
//! key    0x02
//! value  log number u32
//! ```

use super::{FieldReader, LogNumber, Malformed, meta_tag};

pub(crate) const KEY: [u8; 1] = [meta_tag::NEXT_LOG_NUMBER];

pub(crate) const fn encode(next: LogNumber) -> [u8; 4] {
    next.get().to_be_bytes()
}

pub(crate) fn decode(value: &[u8]) -> Result<LogNumber, Malformed> {
    let mut reader = FieldReader::new(value, "next log number");
    let next = reader.log_number()?;
    reader.finish()?;
    Ok(next)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::strategies;

    #[test]
    fn golden_bytes() {
        assert_eq!(KEY, [2]);
        assert_eq!(encode(LogNumber::new(0x0102)), [0, 0, 1, 2]);
    }

    proptest! {
        #[test]
        fn round_trip(next in strategies::log_number()) {
            prop_assert_eq!(decode(&encode(next)), Ok(next));
        }
    }
}
