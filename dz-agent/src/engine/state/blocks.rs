//! The block of counters (`dz_counters`) of each local address.

use std::collections::BTreeSet;

use dz_common::map::LocalKey;

use crate::hash::HashMap;

/// Blocks of counters, block 0 included.
const BLOCKS: u32 = 256;
/// How long a block rests before another address may get it, ns: far longer than a kernel program runs that
/// has read its number.
const REST_NS: u64 = 1_000_000_000;

/// An address of an interface, by the interface's name, which outlives its index.
type Owner = (String, [u8; 4]);

/// The block that an address gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// The one that it has, or had before it went: its counters go on.
    Own(u32),
    /// One that may have another address's counts, and is to be cleared.
    Another(u32),
    /// None: it shares block 0.
    Shared,
}

/// A block whose address is gone.
#[derive(Debug)]
struct Resting {
    block: u32,
    addr: [u8; 4],
    /// Unknown where an earlier agent has given it out.
    interface: Option<String>,
    since_ns: u64,
}

/// The block of counters of each local address. An address gets its block back when it comes again, and when
/// its interface gets another index, so that its counters go on; unless all blocks were given out meanwhile,
/// and another address has it.
#[derive(Debug)]
pub(crate) struct Blocks {
    /// The block of each address, and the index of its interface.
    held: HashMap<Owner, (u32, u32)>,
    /// Blocks as an earlier agent gave them out, until their addresses are asked for or gone.
    inherited: HashMap<LocalKey, u32>,
    /// Given out to nobody in this run.
    free: BTreeSet<u32>,
    /// In the order in which their addresses went.
    resting: Vec<Resting>,
}

impl Blocks {
    /// Takes the blocks of an earlier agent: those of addresses, and those that its sessions count in.
    pub(crate) fn new(
        inherited: impl IntoIterator<Item = (LocalKey, u32)>,
        in_sessions: impl IntoIterator<Item = ([u8; 4], u32)>,
        now_ns: u64,
    ) -> Self {
        let mut free: BTreeSet<_> = (1..BLOCKS).collect();
        // A block that there is not, or that another address has already, is not inherited; 0 is shared.
        let inherited = inherited
            .into_iter()
            .filter(|(_, block)| *block == 0 || free.remove(block));
        let inherited: HashMap<_, _> = inherited.collect();
        let mut resting = Vec::new();
        for (addr, block) in in_sessions {
            if free.remove(&block) {
                resting.push(Resting {
                    block,
                    addr,
                    interface: None,
                    since_ns: now_ns,
                });
            }
        }
        Self {
            held: HashMap::default(),
            inherited,
            free,
            resting,
        }
    }

    /// Returns the block of an address that has come; 0, which is shared, if it got none.
    pub(crate) fn of(&self, interface: &str, addr: [u8; 4]) -> u32 {
        let held = self.held.get(&(interface.to_owned(), addr));
        held.map_or(0, |(_, block)| *block)
    }

    /// Gives a block to an address that has come. `has_sessions`: whether any session has this local address,
    /// and so counts in its block.
    pub(crate) fn came(
        &mut self,
        interface: &str,
        key: &LocalKey,
        now_ns: u64,
        has_sessions: impl Fn([u8; 4]) -> bool,
    ) -> Given {
        let owner = (interface.to_owned(), key.addr);
        let own = self.held.get(&owner).map(|(_, block)| *block);
        let own = own.or_else(|| self.inherited.remove(key));
        let own = own.or_else(|| {
            let was = |resting: &Resting| {
                resting.addr == key.addr && resting.interface.as_deref() == Some(interface)
            };
            self.take_resting(was)
        });
        let given = own.map_or_else(
            || {
                let rested = |resting: &Resting| {
                    now_ns >= resting.since_ns.saturating_add(REST_NS)
                        && !has_sessions(resting.addr)
                };
                let another = self.free.pop_first();
                let another = another.or_else(|| self.take_resting(rested));
                another.map_or(Given::Shared, Given::Another)
            },
            Given::Own,
        );
        if let Given::Own(block) | Given::Another(block) = given {
            self.held.insert(owner, (key.ifindex, block));
        }
        given
    }

    /// Has the block of an address rest that has gone.
    pub(crate) fn went(&mut self, key: &LocalKey, now_ns: u64) {
        let mut rest = |block, interface| {
            self.resting.push(Resting {
                block,
                addr: key.addr,
                interface,
                since_ns: now_ns,
            });
        };
        if let Some(block) = self.inherited.remove(key) {
            rest(block, None);
        }
        let is_gone =
            |(owner, held): &(&Owner, &(u32, u32))| owner.1 == key.addr && held.0 == key.ifindex;
        let gone = self.held.iter().find(is_gone);
        let gone = gone.map(|(owner, _)| owner.clone());
        if let Some(owner) = gone
            && let Some((_, block)) = self.held.remove(&owner)
        {
            rest(block, Some(owner.0));
        }
    }

