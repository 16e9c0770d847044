//! The one source of chance: a seed decides everything.

use std::time::Duration;

/// xoshiro256**, its state filled by SplitMix64. Small, fast, and the same on
/// every machine.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// All numbers that follow are decided by the seed.
    pub fn new(seed: u64) -> Self {
        let mut mixed = seed;
        let state = std::array::from_fn(|_| {
            mixed = mixed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut bits = mixed;
            bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bits ^ (bits >> 31)
        });
        Self { state }
    }

    /// Sixty-four random bits.
    pub const fn bits(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// Random bits that are not zero.
    pub const fn nonzero_bits(&mut self) -> u64 {
        loop {
            let bits = self.bits();
            if bits != 0 {
                return bits;
            }
        }
    }

    /// A number from 0 up to and without `bound`; 0 if that is 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        // The bias of the product's upper half is far below what anyone notices.
        ((self.bits() as u128 * bound as u128) >> 64) as u64
    }

    /// A number from `low` up to and with `high`.
    pub const fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// An index of a list of so many.
    pub const fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// True in so many of a hundred cases.
    pub const fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One element of a list; none of an empty one.
    pub fn choose<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        list.get(self.index(list.len()))
    }

    /// A time between two, to the microsecond.
    pub const fn duration(&mut self, low: Duration, high: Duration) -> Duration {
        Duration::from_micros(self.between(low.as_micros() as u64, high.as_micros() as u64))
    }

    /// Brings a list into any order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.index(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..64).map(|_| random.bits()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    /// The first outputs of xoshiro256** from the state 1, 2, 3, 4, as its
    /// authors' program gives them.
    #[test]
    fn follows_the_published_generator() {
        let mut random = Random { state: [1, 2, 3, 4] };
        let first: [u64; 4] = std::array::from_fn(|_| random.bits());
        assert_eq!(first, [11520, 0, 1_509_978_240, 1_215_971_899_390_074_240]);
    }

    #[test]
    fn keeps_to_bounds_and_reaches_them() {
        let mut random = Random::new(3);
        let drawn: Vec<u64> = (0..1000).map(|_| random.between(5, 8)).collect();
        assert!(drawn.iter().all(|number| (5..=8).contains(number)));
        assert!((5..=8).all(|number| drawn.contains(&number)));
        assert_eq!(random.below(0), 0);
        assert!((0..100).all(|_| !random.chance(0) && random.chance(100)));
    }
}
