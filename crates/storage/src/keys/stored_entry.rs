//! Reading an entry of any table, whatever key type it is of: for the tests and
//! fuzz targets that show that no bytes on a disk make a reader panic.

use super::{
    FieldReader, Malformed, arrival, chain_point, checkpoint_mark, fact, floor, format_version,
    hole, message_run, meta_tag, next_log_number, opening, projection, removal, retired_openings,
    row, segment_checkpoint, segment_start, sparse_log_number, sparse_tag, sync_witness,
};
use crate::engine::Table;

/// Reads key and value as their table and tag say. Unknown tags are passed over,
/// as at an opening.
pub(crate) fn read(table: Table, key: &[u8], value: &[u8]) -> Result<(), Malformed> {
    match table {
        Table::Log => {
            message_run::decode_key(key)?;
            message_run::Messages::of(key, value)?.try_for_each(|message| message.map(|_| ()))
        }
        Table::Meta => read_meta(key, value),
        Table::Sparse => read_sparse(key, value),
        Table::Projections => match projection::own_key(key) {
            Ok(_) => Ok(()),
            Err(_) => projection::decode_position(value).map(|_| ()),
        },
    }
}

fn read_meta(key: &[u8], value: &[u8]) -> Result<(), Malformed> {
    match FieldReader::new(key, "key of the meta table").u8()? {
        meta_tag::FORMAT_VERSION => _ = format_version::decode(value)?,
        meta_tag::NEXT_LOG_NUMBER => _ = next_log_number::decode(value)?,
        meta_tag::ROW => _ = (row::decode_key(key)?, row::decode(value)?),
        meta_tag::OPENING => _ = (opening::decode_key(key)?, opening::decode(value)?),
        meta_tag::CHECKPOINT_MARK => {
            _ = (checkpoint_mark::decode_key(key)?, checkpoint_mark::decode(value)?);
        }
        meta_tag::FLOOR => _ = (floor::decode_key(key)?, floor::decode(value)?),
        meta_tag::HOLE => _ = (hole::decode_key(key)?, hole::decode(value)?),
        meta_tag::FACT => _ = fact::decode(key, value)?,
        meta_tag::SEGMENT_CHECKPOINT => _ = segment_checkpoint::decode(value)?,
        meta_tag::REMOVAL => _ = removal::decode(value)?,
        meta_tag::SYNC_WITNESS => _ = sync_witness::decode(value)?,
        meta_tag::RETIRED_OPENINGS => _ = retired_openings::decode(key, value)?,
        _ => {}
    }
    Ok(())
}

fn read_sparse(key: &[u8], value: &[u8]) -> Result<(), Malformed> {
    sparse_log_number(key)?;
    match key[0] {
        sparse_tag::CHAIN_POINT => _ = chain_point::decode(key, value)?,
        sparse_tag::ARRIVAL => _ = arrival::decode(key, value)?,
        sparse_tag::SEGMENT_START => _ = segment_start::decode(key, value)?,
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::{LogNumber, document};

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(
            table in 0..Table::ALL.len(),
            tag in 0..16_u8,
            key in prop::collection::vec(any::<u8>(), 0..32),
            version in 0..3_u8,
            value in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let (key, value) = ([&[tag][..], &key].concat(), [&[version][..], &value].concat());
            let _ = read(Table::ALL[table], &key, &value);
            let _ = read(Table::ALL[table], &key[1..], &value[1..]);
        }
    }

    #[test]
    fn what_is_written_is_read_and_what_is_cut_is_not() {
        let (key, value) = (next_log_number::KEY, next_log_number::encode(LogNumber::FIRST));
        assert_eq!(read(Table::Meta, &key, &value), Ok(()));
        assert!(read(Table::Meta, &key, &value[1..]).is_err());
        assert!(read(Table::Meta, &[], &value).is_err());
        let document = document::key("topology");
        assert_eq!(read(Table::Meta, &document, b"any"), Ok(()));
    }
}
