//! `dz_counters`, summed over the processors.

use std::collections::BTreeMap;

use dz_common::counters::{Counter, Counters};

/// Blocks of counters (`MAX_BLOCKS` in dz-ebpf).
pub(super) const BLOCKS: u32 = 256;

/// What was counted, by block. A block that nothing was counted in has no memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts(BTreeMap<u32, [u64; Counter::COUNT]>);

impl Counts {
    /// Adds one to a counter; to none if there is no such block.
    pub(super) fn add(&mut self, block: u32, counter: Counter) {
        if block < BLOCKS {
            let counters = self.0.entry(block).or_insert([0; Counter::COUNT]);
            counters[counter as usize] += 1;
        }
    }

    /// Sets a block to zero.
    pub(super) fn clear(&mut self, block: u32) {
        self.0.remove(&block);
    }

    /// Reads a block; none if there is no such block.
    pub(super) fn read(&self, block: u32) -> Option<Counters> {
        let counters = self.0.get(&block).unwrap_or(&[0; Counter::COUNT]);
        (block < BLOCKS).then(|| zerocopy::transmute!(*counters))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_name() {
        let mut counts = Counts::default();
        counts.add(3, Counter::RxAnswered);
        counts.add(3, Counter::RxAnswered);
        counts.add(3, Counter::Fault);
        let block = counts.read(3).unwrap();
        assert_eq!((block.rx_answered, block.fault), (2, 1));
        let all = Counter::ALL.iter().map(|counter| block.get(*counter));
        assert_eq!(all.sum::<u64>(), 3);
        assert_eq!(counts.read(4), Some(Counters::default()));
        counts.clear(3);
        assert_eq!(counts.read(3), Some(Counters::default()));
    }

    #[test]
    fn a_block_that_does_not_exist_counts_nothing() {
        let mut counts = Counts::default();
        counts.add(BLOCKS, Counter::Fault);
        assert_eq!(counts.read(BLOCKS), None);
        assert_eq!(counts.read(BLOCKS - 1), Some(Counters::default()));
    }
}
