//! Finds a channel's slot by its name: every publication asks.
//!
//! The ordered map would compare the name with some thirty others on the way.
//! Slots are never given up (tombstones stay), so this is open addressing without
//! removal; it is only looked into, never iterated.

use std::num::NonZeroU32;

use xxhash_rust::xxh3::xxh3_64;

/// A channel's place in the directory's list, counted from 1 so that an absent
/// one takes no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(NonZeroU32);

impl Slot {
    pub(super) fn new(place: usize) -> Self {
        let number = u32::try_from(place + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("a namespace has fewer than 2^32 channels"))
    }

    pub(super) const fn place(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// One place of the table: the hash tells nearly all
/// strangers apart without a look at their names.
#[derive(Clone, Copy, Debug)]
struct Place {
    hash: u64,
    slot: Slot,
}

/// From names to slots.
#[derive(Clone, Debug, Default)]
pub(super) struct NameIndex {
    /// A power of two of places, at most three quarters of them taken.
    places: Vec<Option<Place>>,
    taken: usize,
}

impl NameIndex {
    /// The slot of a name; `is_it` compares the name of a slot with it.
    pub(super) fn find(&self, name: &str, is_it: impl Fn(Slot) -> bool) -> Option<Slot> {
        if self.places.is_empty() {
            return None;
        }
        let hash = hash_of(name);
        let mut at = self.start(hash);
        while let Some(place) = self.places[at] {
            if place.hash == hash && is_it(place.slot) {
                return Some(place.slot);
            }
            at = (at + 1) & (self.places.len() - 1);
        }
        None
    }

    /// Adds a name that is not there.
    pub(super) fn insert(&mut self, name: &str, slot: Slot) {
        if (self.taken + 1) * 4 > self.places.len() * 3 {
            self.grow();
        }
        self.place(Place { hash: hash_of(name), slot });
        self.taken += 1;
    }

    fn grow(&mut self) {
        const FIRST_PLACES: usize = 16;
        let places = (self.places.len() * 2).max(FIRST_PLACES);
        let old = std::mem::replace(&mut self.places, vec![None; places]);
        old.into_iter().flatten().for_each(|place| self.place(place));
    }

    fn place(&mut self, place: Place) {
        let mut at = self.start(place.hash);
        while self.places[at].is_some() {
            at = (at + 1) & (self.places.len() - 1);
        }
        self.places[at] = Some(place);
    }

    fn start(&self, hash: u64) -> usize {
        hash as usize & (self.places.len() - 1)
    }
}

fn hash_of(name: &str) -> u64 {
    xxh3_64(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_again_and_no_other() {
        let names: Vec<String> = (0..5_000).map(|number| format!("channel/{number}")).collect();
        let mut index = NameIndex::default();
        assert_eq!(index.find("channel/0", |_| true), None);
        for (place, name) in names.iter().enumerate() {
            index.insert(name, Slot::new(place));
        }
        for (place, name) in names.iter().enumerate() {
            let found = index.find(name, |slot| &names[slot.place()] == name);
            assert_eq!(found, Some(Slot::new(place)));
        }
        assert_eq!(index.find("channel/x", |slot| names[slot.place()] == "channel/x"), None);
    }
}
