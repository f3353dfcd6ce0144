//! Sending what nobody asked for (`dz-ebpf/src/transmit.rs`).

use dz_common::ingress::Link;
use dz_common::map::Due;
use dz_common::transmit::{self, Transmission};

use super::frame::frame;
use crate::memory::maps::BpfMaps;

/// A frame for an interface. It has an Ethernet header, which a layer-3 device strips.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The interface.
    pub ifindex: u32,
    /// All of it.
    pub frame: Vec<u8>,
}

/// Handles one entry of `dz_due`. `send`: gives a frame to its interface; returns whether that took it.
pub fn transmit(
    maps: &mut BpfMaps,
    due: &mut Due,
    now_ns: u64,
    send: impl FnOnce(&mut BpfMaps, Outgoing) -> bool,
) {
    due.next_due_ns = 0;
    let (block, exit) = match ask(maps, due, now_ns) {
        None => transmit::NO_SESSION,
        Some((block, transmission)) => {
            due.next_due_ns = transmission.next_due_ns;
            match transmission.packet {
                None => (block, transmission.unsent),
                Some(packet) => {
                    let ethernet = (due.destination, due.source);
                    let frame = frame(&maps.config, &due.key, &packet, Link::Ethernet, ethernet);
                    let outgoing = Outgoing {
                        ifindex: due.key.ifindex,
                        frame,
                    };
                    (block, transmit::exit(send(maps, outgoing)))
                }
            }
        }
    };
    due.exit = exit as u32;
    maps.count(block, exit);
}

/// Asks the session, if it still is there; returns its block, too.
fn ask(maps: &mut BpfMaps, due: &Due, now_ns: u64) -> Option<(u32, Transmission)> {
    let element = maps.sessions.find(&due.key)?;
    let entry = maps.sessions.at(element);
    let (slot, block) = (entry.slot, entry.block);
    let turn = due.turn();
    let session = maps.sessions.lock(element, &due.key, slot)?;
    let transmission = session.transmit(&turn, &maps.config, now_ns)?;
    Some((block, transmission))
}

#[cfg(test)]
mod tests {
    use dz_common::counters::Counter;
    use dz_common::headers::ETHERNET_LEN;
    use dz_common::ingress::{self, Fence};
    use dz_common::packet::{Packet, State};

    use super::*;
    use crate::datapath::Order;
    use crate::fixture::{LOCAL, NOW_NS};
    use crate::memory::fixture::{BLOCK, IFINDEX, OURS, PEER, THEIRS, maps, session};

    fn order(maps: &BpfMaps) -> Order {
        let entry = session(maps);
        Order {
            key: entry.key,
            slot: entry.slot,
            generation: entry.generation,
            force: false,
            ethernet: None,
        }
    }

    /// Runs the program for an order; returns its exit, when to come back, and what has left.
    fn run(
        maps: &mut BpfMaps,
        order: &Order,
        now_ns: u64,
        takes: bool,
    ) -> (Counter, u64, Option<Outgoing>) {
        let mut due = order.due();
        let mut sent = None;
        transmit(maps, &mut due, now_ns, |_, outgoing| {
            sent = Some(outgoing);
            takes
        });
        (Counter::ALL[due.exit as usize], due.next_due_ns, sent)
    }

    fn decoded(frame: &[u8], link: Link) -> Packet {
        let flow = ingress::classify(frame, link, dz_common::LIVENESS_PORT).unwrap();
        assert_eq!((flow.src, flow.dst), (LOCAL.octets(), PEER));
        let fence = Fence {
            port: dz_common::LIVENESS_PORT,
            min_ttl: 0,
        };
        ingress::decode(frame, link, &flow, fence).unwrap().packet
    }

    #[test]
    fn what_is_due_leaves_and_says_when_to_come_back() {
        let mut maps = maps();
        let order = order(&maps);
        let (exit, next_ns, sent) = run(&mut maps, &order, NOW_NS, true);
        assert_eq!(exit, Counter::TxOriginated);
        assert!(next_ns > NOW_NS && next_ns <= NOW_NS + 1_000_000_000);
        let sent = sent.unwrap();
        assert_eq!(sent.ifindex, IFINDEX);
        let packet = decoded(&sent.frame[ETHERNET_LEN..], Link::Layer3);
        assert_eq!((packet.state, packet.my_discr), (State::Down, 0x1234));

        let (exit, again_ns, sent) = run(&mut maps, &order, NOW_NS + 1, true);
        assert_eq!((exit, sent), (Counter::TxNotDue, None));
        assert!(again_ns >= next_ns);
        let counters = maps.counters(BLOCK).unwrap();
        assert_eq!((counters.tx_originated, counters.tx_not_due), (1, 1));
    }

    #[test]
    fn on_ethernet_it_goes_to_the_next_hop() {
        let mut maps = maps();
        let known = Order {
            ethernet: Some((THEIRS, OURS)),
            ..order(&maps)
        };
        let unknown = Order {
            ethernet: Some(([0; 6], OURS)),
            ..known
        };
        let (exit, _, sent) = run(&mut maps, &unknown, NOW_NS, true);
        assert_eq!((exit, sent), (Counter::TxNoNeighbour, None));
        let (exit, _, sent) = run(&mut maps, &known, NOW_NS, true);
        assert_eq!(exit, Counter::TxOriginated);
        let frame = sent.unwrap().frame;
        assert!(frame.starts_with(&[THEIRS, OURS].concat()));
        decoded(&frame, Link::Ethernet);
        assert_eq!(session(&maps).neighbour, THEIRS);
    }

    #[test]
    fn a_session_that_is_gone_is_not_asked_for_again() {
        let mut maps = maps();
        let mut other = order(&maps);
        other.generation += 1;
        let gone = (Counter::TxNoSession, 0, None);
        assert_eq!(run(&mut maps, &other, NOW_NS, true), gone);
        let known = order(&maps);
        maps.delete_session(&known.key);
        assert_eq!(run(&mut maps, &known, NOW_NS, true), gone);
        assert_eq!(maps.counters(0).unwrap().tx_no_session, 2);
    }

    #[test]
    fn what_the_interface_does_not_take_has_failed() {
        let mut maps = maps();
        let order = order(&maps);
        let (exit, next_ns, _) = run(&mut maps, &order, NOW_NS, false);
        assert_eq!(exit, Counter::TxFailed);
        assert!(next_ns > NOW_NS);
        assert_eq!(session(&maps).originated, 1, "the session has noted it");
    }
}
