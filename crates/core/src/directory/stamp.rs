//! The order of the writers of one register.

use crate::clock::HybridTime;
use crate::identity::{Incarnation, MessageName, MessageNumber, NodeNumber, RegisterVersion};
use crate::wire_format::{Reader, WireError, Writer};

/// Which message wrote a register. The version decides: it is 1 + the highest
/// that the writer had seen, so that an edit that knows another wins over it
/// whatever the clocks say. The rest only breaks ties, in this order, the same
/// way everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegisterStamp {
    /// The version that the message wrote.
    pub version: RegisterVersion,
    /// When its origin accepted it.
    pub stamp: HybridTime,
    /// Its origin.
    pub origin: NodeNumber,
    /// The opening of its origin that accepted it.
    pub incarnation: Incarnation,
    /// Its number.
    pub m_id: MessageNumber,
}

impl RegisterStamp {
    /// The stamp of a message that writes `version`.
    pub const fn new(name: &MessageName, version: RegisterVersion, stamp: HybridTime) -> Self {
        Self {
            version,
            stamp,
            origin: name.log.origin,
            incarnation: name.log.incarnation,
            m_id: name.m_id,
        }
    }

    /// Whether this writer may have known `other`. `false` is certain: what one
    /// knows has a lower version and an earlier stamp, and within one log a
    /// lower number. (Where clocks are more than a minute apart, the stamps may
    /// say `false` wrongly; such clocks raise an alarm of their own.)
    pub(super) fn may_have_known(&self, other: &Self) -> bool {
        if self.is_of_log_of(other) {
            return self.m_id > other.m_id;
        }
        self.version > other.version && self.stamp > other.stamp
    }

    /// As [`may_have_known`](Self::may_have_known), where `other` belongs to a
    /// lower epoch, so that versions say nothing.
    pub(super) fn may_have_known_of_lower_epoch(&self, other: &Self) -> bool {
        if self.is_of_log_of(other) {
            return self.m_id > other.m_id;
        }
        self.stamp > other.stamp
    }

    fn is_of_log_of(&self, other: &Self) -> bool {
        self.origin == other.origin && self.incarnation == other.incarnation
    }

    /// Writes the fields of a `RegisterStamp`.
    pub(super) fn write_fields(&self, writer: &mut Writer) {
        writer.number(1, self.version.get());
        writer.fixed64(2, self.stamp.get());
        writer.number(3, u64::from(self.origin.get()));
        writer.fixed64(4, self.incarnation.get());
        writer.number(5, self.m_id.get());
    }

    /// Reads the fields of a `RegisterStamp`; `None` if it names no incarnation.
    pub(super) fn read_fields(mut reader: Reader<'_>) -> Result<Option<Self>, WireError> {
        let (mut version, mut stamp, mut origin, mut incarnation, mut m_id) = (0, 0, 0, 0, 0);
        while let Some(field) = reader.next_field()? {
            match field.number {
                1 => version = field.number()?,
                2 => stamp = field.fixed64()?,
                3 => origin = field.number32()?,
                4 => incarnation = field.fixed64()?,
                5 => m_id = field.number()?,
                _ => {}
            }
        }
        Ok(Incarnation::new(incarnation).map(|incarnation| Self {
            version: RegisterVersion::new(version),
            stamp: HybridTime::new(stamp),
            origin: NodeNumber::new(origin),
            incarnation,
            m_id: MessageNumber::new(m_id),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(version: u64, time: u64, origin: u32, incarnation: u64, m_id: u64) -> RegisterStamp {
        RegisterStamp {
            version: RegisterVersion::new(version),
            stamp: HybridTime::new(time),
            origin: NodeNumber::new(origin),
            incarnation: Incarnation::new(incarnation).expect("not zero"),
            m_id: MessageNumber::new(m_id),
        }
    }

    #[test]
    fn the_version_comes_first_and_the_number_last() {
        let ascending = [
            stamp(1, 9, 9, 9, 9),
            stamp(2, 1, 9, 9, 9),
            stamp(2, 2, 1, 9, 9),
            stamp(2, 2, 2, 1, 9),
            stamp(2, 2, 2, 2, 1),
            stamp(2, 2, 2, 2, 2),
        ];
        assert!(ascending.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn knowing_needs_a_higher_version_and_a_later_stamp() {
        let held = stamp(3, 30, 1, 1, 5);
        assert!(stamp(4, 31, 2, 1, 1).may_have_known(&held));
        assert!(!stamp(3, 31, 2, 1, 1).may_have_known(&held));
        assert!(!stamp(4, 30, 2, 1, 1).may_have_known(&held));
        assert!(stamp(4, 31, 1, 1, 6).may_have_known(&held));
        assert!(!stamp(4, 31, 1, 1, 5).may_have_known(&held));
        assert!(stamp(1, 31, 2, 1, 1).may_have_known_of_lower_epoch(&held));
    }
}