    /// Takes the first of the resting blocks that meets a condition.
    fn take_resting(&mut self, meets: impl Fn(&Resting) -> bool) -> Option<u32> {
        let at = self.resting.iter().position(meets)?;
        Some(self.resting.remove(at).block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_NS: u64 = 5_000_000_000;
    const LATER_NS: u64 = NOW_NS + REST_NS;

    fn key(ifindex: u32, last: u8) -> LocalKey {
        LocalKey {
            ifindex,
            addr: [10, 0, 0, last],
        }
    }

    fn none(_: [u8; 4]) -> bool {
        false
    }

    fn blocks(inherited: &[(LocalKey, u32)]) -> Blocks {
        Blocks::new(inherited.iter().copied(), [], NOW_NS)
    }

    #[test]
    fn a_block_that_cannot_be_had_is_not_inherited() {
        let mut blocks = blocks(&[(key(3, 1), 999), (key(3, 2), 5), (key(3, 3), 5)]);
        for last in 1..4 {
            blocks.came("dz0", &key(3, last), NOW_NS, none);
        }
        let given: BTreeSet<_> = (1..4)
            .map(|last| blocks.of("dz0", [10, 0, 0, last]))
            .collect();
        assert_eq!(given.len(), 3, "{given:?}");
        assert!(given.iter().all(|block| (1..BLOCKS).contains(block)));
    }

    #[test]
    fn an_address_keeps_its_block() {
        let mut blocks = blocks(&[(key(3, 1), 1)]);
        let mut came = |interface, key: LocalKey| blocks.came(interface, &key, NOW_NS, none);
        assert_eq!(came("dz0", key(3, 1)), Given::Own(1), "inherited");
        assert_eq!(came("dz0", key(3, 2)), Given::Another(2));
        let anew = came("dz0", key(9, 1));
        assert_eq!(anew, Given::Own(1), "the interface was created anew");
        let other = came("dz1", key(4, 1));
        assert_eq!(other, Given::Another(3), "on another interface");
        // The index that its interface had before is no news.
        blocks.went(&key(3, 1), NOW_NS);
        assert_eq!(blocks.of("dz0", [10, 0, 0, 1]), 1);
        blocks.went(&key(9, 1), NOW_NS);
        assert_eq!(blocks.of("dz0", [10, 0, 0, 1]), 0, "gone");
        let back = blocks.came("dz0", &key(9, 1), NOW_NS, none);
        assert_eq!(back, Given::Own(1), "nobody has taken it");
    }

    #[test]
    fn the_256th_address_gets_the_block_of_one_that_is_gone() {
        let mut blocks = blocks(&[]);
        for last in 1..=255 {
            let given = blocks.came("dz0", &key(3, last), NOW_NS, none);
            assert_eq!(given, Given::Another(u32::from(last)));
        }
        let another = key(4, 1);
        assert_eq!(blocks.came("dz1", &another, NOW_NS, none), Given::Shared);
        blocks.went(&key(3, 7), NOW_NS);
        blocks.went(&key(3, 9), NOW_NS);
        let early = blocks.came("dz1", &another, LATER_NS - 1, none);
        assert_eq!(early, Given::Shared, "a program may still count there");
        let of_seven = |addr: [u8; 4]| addr[3] == 7;
        let given = blocks.came("dz1", &another, LATER_NS, of_seven);
        assert_eq!(given, Given::Another(9), "a session counts in the other");
        assert_eq!(blocks.of("dz1", another.addr), 9);
        let back = blocks.came("dz0", &key(3, 9), LATER_NS, none);
        assert_eq!(back, Given::Another(7), "its own is another's");
    }

    #[test]
    fn what_an_earlier_agent_has_left_is_cleared_before_it_is_given_out() {
        let (there, gone) = (key(3, 1), key(3, 2));
        let in_sessions = [([10, 0, 0, 1], 1), ([10, 0, 0, 8], 3)];
        let mut blocks = Blocks::new([(there, 1), (gone, 2)], in_sessions, NOW_NS);
        blocks.went(&gone, NOW_NS);
        let given = blocks.came("dz0", &key(3, 4), NOW_NS, none);
        assert_eq!(given, Given::Another(4), "sessions count in 3");
        assert_eq!(blocks.came("dz0", &there, NOW_NS, none), Given::Own(1));
        let back = blocks.came("dz0", &gone, NOW_NS, none);
        assert_eq!(back, Given::Another(5), "of which interface, nobody knows");
    }
}
