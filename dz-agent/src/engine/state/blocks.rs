//! The block of counters (`dz_counters`) of each local address.

use dz_common::map::LocalKey;

use crate::hash::{HashMap, HashSet};

/// Blocks of counters, block 0 included.
const BLOCKS: u32 = 256;

/// The block of counters of each local address. An address keeps its block while it is gone, and when its
/// interface gets another index, so that its counters go on when it comes back.
#[derive(Debug)]
pub(crate) struct Blocks {
    blocks: HashMap<(String, [u8; 4]), u32>,
    /// Blocks as an earlier agent gave them out, until their addresses are asked for.
    inherited: HashMap<LocalKey, u32>,
    used: HashSet<u32>,
}

impl Blocks {
    pub(crate) fn new(inherited: impl IntoIterator<Item = (LocalKey, u32)>) -> Self {
        let mut used = HashSet::default();
        // A block that there is not, or that another address has already, is not inherited; 0 is shared.
        let inherited = inherited
            .into_iter()
            .filter(|(_, block)| *block == 0 || (*block < BLOCKS && used.insert(*block)));
        let inherited = inherited.collect();
        Self {
            blocks: HashMap::default(),
            inherited,
            used,
        }
    }

    /// Returns the block of an address; 0, which is shared, if there is none left.
    pub(crate) fn of(&mut self, interface: &str, key: &LocalKey) -> u32 {
        let name = (interface.to_owned(), key.addr);
        if let Some(block) = self.blocks.get(&name) {
            return *block;
        }
        let free = || (1..BLOCKS).find(|block| !self.used.contains(block));
        let Some(block) = self.inherited.remove(key).or_else(free) else {
            return 0;
        };
        self.used.insert(block);
        self.blocks.insert(name, block);
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_cannot_be_had_is_not_inherited() {
        let key = |last| LocalKey {
            ifindex: 3,
            addr: [10, 0, 0, last],
        };
        let mut blocks = Blocks::new([(key(1), 999), (key(2), 5), (key(3), 5)]);
        let given: HashSet<_> = (1..4).map(|last| blocks.of("dz0", &key(last))).collect();
        assert_eq!(given.len(), 3, "{given:?}");
        assert!(given.iter().all(|block| (1..BLOCKS).contains(block)));
    }

    #[test]
    fn an_address_keeps_its_block() {
        let key = |ifindex, last| LocalKey {
            ifindex,
            addr: [10, 0, 0, last],
        };
        let mut blocks = Blocks::new([(key(3, 1), 1)]);
        assert_eq!(blocks.of("dz0", &key(3, 1)), 1, "inherited");
        assert_eq!(blocks.of("dz0", &key(3, 2)), 2);
        assert_eq!(
            blocks.of("dz0", &key(9, 1)),
            1,
            "the interface was created anew"
        );
        assert_eq!(
            blocks.of("dz1", &key(4, 1)),
            3,
            "the same address on another interface"
        );
        for last in 3..=255 {
            blocks.of("dz0", &key(3, last));
        }
        assert_eq!(blocks.of("dz2", &key(5, 1)), 0, "none left");
    }
}
