//! Neighbours of Ethernet interfaces: known, being asked for, or not found.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Resolving,
    Failed,
    Known { mac: [u8; 6], permanent: bool },
}

impl State {
    const fn mac(self) -> Option<[u8; 6]> {
        match self {
            Self::Known { mac, .. } => Some(mac),
            Self::Resolving | Self::Failed => None,
        }
    }
}

/// The neighbours of all interfaces.
#[derive(Clone, Debug, Default)]
pub(super) struct Neighbours(BTreeMap<(u32, Ipv4Addr), State>);

impl Neighbours {
    /// Returns the Ethernet address of a neighbour; if it is not known, it is asked for from now on.
    pub(super) fn resolve(&mut self, ifindex: u32, address: Ipv4Addr) -> Option<[u8; 6]> {
        let key = (ifindex, address);
        let known = self.0.get(&key).and_then(|state| state.mac());
        if known.is_none() {
            self.0.insert(key, State::Resolving);
        }
        known
    }

    /// Returns who is asked for at present.
    pub(super) fn resolving(&self) -> impl Iterator<Item = (u32, Ipv4Addr)> {
        let states = self.0.iter();
        let resolving = states.filter(|(_, state)| **state == State::Resolving);
        resolving.map(|(key, _)| *key)
    }

    /// Ends the search for a neighbour; returns whether there was one.
    pub(super) fn answer(&mut self, ifindex: u32, address: Ipv4Addr, mac: Option<[u8; 6]>) -> bool {
        let state = self.0.get_mut(&(ifindex, address));
        let Some(state) = state.filter(|state| **state == State::Resolving) else {
            return false;
        };
        *state = mac.map_or(State::Failed, |mac| State::Known {
            mac,
            permanent: false,
        });
        true
    }

    /// Has a known neighbour fail that is not permanent; returns whether there is such a one.
    pub(super) fn lose(&mut self, ifindex: u32, address: Ipv4Addr) -> bool {
        let state = self.0.get_mut(&(ifindex, address));
        let is_lost =
            |state: &&mut State| matches!(state, State::Known { permanent, .. } if !*permanent);
        let Some(state) = state.filter(is_lost) else {
            return false;
        };
        *state = State::Failed;
        true
    }

    /// Writes a neighbour; returns whether that is news.
    pub(super) fn set(
        &mut self,
        ifindex: u32,
        address: Ipv4Addr,
        mac: [u8; 6],
        permanent: bool,
    ) -> bool {
        let state = State::Known { mac, permanent };
        self.0.insert((ifindex, address), state) != Some(state)
    }

    /// Deletes a neighbour; returns how often the kernel says so: before that, one that has not failed
    /// fails. None if there is no such neighbour.
    pub(super) fn delete(&mut self, ifindex: u32, address: Ipv4Addr) -> Option<usize> {
        let state = self.0.remove(&(ifindex, address))?;
        Some(1 + usize::from(state != State::Failed))
    }

    /// Deletes all neighbours of an interface, or all but the permanent ones, and returns them.
    pub(super) fn flush(&mut self, ifindex: u32, permanent_too: bool) -> Vec<Ipv4Addr> {
        let mut flushed = Vec::new();
        self.0.retain(|(index, address), state| {
            let permanent = matches!(state, State::Known { permanent, .. } if *permanent);
            let keep = *index != ifindex || (permanent && !permanent_too);
            if !keep {
                flushed.push(*address);
            }
            keep
        });
        flushed
    }

    /// Returns the neighbours of an interface whose Ethernet address is known.
    pub(super) fn known(&self, ifindex: u32) -> impl Iterator<Item = (Ipv4Addr, [u8; 6])> {
        let states = self
            .0
            .iter()
            .filter(move |((index, _), _)| *index == ifindex);
        states.filter_map(|((_, address), state)| Some((*address, state.mac()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

    #[test]
    fn who_is_not_known_is_asked_for() {
        let mut neighbours = Neighbours::default();
        assert_eq!(neighbours.resolve(7, FAR), None);
        assert_eq!(neighbours.resolving().collect::<Vec<_>>(), [(7, FAR)]);
        assert!(neighbours.answer(7, FAR, None));
        assert!(!neighbours.answer(7, FAR, Some(MAC)), "nobody asks");
        assert_eq!(neighbours.resolve(7, FAR), None);
        assert!(neighbours.answer(7, FAR, Some(MAC)));
        assert_eq!(neighbours.resolve(7, FAR), Some(MAC));
        assert_eq!(neighbours.known(7).collect::<Vec<_>>(), [(FAR, MAC)]);
        assert_eq!(neighbours.known(8).count(), 0);
    }

    #[test]
    fn a_permanent_one_does_not_fail() {
        let mut neighbours = Neighbours::default();
        assert!(!neighbours.lose(7, FAR));
        neighbours.set(7, FAR, MAC, true);
        assert!(!neighbours.lose(7, FAR));
        neighbours.set(7, FAR, MAC, false);
        assert!(neighbours.lose(7, FAR) && !neighbours.lose(7, FAR));
        assert_eq!(neighbours.known(7).count(), 0);
    }

    #[test]
    fn a_permanent_one_stays_without_a_carrier() {
        let mut neighbours = Neighbours::default();
        assert_eq!(neighbours.delete(7, FAR), None);
        assert!(neighbours.set(7, FAR, MAC, true));
        assert!(!neighbours.set(7, FAR, MAC, true));
        assert!(neighbours.flush(7, false).is_empty());
        assert_eq!(neighbours.delete(7, FAR), Some(2));
        neighbours.set(7, FAR, MAC, true);
        assert_eq!(neighbours.flush(7, true), [FAR]);
    }
}
