//! A log as the receiver of a [`Pair`](super::pair::Pair) holds it.

use bytes::Bytes;

use crate::identity::{ChainHash, Mark, MessageNumber, ParentPoint};

/// A log at the receiver.
#[derive(Clone, Debug)]
pub(super) struct HeldLog {
    pub(super) parents: Vec<ParentPoint>,
    pub(super) start: Mark,
    pub(super) sends: Vec<Bytes>,
    pub(super) hashes: Vec<ChainHash>,
    pub(super) durable: usize,
}

impl HeldLog {
    pub(super) fn appended(&self) -> Mark {
        self.mark(self.sends.len())
    }

    pub(super) fn mark(&self, count: usize) -> Mark {
        match count.checked_sub(1) {
            None => self.start,
            Some(last) => Mark {
                m_id: MessageNumber::new(self.start.m_id.get() + count as u64),
                hash: self.hashes[last],
            },
        }
    }

    pub(super) fn hash_at(&self, m_id: MessageNumber) -> Option<ChainHash> {
        let count = usize::try_from(m_id.get().checked_sub(self.start.m_id.get())?).ok()?;
        (count <= self.sends.len()).then(|| self.mark(count).hash)
    }
}
