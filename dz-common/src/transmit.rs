//! Decides about an entry of `dz_due`: whether our clock transmits for a session, which packet, and when
//! our clock is to ask again.

use crate::counters::{Counter, NO_BLOCK};
use crate::map::{Config, DUE_ETHERNET, DUE_FORCE, Due, MAX_DUE, SessionEntry};
use crate::pacing::Tick;
use crate::packet::Packet;
use crate::session::NS_PER_US;

/// Block and exit of an entry whose session is gone, or whose memory another one has.
pub const NO_SESSION: (u32, Counter) = (NO_BLOCK, Counter::TxNoSession);

/// Returns how many entries of `dz_due` a run looks at, of those that it is asked to.
#[inline(always)]
pub const fn entries(wanted: u32) -> u32 {
    if wanted < MAX_DUE { wanted } else { MAX_DUE }
}

/// The part of a [`Due`] that the decision about its session needs. It is a value of its own because from
/// one map into another the compiler copies by `memmove`, a function, and before Linux 6.9 the verifier
/// refuses calls of functions under a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    generation: u32,
    flags: u32,
    destination: [u8; 6],
}

impl Turn {
    #[inline(always)]
    const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Says whether the next hop of a frame to the peer is known.
    #[inline(always)]
    fn reachable(&self) -> bool {
        !self.has(DUE_ETHERNET) || self.destination != [0; 6]
    }
}

impl Due {
    /// Reads the part that the decision needs, before the session's lock is taken.
    #[inline(always)]
    pub const fn turn(&self) -> Turn {
        Turn {
            generation: self.generation,
            flags: self.flags,
            destination: self.destination,
        }
    }
}

/// The decision about a session, to be carried out after its lock is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmission {
    /// The packet to transmit, if any; the session has noted it.
    pub packet: Option<Packet>,
    /// The exit without a packet.
    pub unsent: Counter,
    /// [`Due::next_due_ns`].
    pub next_due_ns: u64,
}

/// Returns the exit with a packet. `sent`: the interface took it.
#[inline(always)]
pub const fn exit(sent: bool) -> Counter {
    if sent {
        Counter::TxOriginated
    } else {
        Counter::TxFailed
    }
}

