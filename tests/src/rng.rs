//! Random numbers that a seed replays (splitmix64, Steele et al. 2014).

use std::cell::Cell;

/// The generator of one packet: what it draws depends on nothing but seed and index, so that a
/// decision the clock has a part in does not change what follows.
#[derive(Debug)]
pub struct Rng(Cell<u64>);

impl Rng {
    /// Starts at a place that seed and index decide.
    pub const fn new(seed: u64, index: u64) -> Self {
        Self(Cell::new(seed ^ index.wrapping_mul(0xd134_2543_de82_ef95)))
    }

    /// 64 random bits.
    pub fn next(&self) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut z = self.0.get();
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not 0.
    pub fn below(&self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// An index into a slice of `len` elements, of which there is at least one.
    pub fn index(&self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// 8 random bits.
    pub fn byte(&self) -> u8 {
        (self.next() >> 56) as u8
    }

    /// 32 random bits.
    pub fn word(&self) -> u32 {
        (self.next() >> 32) as u32
    }

    /// True in so many of a hundred cases.
    pub fn chance(&self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `from`, which is not empty.
    pub fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.index(from.len())]
    }
}
