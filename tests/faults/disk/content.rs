//! What a file of the faulty disk holds: as programs see it now, and as it is
//! after a power cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, RngExt as _};

/// What is lost or kept as one: the page of the kernel's cache.
pub(crate) const PAGE_BYTES: u64 = 4096;
const PAGE: usize = PAGE_BYTES as usize;

/// One page; behind the end of its file it is zero.
type Page = Arc<[u8; PAGE]>;

/// Bytes and their number. A page that is not there is zero.
#[derive(Clone, Debug, Default)]
struct Bytes {
    pages: BTreeMap<u64, Page>,
    size: u64,
}

/// Which of the pages that were not synced a power cut leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// None.
    Everything,
    /// The first so many: the file ends early.
    TheEnd,
    /// The last so many: what is between is as it was before.
    TheBeginning,
    /// Any.
    Any,
    /// All, and the last one is zero: its size was written and its content not.
    ZeroedEnd,
}

impl Loss {
    pub(crate) const ALL: [Self; 5] =
        [Self::Everything, Self::TheEnd, Self::TheBeginning, Self::Any, Self::ZeroedEnd];

    /// One of them.
    pub(crate) fn choose(random: &mut StdRng) -> Self {
        *Self::ALL.choose(random).expect("there are some")
    }
}

/// A file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    now: Bytes,
    /// What was synced.
    durable: Bytes,
    /// The pages that were written since.
    unsynced: BTreeSet<u64>,
}

impl Content {
    pub(crate) fn size(&self) -> u64 {
        self.now.size
    }

    /// The pages that it takes.
    pub(crate) fn pages(&self) -> u64 {
        self.now.pages.len() as u64
    }

    /// How many pages a write would add.
    pub(crate) fn new_pages(&self, offset: u64, length: usize) -> u64 {
        let has_page = |page: &u64| self.now.pages.contains_key(page);
        pages_of(offset, length as u64).filter(|page| !has_page(page)).count() as u64
    }

    pub(crate) fn write(&mut self, offset: u64, mut data: &[u8]) {
        let end = offset + data.len() as u64;
        for page in pages_of(offset, data.len() as u64) {
            let begin = offset.max(page * PAGE_BYTES);
            let within = usize::try_from(begin - page * PAGE_BYTES).expect("less than a page");
            let (here, rest) = data.split_at(data.len().min(PAGE - within));
            let bytes = Arc::make_mut(self.now.pages.entry(page).or_insert_with(zeroed));
            bytes[within..within + here.len()].copy_from_slice(here);
            self.unsynced.insert(page);
            data = rest;
        }
        self.now.size = self.now.size.max(end);
    }

    pub(crate) fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let end = self.now.size.min(offset.saturating_add(length as u64));
        let mut read = Vec::with_capacity(length);
        for page in pages_of(offset, end.saturating_sub(offset)) {
            let from = usize::try_from(offset.max(page * PAGE_BYTES) % PAGE_BYTES).expect("small");
            let left = end - (page * PAGE_BYTES + from as u64);
            let until = PAGE.min(from + usize::try_from(left).unwrap_or(PAGE));
            match self.now.pages.get(&page) {
                Some(bytes) => read.extend_from_slice(&bytes[from..until]),
                None => read.resize(read.len() + until - from, 0),
            }
        }
        read
    }

    /// Cuts the file or makes it longer. Which of both sizes is left after a power
    /// cut is decided then.
    pub(crate) fn resize(&mut self, size: u64) {
        let gone = self.now.pages.split_off(&size.div_ceil(PAGE_BYTES));
        self.unsynced.extend(gone.into_keys());
        let within = usize::try_from(size % PAGE_BYTES).expect("less than a page");
        if within > 0
            && let Some(page) = self.now.pages.get_mut(&(size / PAGE_BYTES))
        {
            Arc::make_mut(page)[within..].fill(0);
            self.unsynced.insert(size / PAGE_BYTES);
        }
        self.now.size = size;
    }

    /// Makes it durable as it is.
    pub(crate) fn sync(&mut self) {
        for page in std::mem::take(&mut self.unsynced) {
            match self.now.pages.get(&page) {
                Some(bytes) => _ = self.durable.pages.insert(page, Arc::clone(bytes)),
                None => _ = self.durable.pages.remove(&page),
            }
        }
        self.durable.size = self.now.size;
    }

    /// A sync that fails: as on Linux, what was to be written counts as written
    /// from then on, can be read, and is on no disk.
    pub(crate) fn fail_sync(&mut self) {
        self.unsynced.clear();
    }

    /// What is left after a power cut.
    pub(crate) fn cut_power(&mut self, loss: Loss, random: &mut StdRng) {
        let unsynced: Vec<u64> = std::mem::take(&mut self.unsynced).into_iter().collect();
        let some = |random: &mut StdRng| random.random_range(0..=unsynced.len());
        let kept: Vec<u64> = match loss {
            Loss::Everything => Vec::new(),
            Loss::TheEnd => unsynced[..some(random)].to_vec(),
            Loss::TheBeginning => unsynced[some(random)..].to_vec(),
            Loss::Any => unsynced.iter().copied().filter(|_| random.next_u32() & 1 == 0).collect(),
            Loss::ZeroedEnd => unsynced.clone(),
        };
        let mut left = self.durable.clone();
        for page in &kept {
            match self.now.pages.get(page) {
                Some(bytes) => _ = left.pages.insert(*page, Arc::clone(bytes)),
                None => _ = left.pages.remove(page),
            }
        }
        if loss == Loss::ZeroedEnd
            && let Some(last) = kept.last()
        {
            match self.durable.pages.get(last) {
                Some(bytes) => _ = left.pages.insert(*last, Arc::clone(bytes)),
                None => _ = left.pages.remove(last),
            }
        }
        let end_of_kept = kept.last().map_or(0, |last| (last + 1) * PAGE_BYTES);
        left.size = match loss {
            Loss::Everything => self.durable.size,
            Loss::TheEnd => self.now.size.min(self.durable.size.max(end_of_kept)),
            Loss::TheBeginning | Loss::Any | Loss::ZeroedEnd => self.now.size,
        };
        // Behind its end a file has nothing.
        left.pages.split_off(&left.size.div_ceil(PAGE_BYTES));
        let within = usize::try_from(left.size % PAGE_BYTES).expect("less than a page");
        if let Some(page) = left.pages.get_mut(&(left.size / PAGE_BYTES)) {
            Arc::make_mut(page)[within..].fill(0);
        }
        self.now = left.clone();
        self.durable = left;
    }

    /// Turns one bit over, on the disk.
    pub(crate) fn flip_bit(&mut self, offset: u64, bit: u32) {
        let page = offset / PAGE_BYTES;
        let within = usize::try_from(offset % PAGE_BYTES).expect("less than a page");
        for bytes in [&mut self.now, &mut self.durable] {
            let page = bytes.pages.entry(page).or_insert_with(zeroed);
            Arc::make_mut(page)[within] ^= 1 << bit;
        }
    }
}

