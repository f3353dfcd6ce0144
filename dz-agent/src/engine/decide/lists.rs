//! Puts state changes that are too many for a line each into lists, so that all of them are on record.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;

use dz_common::map::Event;

/// Most peers of a list: a line of the log is some kilobytes long at most.
const PEERS: usize = 500;

/// State changes of one kind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct List {
    pub(crate) interface: Arc<str>,
    /// Our address.
    pub(crate) local: Ipv4Addr,
    /// State before.
    pub(crate) from: &'static str,
    /// State after.
    pub(crate) to: &'static str,
    /// Why the sessions went down, if they did; else none.
    pub(crate) reason: &'static str,
    /// How many changes these are.
    pub(crate) count: usize,
    /// The peers, in the order of their addresses, with a space between; with `x` and a number, a peer whose session
    /// did so several times.
    pub(crate) peers: String,
}

/// The kind of a change: interface, our address, state before, state after, reason.
type Kind = (Arc<str>, [u8; 4], &'static str, &'static str, &'static str);

/// Puts changes into lists by their kind, [`PEERS`] peers in each at most.
pub(crate) fn lists(events: impl IntoIterator<Item = (Event, Arc<str>)>) -> Vec<List> {
    let mut kinds = BTreeMap::<Kind, BTreeMap<[u8; 4], usize>>::new();
    for (event, interface) in events {
        let (from, to) = (event.from.name(), event.to.name());
        let kind = (interface, event.key.local, from, to, event.reason.name());
        *kinds
            .entry(kind)
            .or_default()
            .entry(event.key.peer)
            .or_default() += 1;
    }
    let mut lists = Vec::new();
    for ((interface, local, from, to, reason), peers) in kinds {
        let peers: Vec<_> = peers.into_iter().collect();
        for some in peers.chunks(PEERS) {
            lists.push(List {
                interface: Arc::clone(&interface),
                local: local.into(),
                from,
                to,
                reason,
                count: some.iter().map(|(_, times)| times).sum(),
                peers: text(some),
            });
        }
    }
    lists
}

fn text(peers: &[([u8; 4], usize)]) -> String {
    let mut text = String::with_capacity(peers.len() * 16);
    for (index, (peer, times)) in peers.iter().enumerate() {
        let gap = if index == 0 { "" } else { " " };
        // Writing into a string does not fail.
        let _ = write!(text, "{gap}{}", Ipv4Addr::from(*peer));
        if *times > 1 {
            let _ = write!(text, "x{times}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use dz_common::packet::State;

    use super::*;
    use crate::fixture;

    #[test]
    fn every_change_is_in_a_list_of_its_kind() {
        let name: Arc<str> = "doublezero0".into();
        let down = |peer| (fixture::event(peer), Arc::clone(&name));
        let mut up = down(3);
        (up.0.from, up.0.to) = (State::Down, State::Up);
        let found = lists([down(9), up, down(3), down(9)]);
        let found: Vec<_> = found
            .iter()
            .map(|list| (list.from, list.to, list.count, list.peers.as_str()))
            .collect();
        let expected = [
            ("down", "up", 1, "10.0.0.3"),
            ("up", "down", 3, "10.0.0.3 10.0.0.9x2"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_list_has_an_end() {
        let name: Arc<str> = "doublezero0".into();
        let down = |number: u32| {
            let mut event = fixture::event(0);
            event.key.peer = number.to_be_bytes();
            (event, Arc::clone(&name))
        };
        let found = lists((0..2 * PEERS as u32 + 1).map(down));
        let counts: Vec<_> = found.iter().map(|list| list.count).collect();
        assert_eq!(counts, [PEERS, PEERS, 1]);
        assert!(found[0].peers.ends_with(" 0.0.1.243"), "{:?}", found[0]);
    }
}