impl SessionEntry {
    /// Decides whether our clock transmits, to be called under the lock. None: this is not the session that
    /// is meant, see [`NO_SESSION`].
    ///
    /// On Ethernet a session whose next hop is not resolved keeps its turn: nothing is noted, and the clock
    /// asks again after an interval.
    #[inline(always)]
    pub fn transmit(&mut self, turn: &Turn, config: &Config, now_ns: u64) -> Option<Transmission> {
        if self.generation != turn.generation {
            return None;
        }
        if !turn.reachable() {
            return Some(Transmission {
                packet: None,
                unsent: Counter::TxNoNeighbour,
                next_due_ns: now_ns + self.session.tx_interval_us() as u64 * NS_PER_US,
            });
        }
        let random = self.draw();
        let sends = if turn.has(DUE_FORCE) {
            self.session.transmitted(now_ns, random);
            true
        } else {
            matches!(self.session.tick(now_ns, random), (Tick::Send, _))
        };
        let packet = if sends {
            self.originated += 1;
            if turn.has(DUE_ETHERNET) {
                self.neighbour = turn.destination;
            }
            Some(self.session.packet(config.version))
        } else {
            None
        };
        Some(Transmission {
            packet,
            unsent: Counter::TxNotDue,
            next_due_ns: self.session.next_due_ns(now_ns),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{NOW_NS, config, entry};
    use crate::map::SessionKey;
    use crate::packet::State;

    const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 0, 7];
    const NOBODY: [u8; 6] = [0; 6];

    fn turn(entry: &SessionEntry, flags: u32, destination: [u8; 6]) -> Turn {
        Turn {
            generation: entry.generation,
            flags,
            destination,
        }
    }

    /// A session that has just transmitted.
    fn told(state: State) -> SessionEntry {
        let mut entry = entry(state);
        entry.session.transmitted(NOW_NS, 0);
        entry
    }

    #[test]
    fn a_run_looks_at_no_more_entries_than_there_are() {
        for (wanted, looked_at) in [(0, 0), (1, 1), (255, 255), (256, 256), (257, 256)] {
            assert_eq!(entries(wanted), looked_at);
        }
        assert_eq!(entries(u32::MAX), MAX_DUE);
    }

    #[test]
    fn a_turn_is_what_the_agent_wrote() {
        let due = Due {
            key: SessionKey {
                ifindex: 3,
                local: [10, 0, 0, 1],
                peer: [10, 0, 0, 2],
            },
            generation: 7,
            flags: DUE_FORCE,
            exit: 0,
            next_due_ns: 0,
            destination: NEXT_HOP,
            source: [2, 0, 0, 0, 0, 1],
            reserved: 0,
        };
        assert_eq!(due.turn(), turn(&entry(State::Up), DUE_FORCE, NEXT_HOP));
    }

    #[test]
    fn another_generation_is_left_alone() {
        for flags in [0, DUE_FORCE, DUE_ETHERNET] {
            let mut entry = entry(State::Down);
            let before = entry;
            let mut turn = turn(&entry, flags, NEXT_HOP);
            turn.generation += 1;
            assert_eq!(entry.transmit(&turn, &config(), NOW_NS), None);
            assert_eq!(entry, before);
        }
    }

    #[test]
    fn what_is_due_is_transmitted_and_noted() {
        for state in [State::Down, State::Init, State::Up, State::AdminDown] {
            let mut entry = entry(state);
            let asked = entry.transmit(&turn(&entry, 0, NOBODY), &config(), NOW_NS);
            let Transmission {
                packet,
                next_due_ns,
                ..
            } = asked.expect("its turn");
            let packet = packet.expect("news");
            assert_eq!((packet.state, packet.version), (state, config().version));
            assert_eq!((entry.originated, entry.session.last_tx_ns), (1, NOW_NS));
            assert_eq!(next_due_ns, entry.session.next_due_ns(NOW_NS));
            assert_eq!(entry.neighbour, NOBODY, "no Ethernet");
        }
    }

    #[test]
    fn what_is_not_due_is_asked_for_again() {
        let mut entry = told(State::Up);
        let before = entry;
        let asked = entry.transmit(&turn(&entry, DUE_ETHERNET, NEXT_HOP), &config(), NOW_NS + 1);
        let expected = Transmission {
            packet: None,
            unsent: Counter::TxNotDue,
            next_due_ns: before.session.next_due_ns(NOW_NS + 1),
        };
        assert_eq!(asked, Some(expected));
        assert!(expected.next_due_ns > NOW_NS + 1);
        assert_eq!(entry.session, before.session);
        assert_eq!((entry.originated, entry.neighbour), (0, NOBODY));
    }

    #[test]
    fn force_transmits_what_is_not_due() {
        for state in [State::Up, State::AdminDown] {
            let mut entry = told(state);
            let asked = entry.transmit(&turn(&entry, DUE_FORCE, NOBODY), &config(), NOW_NS + 1);
            let packet = asked.expect("its turn").packet.expect("forced");
            assert_eq!(packet.state, state);
            assert_eq!(
                (entry.originated, entry.session.last_tx_ns),
                (1, NOW_NS + 1)
            );
        }
    }

    #[test]
    fn on_ethernet_the_next_hop_of_a_transmission_is_kept() {
        let mut entry = entry(State::Down);
        let asked = entry.transmit(&turn(&entry, DUE_ETHERNET, NEXT_HOP), &config(), NOW_NS);
        assert!(asked.expect("its turn").packet.is_some());
        assert_eq!(entry.neighbour, NEXT_HOP);
    }

    #[test]
    fn on_ethernet_nothing_is_sent_to_nobody() {
        for flags in [DUE_ETHERNET, DUE_ETHERNET | DUE_FORCE] {
            let mut entry = entry(State::Down);
            let before = entry;
            let asked = entry.transmit(&turn(&entry, flags, NOBODY), &config(), NOW_NS);
            let expected = Transmission {
                packet: None,
                unsent: Counter::TxNoNeighbour,
                next_due_ns: NOW_NS + 1_000_000_000,
            };
            assert_eq!(asked, Some(expected));
            assert_eq!(entry, before, "keeps its turn");
        }
    }

    #[test]
    fn what_the_interface_refuses_is_counted_apart() {
        assert_eq!(exit(true), Counter::TxOriginated);
        assert_eq!(exit(false), Counter::TxFailed);
    }
}