fn zeroed() -> Page {
    Arc::new([0; PAGE])
}

/// The pages that a range touches.
fn pages_of(offset: u64, length: u64) -> std::ops::Range<u64> {
    if length == 0 { 0..0 } else { offset / PAGE_BYTES..(offset + length).div_ceil(PAGE_BYTES) }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn written(pages: u64) -> Content {
        let mut content = Content::default();
        for page in 0..pages {
            content.write(page * PAGE_BYTES, &[1; PAGE]);
        }
        content
    }

    fn is_written(content: &Content) -> Vec<bool> {
        let pages = content.size().div_ceil(PAGE_BYTES);
        (0..pages).map(|page| content.read(page * PAGE_BYTES, 1) == [1]).collect()
    }

    #[test]
    fn what_is_written_across_pages_is_read() {
        let mut content = Content::default();
        let data: Vec<u8> = (0..10_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        content.write(5000, &data);
        assert_eq!(content.size(), 15_000);
        assert_eq!(content.read(5000, 20_000), data);
        assert_eq!(content.read(0, 5000), vec![0; 5000]);
        assert_eq!(content.read(15_000, 1), Vec::<u8>::new());
        content.resize(6000);
        content.resize(15_000);
        assert_eq!(content.read(5000, 1000), data[..1000]);
        assert_eq!(content.read(6000, 9000), vec![0; 9000]);
    }

    #[test]
    fn what_was_synced_survives_every_cut_and_the_rest_as_the_cut_says() {
        for seed in 0..200 {
            let random = &mut StdRng::seed_from_u64(seed);
            for loss in Loss::ALL {
                let mut content = written(3);
                content.sync();
                content.write(3 * PAGE_BYTES - 96, &[1; 96 + 4 * PAGE + 10]);
                content.cut_power(loss, random);
                let left = is_written(&content);
                assert!(left[..3].iter().all(|is_written| *is_written), "{loss:?}: {left:?}");
                let tail = &left[3..];
                match loss {
                    Loss::Everything => assert!(tail.is_empty()),
                    Loss::TheEnd => assert!(tail.iter().all(|is_written| *is_written), "{tail:?}"),
                    Loss::TheBeginning => {
                        assert!(tail.is_sorted(), "what is missing comes first: {tail:?}");
                        assert_eq!(content.size(), 7 * PAGE_BYTES + 10);
                    }
                    Loss::Any => assert_eq!(content.size(), 7 * PAGE_BYTES + 10),
                    Loss::ZeroedEnd => assert_eq!(tail, [true, true, true, true, false]),
                }
            }
        }
    }

    #[test]
    fn what_a_failed_sync_was_about_is_lost_though_a_later_one_succeeds() {
        let random = &mut StdRng::seed_from_u64(1);
        let mut content = written(1);
        content.fail_sync();
        content.sync();
        assert_eq!(is_written(&content), [true]);
        content.cut_power(Loss::Any, random);
        assert_eq!(is_written(&content), [false]);
    }
}
