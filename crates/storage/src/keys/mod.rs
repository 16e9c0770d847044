//! What is stored: one file per key type, with its layout, how it is written and
//! how it is read. All numbers are big-endian, so that keys sort by them. A tag
//! is never reused; a value begins with a layout version where it may grow.

pub(crate) mod arrival;
pub(crate) mod chain_point;
pub(crate) mod checkpoint_mark;
pub(crate) mod document;
pub(crate) mod fact;
mod fields;
pub(crate) mod floor;
pub(crate) mod format_version;
pub(crate) mod hole;
pub(crate) mod message_run;
pub(crate) mod next_log_number;
pub(crate) mod opening;
pub(crate) mod projection;
pub(crate) mod removal;
pub(crate) mod retired_openings;
pub(crate) mod row;
pub(crate) mod segment_checkpoint;
pub(crate) mod segment_start;
pub(crate) mod stored_entry;
pub(crate) mod sync_witness;

pub(crate) use fields::{FieldReader, LogNumber, SegmentNumber};
pub(crate) use fields::{Malformed, prefix_end, put_log_name, read_log_name, sparse_log_number};

#[cfg(test)]
pub(crate) mod strategies;

/// The tags of the `meta` table.
pub(crate) mod meta_tag {
    pub(crate) const FORMAT_VERSION: u8 = 0x01;
    pub(crate) const NEXT_LOG_NUMBER: u8 = 0x02;
    pub(crate) const ROW: u8 = 0x03;
    pub(crate) const OPENING: u8 = 0x04;
    pub(crate) const DOCUMENT: u8 = 0x05;
    pub(crate) const CHECKPOINT_MARK: u8 = 0x06;
    pub(crate) const FLOOR: u8 = 0x07;
    pub(crate) const HOLE: u8 = 0x08;
    pub(crate) const FACT: u8 = 0x09;
    pub(crate) const SEGMENT_CHECKPOINT: u8 = 0x0a;
    pub(crate) const RETIRED_OPENINGS: u8 = 0x0b;
    pub(crate) const REMOVAL: u8 = 0x0c;
    pub(crate) const SYNC_WITNESS: u8 = 0x0d;
}

/// The tags of the `sparse` table.
pub(crate) mod sparse_tag {
    pub(crate) const CHAIN_POINT: u8 = 0x01;
    pub(crate) const ARRIVAL: u8 = 0x02;
    pub(crate) const SEGMENT_START: u8 = 0x03;
}
